# Copyright The opentelemetry-instrumentation-dspy Authors
# SPDX-License-Identifier: Apache-2.0
"""A package or image reads each environment variable in ``deploy/``."""

from __future__ import annotations

import re
from collections.abc import Iterator
from importlib.metadata import version
from typing import Any

import opentelemetry.environment_variables
import opentelemetry.sdk.environment_variables
import pytest
from packaging.version import Version

from opentelemetry.instrumentation.dspy import environment_variables as instrumentation_variables
from tests.unit.deploy.files import DEPLOY, MLFLOW, SERVICES, collector_variables, pod_specs

# Read by others than MLflow and OpenTelemetry, with where that is documented.
OTHERS = {
    "GOMEMLIMIT",  # Go's runtime
    "HOME",
    "POD_UID",  # used in OTEL_RESOURCE_ATTRIBUTES
    "PGPASSWORD",  # libpq
    "PGDATA",  # the image of PostgreSQL
    "POSTGRES_DB",
    "POSTGRES_USER",
    "POSTGRES_PASSWORD",
    "MINIO_ROOT_USER",  # MinIO
    "MINIO_ROOT_PASSWORD",
    "AWS_ACCESS_KEY_ID",  # boto3
    "AWS_SECRET_ACCESS_KEY",
    "S3_ACCESS_KEY_ID",  # tempo.yaml and the jobs that make buckets
    "S3_SECRET_ACCESS_KEY",
    "LITELLM_LOCAL_MODEL_COST_MAP",  # litellm
    "MLFLOW_DEFAULT_EXPERIMENT_ID",  # arguments of set_up.py
    "MLFLOW_SUPPORT_EXPERIMENT_ID",
}
SAMPLERS = ("always_on", "always_off", "traceidratio")
CONTENT_MODES = {"NO_CONTENT", "SPAN_ONLY", "EVENT_ONLY", "SPAN_AND_EVENT"}


def _environments() -> Iterator[tuple[str, dict[str, Any]]]:
    for name, service in SERVICES.items():
        yield f"compose {name}", service.get("environment", {})
    for name, spec in pod_specs().items():
        for container in (*spec.get("initContainers", ()), *spec["containers"]):
            yield (
                f"kubernetes {name} {container['name']}",
                {entry["name"]: entry.get("value", "") for entry in container.get("env", ())},
            )


ENVIRONMENTS = dict(_environments())
PROGRAMS = {name: values for name, values in ENVIRONMENTS.items() if " program" in name}


def _known() -> set[str]:
    # Here: at the top, each worker would import them while it collects the tests.
    import mlflow.cli
    import mlflow.environment_variables

    constants = {
        value
        for module in (
            opentelemetry.environment_variables,
            opentelemetry.sdk.environment_variables,
            instrumentation_variables,
        )
        for value in vars(module).values()
        if isinstance(value, str)
    }
    options = {
        variable
        for command in mlflow.cli.cli.commands.values()
        for parameter in command.params
        for variable in _variables(parameter.envvar)
    }
    script = (DEPLOY / "kubernetes/base/mlflow/set_up.py").read_text("utf-8")
    read = set(re.findall(r'environ\["([A-Z_]+)"\]', script))
    collectors = collector_variables("gateway") | collector_variables("sampler")
    return (
        OTHERS | constants | options | read | collectors | set(vars(mlflow.environment_variables))
    )


def _variables(value: Any) -> tuple[str, ...]:
    return (value,) if isinstance(value, str) else tuple(value or ())


@pytest.mark.skipif(
    Version(version("mlflow")) < Version(MLFLOW), reason=f"deployed is MLflow {MLFLOW}"
)
@pytest.mark.parametrize("name", ENVIRONMENTS)
def test_every_variable_is_one_that_is_read(name: str) -> None:
    # The two of the client are read by mlflow.utils.credentials, which has no constants for them.
    client = {"MLFLOW_TRACKING_URI", "MLFLOW_TRACKING_USERNAME", "MLFLOW_TRACKING_PASSWORD"}

    assert set(ENVIRONMENTS[name]) - _known() - client == set()


def test_the_program_is_deployed_in_both_ways_with_the_same_variables() -> None:
    compose, kubernetes = (set(values) for _, values in sorted(PROGRAMS.items()))

    assert compose - {"LITELLM_LOCAL_MODEL_COST_MAP"} == kubernetes - {"POD_UID"}


@pytest.mark.parametrize("name", PROGRAMS)
def test_the_program_has_values_that_mean_something(name: str) -> None:
    values = PROGRAMS[name]

    assert values["OTEL_TRACES_EXPORTER"] == "otlp"
    assert values["OTEL_EXPORTER_OTLP_PROTOCOL"] == "http/protobuf"
    assert values["OTEL_EXPORTER_OTLP_ENDPOINT"].endswith(":4318")
    assert values["OTEL_INSTRUMENTATION_GENAI_CAPTURE_MESSAGE_CONTENT"] in CONTENT_MODES
    assert int(values["OTEL_BSP_MAX_QUEUE_SIZE"]) > 2048
    assert "mlflow.experiment=" in values["OTEL_RESOURCE_ATTRIBUTES"]


def test_the_sampler_of_the_program_is_one_of_the_specification() -> None:
    known = {f"{parent}{kind}" for parent in ("", "parentbased_") for kind in SAMPLERS}

    assert {values["OTEL_TRACES_SAMPLER"] for values in PROGRAMS.values()} <= known
