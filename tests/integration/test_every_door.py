# Copyright The opentelemetry-instrumentation-dspy Authors
# SPDX-License-Identifier: Apache-2.0
"""Every setting, by every way in which a program can come to the bridge: its value, and its effect.

The ways are: `autolog` by the environment, by names and by a configuration; a processor put in by
hand with nothing, a configuration or an exporter; ``opentelemetry-instrument`` by the environment
and by a declarative file.
"""

from __future__ import annotations

import base64
import json
import logging
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from mlflow_bridge._config.settings import (
    INSTRUMENT_ARGUMENTS,
    SAMPLING_FIELDS,
    MLflowDSPyConfig,
    environment_variable,
)
from tests.integration.traced_program import Finished, run_program
from tests.support.children import SDK
from tests.support.fake_tracking_server import FakeTrackingServer, spans_in
from tests.support.loopback import HttpRequest

pytestmark = pytest.mark.integration

EVERYWHERE: dict[str, tuple[Any, str]] = {
    "headers": ({"x-team": "shop"}, "x-team=shop"),
    "compression": ("none", "none"),
    "request_timeout_seconds": (77.0, "77"),
    "exit_timeout_seconds": (55.0, "55"),
    "flush_on_sigterm": (False, "false"),
    "max_queue_size": (1234, "1234"),
    "max_queue_bytes": (2_000_000, "2000000"),
    "overflow": ("block", "block"),
    "block_seconds": (0.5, "0.5"),
    "max_spill_queue_size": (567, "567"),
    "max_spill_queue_bytes": (3_000_000, "3000000"),
    "traces": ("all", "all"),
    "custom_tags": ({"team": "search"}, "team=search"),
    "custom_metadata": ({"release": "7"}, "release=7"),
    "trace_metadata": ("full", "full"),
    "program_tags": (False, "false"),
    "drop_asgi_io_spans": (False, "false"),
    "max_batch_size": (3, "3"),
    "max_batch_bytes": (70_000, "70000"),
    "schedule_delay_seconds": (3000.0, "3000"),
    "max_attribute_bytes": (1024, "1024"),
    "spool": (True, "true"),
    "spool_max_bytes": (70_000, "70000"),
    "spool_max_age_seconds": (99.0, "99"),
    "spool_fsync": ("batch", "batch"),
    "write_ahead": (True, "true"),
    "sampling_rate": (0.999999, "0.999999"),
    "sampling_modules": ({"RAG": 0.5}, "RAG=0.5"),
    "sampling_key": ("session", "session"),
    "sampling_optimizers": ("summary", "summary"),
    "sampling_evaluations": ("off", "off"),
    "sampling_summary_rate": (0.25, "0.25"),
    "tail_rate": (0.5, "0.5"),
    "tail_keep_errors": (False, "false"),
    "tail_slower_than_seconds": (5.0, "5"),
    "tail_cost_above_usd": (0.1, "0.1"),
    "tail_tokens_above": (1000, "1000"),
    "tail_score_below": ({"correct": 0.5}, "correct=0.5"),
    "tail_parse_failures": (True, "true"),
    "tail_new_program_first": (20, "20"),
    "tail_agent_exhausted": (True, "true"),
    "tail_predicate": ("redactions:wanted", "redactions:wanted"),
    "tail_grace_seconds": (7.0, "7"),
    "capture_content": ("SPAN_AND_EVENT", "SPAN_AND_EVENT"),
    "log_inputs": (False, "false"),
    "log_outputs": (False, "false"),
    "log_signatures": (False, "false"),
    "log_intermediate_steps": (False, "false"),
    "adapter_steps": ("spans", "spans"),
    "resource_usage": ("all", "all"),
    "evaluation_traces": ("per_example", "per_example"),
    "max_content_length": (100, "100"),
    "redact": ("redactions:hide", "redactions:hide"),
    "module_filter": ("RAG,Chat*", "RAG,Chat*"),
    "trace_condition": ("redactions:wanted", "redactions:wanted"),
    "input_sanitizer": ("redactions:kept", "redactions:kept"),
    "output_sanitizer": ("redactions:kept", "redactions.kept"),
    "log_level": ("WARNING", "warning"),
    "workspace": ("team", "team"),
    # What false does is in tests of its own, since nothing else can be seen then.
    "enabled": (True, "true"),
    "trace_buffer_size": (77, "77"),
    "sampling_rate_of": ("redactions:rate", "redactions:rate"),
    "sampling_key_of": ("redactions:key", "redactions.key"),
    # Without an effect yet.
    "log_evals": (True, "true"),
    "log_compiles": (True, "true"),
    "register_prompts": (True, "true"),
    "save_programs": (False, "false"),
}
BY_PASSWORD: dict[str, tuple[Any, str]] = {
    "experiment_name": ("by-name", "by-name"),
    "tracking_username": ("ada", "ada"),
    "tracking_password": ("engine", "engine"),
    # Files in the directory of the test.
    "server_cert_path": ("ca.pem", "ca.pem"),
    "client_cert_path": ("me.pem", "me.pem"),
}
BY_PLUGIN: dict[str, tuple[Any, str]] = {
    "experiment_id": ("1", "1"),
    "tracking_token": ("unused", "unused"),
    "tracking_auth": ("badge", "badge"),
    "insecure_tls": (True, "true"),
}
GROUPS = {"by password": BY_PASSWORD, "by plugin": BY_PLUGIN}

PLUGIN = """
from requests.auth import AuthBase

class Badge(AuthBase):
    def __call__(self, request):
        request.headers["x-badge"] = "7"
        return request

class Provider:
    def get_name(self):
        return "badge"

    def get_auth(self):
        return Badge()
"""

FUNCTIONS = """
def hide(operation, field, value):
    return "-"

def wanted(inputs):
    return True

def kept(values):
    return values

def rate(call):
    return 1.0

def key(call):
    return "all"
"""

REPORT = """
import json, logging, signal
from pathlib import Path
from opentelemetry.instrumentation.dspy import DSPyInstrumentor
from mlflow_bridge._delivery.registry import registered_processors

def plain(value):
    if hasattr(value, "get_secret_value"):
        return value.get_secret_value()
    if hasattr(value, "value"):
        return value.value
    if hasattr(value, "patterns"):
        return ",".join(value.patterns)
    if callable(value):
        return f"{value.__module__}:{value.__qualname__}"
    if isinstance(value, dict):
        return {key: plain(item) for key, item in value.items()}
    return str(value) if isinstance(value, Path) else value

def report(door, provider):
    processor = registered_processors()[-1]
    config = processor.config
    tracer = provider.get_tracer("program")
    spool = Path(config.spool_directory)
    written_before = sum(file.stat().st_size for file in spool.glob("*/*.jsonl"))
    tracer.start_span(f"{door} 0", attributes={"text": "x" * 5000}).end()
    written = sum(file.stat().st_size for file in spool.glob("*/*.jsonl"))
    for number in range(1, 5):
        tracer.start_span(f"{door} {number}").end()
    assert processor.force_flush(60_000)
    settings = DSPyInstrumentor().settings
    print(json.dumps({
        "door": door,
        "values": {name: plain(getattr(config, name)) for name in type(config).model_fields},
        "capacity": processor.status().queue_capacity,
        "written ahead": written > written_before,
        "sampler": provider.sampler.get_description(),
        "log levels": [
            logging.getLogger(name).level
            for name in ("mlflow_bridge", "opentelemetry.instrumentation.dspy")
        ],
        "sigterm": type(signal.getsignal(signal.SIGTERM)).__name__,
        "recorded": {
            name: plain(getattr(settings, name))
            for name in (
                "content_mode", "capture_inputs", "capture_outputs", "capture_signatures",
                "capture_intermediate_steps", "adapter_steps", "resource_usage",
                "evaluation_traces", "max_content_length", "redact", "module_filter",
                "trace_condition", "input_sanitizer", "output_sanitizer",
            )
        },
    }))
"""

BY_ENVIRONMENT = """
import mlflow_bridge
from opentelemetry.sdk.trace import TracerProvider
from mlflow_bridge import DSPySampler, MLflowBatchSpanProcessor

mlflow_bridge.autolog()
report("autolog by environment", trace.get_tracer_provider())
mlflow_bridge.disable_autolog()

provider = TracerProvider(sampler=DSPySampler())
processor = MLflowBatchSpanProcessor()
provider.add_span_processor(processor)
DSPyInstrumentor().instrument(**processor.config.instrument_arguments())
report("by hand with nothing", provider)
"""

BY_ARGUMENTS = """
import mlflow_bridge
from opentelemetry.sdk.trace import TracerProvider
from mlflow_bridge import (
    DSPySampler, MLflowBatchSpanProcessor, MLflowDSPyConfig, MLflowSpanExporter,
)

settings = json.loads(SETTINGS)
mlflow_bridge.autolog(**settings)
report("autolog by names", trace.get_tracer_provider())
mlflow_bridge.disable_autolog()

config = MLflowDSPyConfig(**settings)
mlflow_bridge.autolog(config)
report("autolog by a configuration", trace.get_tracer_provider())
mlflow_bridge.disable_autolog()

DSPyInstrumentor().instrument(**config.instrument_arguments())
for door, given in (
    ("by hand with a configuration", config),
    ("by hand with an exporter", MLflowSpanExporter(**settings)),
):
    provider = TracerProvider(sampler=DSPySampler(config))
    provider.add_span_processor(MLflowBatchSpanProcessor(given))
    report(door, provider)
"""

DECLARATIVE = """\
file_format: "1.0"
tracer_provider:
  processors:
    - batch:
        exporter:
          mlflow: {settings}
"""


@dataclass
class Surroundings:
    """A server, and the settings that point at it."""

    server: FakeTrackingServer
    directory: Path
    settings: dict[str, tuple[Any, str]]

    def arguments(self) -> dict[str, Any]:
        return {name: value for name, (value, _) in self.settings.items()}

    def environment(self) -> dict[str, str]:
        return {environment_variable(name): text for name, (_, text) in self.settings.items()}

    def run(
        self, source: str, environment: dict[str, str] | None = None, *, zero_code: bool = False
    ) -> Finished:
        surroundings = {
            # Which the helper sets for programs that make a store; here it is one under test.
            "MLFLOW_DSPY_EXIT_TIMEOUT_SECONDS": "",
            "PYTHONPATH": os.pathsep.join(
                [str(self.directory / "path"), os.environ.get("PYTHONPATH", "")]
            ),
        }
        return run_program(
            REPORT + source,
            self.directory,
            {**surroundings, **(environment or {})},
            zero_code=zero_code,
            zygote=SDK,
        )


@pytest.fixture(params=GROUPS)
def surroundings(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Surroundings]:
    path = tmp_path / "path"
    entry_points = path / "badge-1.0.dist-info" / "entry_points.txt"
    entry_points.parent.mkdir(parents=True)
    entry_points.write_text("[mlflow.request_auth_provider]\nbadge = badge:Provider\n")
    (path / "badge.py").write_text(PLUGIN)
    (path / "redactions.py").write_text(FUNCTIONS)
    for certificate in ("ca.pem", "me.pem"):
        (tmp_path / certificate).touch()
    server = FakeTrackingServer()
    server.add_experiment("by-name")
    with server.http:
        spool = tmp_path / "spool"
        places = {
            "tracking_uri": (server.http.url, server.http.url),
            "spool_directory": (str(spool), str(spool)),
        }
        yield Surroundings(server, tmp_path, {**places, **EVERYWHERE, **GROUPS[request.param]})


def test_all_settings_are_tried() -> None:
    tried = EVERYWHERE.keys() | BY_PASSWORD.keys() | BY_PLUGIN.keys()
    assert tried | {"tracking_uri", "spool_directory"} == MLflowDSPyConfig.model_fields.keys()


def test_by_the_environment_in_a_program(surroundings: Surroundings) -> None:
    done = surroundings.run(BY_ENVIRONMENT, surroundings.environment())
    assert done.stderr == ""
    reports = check_all(done, surroundings)
    assert reports.keys() == {"autolog by environment", "by hand with nothing"}
    for report in reports.values():
        check_sampler(report)


def test_by_arguments(surroundings: Surroundings) -> None:
    settings = f"SETTINGS = {json.dumps(surroundings.arguments())!r}\n"
    done = surroundings.run(settings + BY_ARGUMENTS)
    assert done.stderr == ""
    reports = check_all(done, surroundings)
    assert len(reports) == 4
    for report in reports.values():
        check_sampler(report)


def test_by_the_environment_under_opentelemetry_instrument(surroundings: Surroundings) -> None:
    environment = {"OTEL_TRACES_EXPORTER": "mlflow", "OTEL_TRACES_SAMPLER": "dspy"}
    done = surroundings.run(
        "report('environment', trace.get_tracer_provider())",
        {**surroundings.environment(), **environment},
        zero_code=True,
    )
    check_sampler(check_all(done, surroundings)["environment"])


def test_by_a_declarative_file(surroundings: Surroundings) -> None:
    pytest.importorskip("opentelemetry.configuration", reason="file configuration not installed")
    file = surroundings.directory / "otel.yaml"
    # JSON is YAML.
    file.write_text(DECLARATIVE.format(settings=json.dumps(surroundings.arguments())))
    done = surroundings.run(
        "report('file', trace.get_tracer_provider())",
        {"OTEL_CONFIG_FILE": str(file)},
        zero_code=True,
    )
    check_all(done, surroundings)
    # The sampler is the file's own to name.
    [line] = done.log_lines("no effect")
    assert all(environment_variable(name) in line for name in SAMPLING_FIELDS)
    assert "DSPySampler" in line


def check_all(done: Finished, surroundings: Surroundings) -> dict[str, dict[str, Any]]:
    reports = [json.loads(line) for line in done.stdout.splitlines() if line.startswith("{")]
    for report in reports:
        check_values(report, surroundings)
        check_delivery(report, surroundings)
        check_what_is_recorded(report)
    return {report["door"]: report for report in reports}


def check_values(report: dict[str, Any], surroundings: Surroundings) -> None:
    given = surroundings.arguments()
    assert {name: report["values"][name] for name in given} == given, report["door"]


def check_delivery(report: dict[str, Any], surroundings: Surroundings) -> None:
    assert report["capacity"] == 1234 + 567
    assert report["written ahead"]
    assert report["log levels"] == [logging.WARNING] * 2
    assert report["sigterm"] == "Handlers"  # SIG_DFL
    requests = requests_of(report["door"], surroundings.server)
    sizes = [len(spans_in(request)) for request in requests]
    assert sum(sizes) == 5  # with plain spans, so not filtered
    assert max(sizes) <= 3
    for request in requests:
        check_request(request, by_plugin="tracking_auth" in surroundings.settings)


def requests_of(door: str, server: FakeTrackingServer) -> list[HttpRequest]:
    requests = [it for it in server.requests if it.path == "/v1/traces"]
    return [it for it in requests if any(name.startswith(f"{door} ") for name in spans_in(it))]


def check_request(request: HttpRequest, *, by_plugin: bool) -> None:
    headers = request.headers
    assert headers["x-team"] == "shop"
    assert headers["x-mlflow-experiment-id"] == "1"
    assert headers["x-mlflow-workspace"] == "team"
    assert headers.get("content-encoding") is None
    if by_plugin:
        assert headers["x-badge"] == "7"
    else:
        credentials = base64.b64encode(b"ada:engine").decode()
        assert headers["authorization"] == f"Basic {credentials}"
    assert b"x" * 1100 not in request.body


def check_what_is_recorded(report: dict[str, Any]) -> None:
    assert report["recorded"] == {
        "content_mode": "SPAN_AND_EVENT",
        "capture_inputs": False,
        "capture_outputs": False,
        "capture_signatures": False,
        "capture_intermediate_steps": False,
        "adapter_steps": "spans",
        "resource_usage": "all",
        "evaluation_traces": "per_example",
        "max_content_length": 100,
        "redact": "redactions:hide",
        "module_filter": "RAG,Chat*",
        "trace_condition": "redactions:wanted",
        "input_sanitizer": "redactions:kept",
        "output_sanitizer": "redactions:kept",
    }
    assert len(report["recorded"]) == len(INSTRUMENT_ARGUMENTS)


def check_sampler(report: dict[str, Any]) -> None:
    described = [f"{name.removeprefix('sampling_')}=" for name in SAMPLING_FIELDS]
    assert all(name in report["sampler"] for name in described), report["sampler"]
