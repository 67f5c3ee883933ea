# Copyright The opentelemetry-instrumentation-dspy Authors
# SPDX-License-Identifier: Apache-2.0
"""The configurations of the collectors: known options, whole pipelines, names that exist."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

import pytest

from mlflow_bridge._export.mapping.span_types import span_type
from tests.support.registry import REGISTRY
from tests.unit.deploy.collector_options import OPTIONS, SERVICE, Choice, Duration
from tests.unit.deploy.files import BASE, COLLECTORS, collector

REFERENCE = re.compile(r"\$\{env:[A-Z_]+\}")
# What is no span attribute of ours: what MLflow reads, and what the program's resource says.
MLFLOW_NAMES = {
    "mlflow.spanType",
    "mlflow.spanInputs",
    "mlflow.spanOutputs",
    "mlflow.traceTag.mlflow.traceName",
}
RESOURCE_NAMES = {
    "service.name",
    "service.version",
    "deployment.environment.name",
    "mlflow.experiment",
}
SAMPLER = collector("sampler")
POLICIES: list[dict[str, Any]] = SAMPLER["processors"]["tail_sampling"]["policies"]
STATEMENTS: list[str] = SAMPLER["processors"]["transform/mlflow"]["trace_statements"][1][
    "statements"
]


def problems(value: Any, form: Any, place: str) -> Iterator[str]:
    """What of a configuration is not of this form."""
    if form is ... or (isinstance(value, str) and REFERENCE.fullmatch(value)):
        return
    if isinstance(form, dict):
        yield from _problems_of_mapping(value, form, place)
    elif isinstance(form, list):
        if not isinstance(value, list):
            yield f"{place}: not a list"
            return
        for number, item in enumerate(value):
            yield from problems(item, form[0], f"{place}[{number}]")
    elif not _fits(value, form):
        yield f"{place}: {value!r}"


def _problems_of_mapping(value: Any, form: dict[str, Any], place: str) -> Iterator[str]:
    if not isinstance(value, dict):
        yield f"{place}: not a mapping"
        return
    for key, inner in value.items():
        if key in form:
            yield from problems(inner, form[key], f"{place}.{key}")
        else:
            yield f"{place}: there is no option {key!r}"


def _fits(value: Any, form: Any) -> bool:
    if isinstance(form, Choice):
        return value in form.values
    if form is Duration:
        return isinstance(value, str) and re.fullmatch(r"(\d+(ms|s|m|h))+", value) is not None
    if form is float:
        return isinstance(value, (int, float)) and not isinstance(value, bool)
    return type(value) is form


def _all_problems(configuration: dict[str, Any]) -> list[str]:
    found = [f"there is no section {key!r}" for key in set(configuration) - {*OPTIONS, "service"}]
    for section, components in OPTIONS.items():
        for name, options in configuration.get(section, {}).items():
            kind = name.partition("/")[0]
            if kind in components:
                found += problems(options, components[kind], f"{section}.{name}")
            else:
                found.append(f"{section}: there is no component {kind!r}")
    return found + list(problems(configuration["service"], SERVICE, "service"))


def _used(configuration: dict[str, Any], section: str) -> set[str]:
    if section == "extensions":
        return set(configuration["service"]["extensions"])
    pipelines = configuration["service"]["pipelines"].values()
    keys = ("receivers", "exporters") if section == "connectors" else (section,)
    return {name for pipeline in pipelines for key in keys for name in pipeline.get(key, ())}


@pytest.mark.parametrize("tier", COLLECTORS)
def test_every_option_is_known_and_of_the_right_type(tier: str) -> None:
    assert _all_problems(collector(tier)) == []


@pytest.mark.parametrize(
    ("section", "component", "options"),
    [
        ("exporters", "otlp_http/mlflow_default", {"endpont": "x"}),
        ("exporters", "otlp_http/mlflow_default", {"timeout": 60}),
        ("exporters", "otlp_http/mlflow_default", {"compression": "brotli"}),
        ("exporters", "otlp_htpp", {}),
        ("processors", "tail_sampling", {"policies": [{"type": "latency", "latency": {"ms": 1}}]}),
        ("extensions", "file_storage/queue", {"compaction": {"on_boot": True}}),
    ],
)
def test_mistakes_are_found(section: str, component: str, options: dict[str, Any]) -> None:
    configuration = collector("sampler")
    configuration[section][component] = options

    assert _all_problems(configuration) != []


@pytest.mark.parametrize("tier", COLLECTORS)
def test_what_pipelines_name_is_defined_and_what_is_defined_is_used(tier: str) -> None:
    configuration = collector(tier)
    connectors = set(configuration.get("connectors", {}))

    for section in OPTIONS:
        defined = set(configuration.get(section, {}))
        used = _used(configuration, section)
        if section in ("receivers", "exporters"):
            used -= connectors
        elif section == "connectors":
            used &= connectors
        assert used == defined, section


def test_every_connector_joins_two_pipelines_and_every_pipeline_is_fed() -> None:
    pipelines = SAMPLER["service"]["pipelines"]
    routing = SAMPLER["connectors"]["routing/experiment"]
    routed = {name for row in routing["table"] for name in row["pipelines"]}
    routed |= set(routing["default_pipelines"])

    assert {name for name in pipelines if "routing/experiment" in pipelines[name]["receivers"]} == (
        routed
    )
    for connector in SAMPLER["connectors"]:
        assert any(connector in pipeline["exporters"] for pipeline in pipelines.values())
        assert any(connector in pipeline["receivers"] for pipeline in pipelines.values())


def test_memory_is_guarded_where_spans_come_in() -> None:
    assert collector("gateway")["service"]["pipelines"]["traces"]["processors"][0] == (
        "memory_limiter"
    )
    assert SAMPLER["service"]["pipelines"]["traces/in"]["processors"][0] == "memory_limiter"


def test_every_queue_of_the_sampler_is_on_disk_and_tried_until_it_is_empty() -> None:
    for name, exporter in SAMPLER["exporters"].items():
        assert exporter["sending_queue"]["storage"] in SAMPLER["extensions"], name
        assert exporter["retry_on_failure"]["max_elapsed_time"] == "0s", name


def test_every_exporter_to_mlflow_has_an_experiment_of_its_own_and_a_user() -> None:
    exporters = {name: e for name, e in SAMPLER["exporters"].items() if "mlflow" in name}
    experiments = [e["headers"]["x-mlflow-experiment-id"] for e in exporters.values()]

    assert len(set(experiments)) == len(exporters) == 2
    assert all(e["auth"]["authenticator"] in SAMPLER["extensions"] for e in exporters.values())
    assert all(e["compression"] in ("gzip", "deflate", "none") for e in exporters.values())


def test_the_gateway_sends_all_spans_of_a_trace_to_one_sampler() -> None:
    assert collector("gateway")["exporters"]["load_balancing"]["routing_key"] == "traceID"


def test_the_composite_policy_is_whole() -> None:
    (policy,) = POLICIES
    composite = policy["composite"]
    names = [sub_policy["name"] for sub_policy in composite["composite_sub_policy"]]
    allocation = {entry["policy"]: entry["percent"] for entry in composite["rate_allocation"]}

    assert composite["policy_order"] == names
    assert set(allocation) == set(names)
    assert sum(allocation.values()) == 100


def test_every_policy_has_the_settings_of_its_type() -> None:
    (policy,) = POLICIES
    for entry in (policy, *policy["composite"]["composite_sub_policy"]):
        assert set(entry) == {"name", "type", entry["type"]}


def _attribute_names(text: str) -> set[str]:
    return set(re.findall(r'attributes\["([^"]+)"\]', text)) | set(
        re.findall(r"^ +key: (\S+)$", text, re.MULTILINE)
    )


def test_policies_and_statements_name_attributes_that_the_registry_has() -> None:
    names = _attribute_names((BASE / "collector" / "sampler.yaml").read_text("utf-8"))

    assert "dspy.agent.termination" in names
    assert names - MLFLOW_NAMES - RESOURCE_NAMES - set(REGISTRY) == set()


def test_policies_name_values_that_the_registry_has() -> None:
    (policy,) = POLICIES
    for entry in policy["composite"]["composite_sub_policy"]:
        if entry["type"] == "string_attribute":
            settings = entry["string_attribute"]
            assert set(settings["values"]) <= REGISTRY[settings["key"]].members


def _span_type_by_the_statements(attributes: dict[str, str]) -> str | None:
    found = None
    for statement in STATEMENTS:
        match = re.match(
            r'set\(attributes\["mlflow\.spanType"\], "([A-Z_]+)"\) where (.*)', statement
        )
        if match and all(
            attributes.get(name) == value
            for name, value in re.findall(r'attributes\["([^"]+)"\] == "([^"]+)"', match[2])
        ):
            found = match[1]
    return found


@pytest.mark.parametrize("operation", sorted(REGISTRY["dspy.operation"].members))
def test_the_collector_gives_spans_the_type_that_the_bridge_gives_them(operation: str) -> None:
    for genai in ("chat", "invoke_agent", "invoke_workflow", "text_completion", None):
        if genai in ("chat", "text_completion") and operation != "lm":
            continue
        if genai in ("invoke_agent", "invoke_workflow") and operation != "module":
            continue
        attributes = {"dspy.operation": operation}
        if genai is not None:
            attributes["gen_ai.operation.name"] = genai
        assert _span_type_by_the_statements(attributes) == span_type(attributes), attributes


def test_the_collectors_resource_attributes_are_those_that_programs_set() -> None:
    resource = SAMPLER["processors"]["transform/mlflow"]["trace_statements"][0]["statements"][0]
    condition = SAMPLER["connectors"]["routing/experiment"]["table"][0]["condition"]

    assert set(re.findall(r'"([a-z.]+)"', resource)) == RESOURCE_NAMES
    assert _attribute_names(condition) <= RESOURCE_NAMES
