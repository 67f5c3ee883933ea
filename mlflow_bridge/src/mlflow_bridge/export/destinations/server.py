# Copyright The opentelemetry-instrumentation-dspy Authors
# SPDX-License-Identifier: Apache-2.0
"""To an MLflow tracking server, as OTLP over HTTP. Needs nothing of MLflow in this process.

Neither MLflow's own client nor OpenTelemetry's exporter sends: the first remembers a failed probe
for ever and can block for minutes, the second gives up on a 500 and a timeout and takes a redirect
for a success.
"""

from __future__ import annotations

import gzip
import logging
from typing import Any, Final

from google.protobuf.message import DecodeError
from opentelemetry.exporter.otlp.proto.common.trace_encoder import encode_spans
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceResponse

from mlflow_bridge.config import MLflowDSPyConfig
from mlflow_bridge.export.batches import Batch
from mlflow_bridge.export.destinations.http import Answer, TrackingServer
from mlflow_bridge.export.outcomes import Outcome, Rejected, Retry, Sent

logger = logging.getLogger(__name__)

_TRACES_PATH: Final = "/v1/traces"
_EXPERIMENTS_PATH: Final = "/api/2.0/mlflow/experiments"
_EXPERIMENT_HEADER: Final = "x-mlflow-experiment-id"
_RUN_HEADER: Final = "x-mlflow-run-id"
_PROTOBUF: Final = "application/x-protobuf"
_UNDERSTOOD_TYPES: Final = frozenset(
    {_PROTOBUF, "application/json", "application/octet-stream", ""}
)
_MISSING: Final = "RESOURCE_DOES_NOT_EXIST"
# A small request is one packet either way.
_MIN_COMPRESSED: Final = 1024


class ServerDestination:
    """Sends spans to a tracking server. Used by one thread at a time, after construction.

    Args:
        config: Names the server, the credentials and the experiment.

    Raises:
        ConfigurationError: The authentication plugin that the configuration names is not installed.
    """

    def __init__(self, config: MLflowDSPyConfig) -> None:
        self._config = config
        self._server = TrackingServer(config)
        self._experiment_id: str | None = None

    def warm_up(self) -> Retry | Rejected | None:
        """Look up the experiment."""
        found = self._resolve_experiment()
        return None if isinstance(found, str) else found

    def send(self, batch: Batch) -> Outcome:
        """Make one request with the batch."""
        experiment = batch.experiment_id or self._resolve_experiment()
        if not isinstance(experiment, str):
            return experiment
        headers = {"Content-Type": _PROTOBUF, _EXPERIMENT_HEADER: experiment}
        if batch.run_id is not None:
            headers[_RUN_HEADER] = batch.run_id
        body = encode_spans([item.span for item in batch.spans]).SerializeToString()
        if self._config.compression == "gzip" and len(body) >= _MIN_COMPRESSED:
            headers["Content-Encoding"] = "gzip"
            body = gzip.compress(body, compresslevel=1)
        answer = self._server.request("POST", _TRACES_PATH, body=body, headers=headers)
        outcome = _outcome(answer, len(batch.spans))
        if isinstance(outcome, Rejected):
            self._experiment_id = None  # It may have been deleted: look it up again.
        return outcome

    def close(self) -> None:
        """Close kept connections."""
        self._server.close()

    def _resolve_experiment(self) -> str | Retry | Rejected:
        if self._experiment_id is not None:
            return self._experiment_id
        found = self._find_or_create_experiment()
        if isinstance(found, (Retry, Rejected)):
            return found
        identifier, name = str(found.get("experiment_id", "")), found.get("name")
        if found.get("lifecycle_stage", "active") != "active":
            # MLflow would take the spans, and nobody would ever see them.
            return Rejected(
                "the experiment is deleted (MLFLOW_EXPERIMENT_NAME, MLFLOW_EXPERIMENT_ID): "
                f"{name!r}, id {identifier}; restore it or choose another",
                divisible=False,
            )
        self._experiment_id = identifier
        return identifier

    def _find_or_create_experiment(self) -> dict[str, Any] | Retry | Rejected:
        name = self._config.effective_experiment_name
        if name is None:
            identifier = str(self._config.experiment_id)
            return self._lookup("get", experiment_id=identifier) or _no_experiment(identifier)
        found = self._lookup("get-by-name", experiment_name=name)
        if found is not None:
            return found
        created = self._server.request(
            "POST", f"{_EXPERIMENTS_PATH}/create", payload={"name": name}
        )
        if isinstance(created, (Retry, Rejected)):
            return created
        # Also when another process was faster.
        if created.ok or created.error_code == "RESOURCE_ALREADY_EXISTS":
            return self._lookup("get-by-name", experiment_name=name) or _no_experiment(name)
        return _about_request(created)

    def _lookup(self, operation: str, **query: str) -> dict[str, Any] | Retry | Rejected | None:
        """The experiment; ``None`` if there is none."""
        answer = self._server.request("GET", f"{_EXPERIMENTS_PATH}/{operation}", query=query)
        if isinstance(answer, (Retry, Rejected)):
            return answer
        if answer.ok:
            return answer.json.get("experiment") or _no_tracking_server(
                "its answer is no experiment"
            )
        return None if answer.error_code == _MISSING else _about_request(answer)


def _no_experiment(which: str) -> Rejected:
    return Rejected(
        "there is no such experiment on the tracking server "
        f"(MLFLOW_EXPERIMENT_ID, MLFLOW_EXPERIMENT_NAME): {which}",
        divisible=False,
    )


def _no_tracking_server(detail: str) -> Rejected:
    return Rejected(
        f"there is no MLflow tracking server at this address (MLFLOW_TRACKING_URI): {detail}",
        divisible=False,
    )


def _about_request(answer: Answer) -> Rejected:
    """The failure of a request that carried no spans: there is nothing to divide."""
    return Rejected(answer.as_failure().reason, divisible=False)


def _outcome(answer: Answer | Retry | Rejected, spans: int) -> Outcome:
    if isinstance(answer, (Retry, Rejected)):
        return answer
    if not answer.ok:
        return _about_request(answer) if answer.error_code == _MISSING else answer.as_failure()
    if answer.content_type not in _UNDERSTOOD_TYPES:
        # Such as the log-in page of a proxy.
        return _no_tracking_server(f"it answered with {answer.content_type}")
    return _accepted(answer, spans)


def _accepted(answer: Answer, spans: int) -> Outcome:
    if answer.content_type == "application/json":
        partial: dict[str, Any] = answer.json.get("partialSuccess") or {}
        rejected, message = int(partial.get("rejectedSpans") or 0), partial.get("errorMessage", "")
    else:
        response = ExportTraceServiceResponse()
        try:
            response.ParseFromString(answer.body)
        except DecodeError:
            return Retry("the tracking server's answer is damaged (MLFLOW_TRACKING_URI)")
        rejected = response.partial_success.rejected_spans
        message = response.partial_success.error_message
    if rejected <= 0:
        return Sent(spans)
    rejected = min(rejected, spans)
    # OTLP forbids to send a partly accepted request again.
    return Sent(spans - rejected, rejected, f"the tracking server left spans out: {message}")
