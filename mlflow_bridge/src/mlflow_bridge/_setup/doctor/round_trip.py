# Copyright The opentelemetry-instrumentation-dspy Authors
# SPDX-License-Identifier: Apache-2.0
"""The check that sends a trace to MLflow and reads it back."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Final, cast

from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.sdk.trace.id_generator import RandomIdGenerator
from opentelemetry.sdk.util.instrumentation import InstrumentationScope
from opentelemetry.trace import SpanContext, TraceFlags, format_trace_id

from mlflow_bridge._config.settings import MLflowDSPyConfig
from mlflow_bridge._export.contract import Rejected, Retry, kind_of
from mlflow_bridge._export.exporter import MLflowSpanExporter
from mlflow_bridge._export.server.client import TrackingServer
from mlflow_bridge._setup.doctor import Check
from mlflow_bridge._spans.names import DOCTOR_TAG, TRACE_TAG_PREFIX

NAME: Final = "mlflow_bridge doctor"
_ATTEMPTS: Final = 3
_PAUSE_SECONDS: Final = 1.0


def check_destination(config: MLflowDSPyConfig) -> Iterator[Check]:
    """Connect to MLflow, look up the experiment, send a trace and read it back.

    Raises:
        ConfigurationError: A package that the destination needs is not installed.
    """
    exporter = MLflowSpanExporter(config=config)
    try:
        yield from _checks(exporter, config)
    finally:
        exporter.close()


def _checks(exporter: MLflowSpanExporter, config: MLflowDSPyConfig) -> Iterator[Check]:
    obstacle = _warm_up(exporter)
    if obstacle is not None:
        about = "experiment" if "experiment" in kind_of(obstacle.reason) else "destination"
        yield Check(about, "fail", obstacle.reason)
        return
    yield Check("destination", "ok", f"{config.destination_description} answers")
    span = _span()
    outcome = exporter.deliver([span])
    if isinstance(outcome, (Retry, Rejected)):
        yield Check("round trip", "fail", outcome.reason)
        return
    yield from _read_back(config, f"tr-{format_trace_id(_context(span).trace_id)}")


def _warm_up(exporter: MLflowSpanExporter) -> Retry | Rejected | None:
    """Open the destination, with further attempts after a `Retry`; None on success."""
    obstacle = exporter.warm_up()
    for _ in range(_ATTEMPTS - 1):
        if not isinstance(obstacle, Retry):
            break
        time.sleep(_PAUSE_SECONDS)
        obstacle = exporter.warm_up()
    return obstacle


def _read_back(config: MLflowDSPyConfig, trace_id: str) -> Iterator[Check]:
    reader = _ServerReader(config) if config.is_server else _StoreReader(config)
    found = reader.find(trace_id)
    if found is None:
        yield Check("round trip", "fail", f"trace {trace_id} was stored, but cannot be read back")
        return
    yield Check(
        "experiment", "ok", f"traces arrive in the experiment with id {found.experiment_id}"
    )
    problem = reader.delete(found)
    if problem is None:
        yield Check("round trip", "ok", "a trace was stored, read back, and deleted")
    else:
        yield Check(
            "round trip",
            "warn",
            f"a trace was stored and read back, but not deleted ({problem}): {trace_id}, "
            f"with the tag {DOCTOR_TAG}",
        )


@dataclass(frozen=True)
class _Found:
    trace_id: str
    experiment_id: str


class _StoreReader:
    """Reads through MLflow's client, which a SQL store needs in any case."""

    def __init__(self, config: MLflowDSPyConfig) -> None:
        from mlflow import MlflowClient

        self._client: Any = MlflowClient(config.tracking_uri)

    def find(self, trace_id: str) -> _Found | None:
        trace = self._client.get_trace(trace_id, display=False)
        return None if trace is None else _Found(trace_id, str(trace.info.experiment_id))

    def delete(self, found: _Found) -> str | None:
        try:
            self._client.delete_traces(found.experiment_id, trace_ids=[found.trace_id])
        except Exception as error:
            return str(error)
        return None


class _ServerReader:
    """Reads through MLflow's REST API, since MLflow need not be installed in this process."""

    def __init__(self, config: MLflowDSPyConfig) -> None:
        self._server = TrackingServer(config)

    def find(self, trace_id: str) -> _Found | None:
        answer = self._server.request("GET", f"/api/3.0/mlflow/traces/{trace_id}")
        if isinstance(answer, Retry) or not answer.ok:
            return None
        place: Any = answer.json
        for key in ("trace", "trace_info", "trace_location", "mlflow_experiment", "experiment_id"):
            place = cast("dict[str, Any]", place).get(key) if isinstance(place, dict) else None
        return None if place is None else _Found(trace_id, str(place))

    def delete(self, found: _Found) -> str | None:
        payload = {"experiment_id": found.experiment_id, "request_ids": [found.trace_id]}
        answer = self._server.request(
            "POST", "/api/2.0/mlflow/traces/delete-traces", payload=payload
        )
        self._server.close()
        if isinstance(answer, Retry):
            return answer.reason
        return None if answer.ok else answer.as_failure().reason


def _span() -> ReadableSpan:
    ids = RandomIdGenerator()
    now = time.time_ns()
    return ReadableSpan(
        NAME,
        context=SpanContext(
            ids.generate_trace_id(),
            ids.generate_span_id(),
            is_remote=False,
            trace_flags=TraceFlags(TraceFlags.SAMPLED),
        ),
        attributes={TRACE_TAG_PREFIX + DOCTOR_TAG: "true"},
        instrumentation_scope=InstrumentationScope(DOCTOR_TAG),
        start_time=now,
        end_time=now,
    )


def _context(span: ReadableSpan) -> SpanContext:
    assert span.context is not None
    return span.context
