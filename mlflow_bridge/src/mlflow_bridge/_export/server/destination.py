# Copyright The opentelemetry-instrumentation-dspy Authors
# SPDX-License-Identifier: Apache-2.0
"""Delivery to an MLflow tracking server as OTLP over HTTP, without MLflow in this process.

MLflow's own client is not used because it remembers a failed probe for ever and can block for
minutes. OpenTelemetry's exporter is not used because it gives up after a 500 or a time-out, and
treats a redirect as success.
"""

from __future__ import annotations

import gzip
import logging
from typing import Any, Final, cast

from google.protobuf.json_format import Parse, ParseError
from google.protobuf.message import DecodeError
from google.protobuf.timestamp_pb2 import Timestamp
from opentelemetry.exporter.otlp.proto.common.trace_encoder import encode_spans
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceResponse
from opentelemetry.trace import format_trace_id

from mlflow_bridge._config.http_headers import is_header_value
from mlflow_bridge._config.settings import MLflowDSPyConfig, secrets_of
from mlflow_bridge._export.batches import Batch
from mlflow_bridge._export.contract import (
    NOT_STORED,
    Outcome,
    Rejected,
    Retry,
    Sent,
    TraceSight,
)
from mlflow_bridge._export.experiments import Experiment, Experiments, Found
from mlflow_bridge._export.mapping.trace_details import TraceDetails
from mlflow_bridge._export.runs.contract import (
    NewRun,
    RunFigures,
    RunStep,
    program_artifact,
    programs_run,
)
from mlflow_bridge._export.server.annotations import assessment_path, request_for
from mlflow_bridge._export.server.client import Answer, TrackingServer
from mlflow_bridge._export.server.runs import ServerRuns
from mlflow_bridge._process.outside_text import outside_text
from mlflow_bridge._process.rate_limited_log import RateLimitedLogger
from mlflow_bridge._spans.annotation import Annotation

logger = logging.getLogger(__name__)

_TRACES_PATH: Final = "/v1/traces"
_EXPERIMENTS_PATH: Final = "/api/2.0/mlflow/experiments"
_TRACE_INFOS_PATH: Final = "/api/3.0/mlflow/traces"
# States of a trace whose root is stored.
_ENDED: Final = frozenset({"OK", "ERROR"})
_EXPERIMENT_HEADER: Final = "x-mlflow-experiment-id"
_RUN_HEADER: Final = "x-mlflow-run-id"
_PROTOBUF: Final = "application/x-protobuf"
_UNDERSTOOD_TYPES: Final = frozenset(
    {_PROTOBUF, "application/json", "application/octet-stream", ""}
)
_NO_SUCH_API: Final = frozenset({404, 405, 501})
_MISSING: Final = "RESOURCE_DOES_NOT_EXIST"
# Compression does not save a packet for a smaller request.
_MIN_COMPRESSED: Final = 1024


class ServerDestination:
    """Sends spans to a tracking server. Used by one thread at a time, after construction.

    Args:
        config: Names the server, the credentials and the experiment.

    Raises:
        ConfigurationError: The authentication plugin that the configuration names is not installed.
    """

    is_loaded = True

    def __init__(self, config: MLflowDSPyConfig) -> None:
        self._config = config
        self._server = TrackingServer(config)
        self._experiments = Experiments(config, ServerExperiments(self._server))
        self._runs = ServerRuns(self._server)
        self._log = RateLimitedLogger(logger)

    def load(self) -> None:
        """Do nothing: all packages are small, and imported with this module."""

    def warm_up(self) -> Retry | Rejected | None:
        """Look up the experiment."""
        found = self._experiments.resolve(None)
        return None if isinstance(found, str) else found

    def send(self, batch: Batch) -> Outcome:
        """Make one request with the batch."""
        answer = self._post(batch)
        if isinstance(answer, Answer) and answer.error_code == _MISSING:
            # The id of the experiment may have changed, for example with a new database.
            self._experiments.forget()
            answer = self._post(batch)
        if not isinstance(answer, Answer):
            return answer
        outcome = _outcome(answer, len(batch.spans))
        if not isinstance(outcome, Sent):
            self._experiments.forget()
            return outcome
        return self._describe_all(batch) or outcome

    def look_up(self, trace_id: str) -> TraceSight | Retry | None:
        """Look a trace up by MLflow's id; None if the server has nothing of the trace."""
        found = self._trace_info(trace_id)
        if found is None or isinstance(found, Retry):
            return found
        return TraceSight(
            has_root=found.get("state") in _ENDED,
            start_ms=_milliseconds(found.get("request_time")),
        )

    def describe(self, trace_id: str, details: TraceDetails) -> Retry | None:
        """Write the details of a trace in one request, after a look at the trace."""
        info = self._trace_info(trace_id)
        if isinstance(info, Retry):
            return self._without_metadata(info)
        # MLflow takes state and duration from this request: the trace would stay in progress.
        if info is None or info.get("state") not in _ENDED:
            return None
        info.update(details.fields)
        if details.state is not None:
            info["state"] = details.state
        # MLflow merges these, so that what others have written stays.
        info["trace_metadata"] = dict(details.metadata)
        info["tags"], info["assessments"] = {}, [*details.assessments]
        answer = self._server.request(
            "POST", _TRACE_INFOS_PATH, payload={"trace": {"trace_info": info}}
        )
        if isinstance(answer, Answer) and answer.ok:
            return None
        return self._without_metadata(answer if isinstance(answer, Retry) else answer.as_failure())

    def _without_metadata(self, failure: Retry | Rejected) -> Retry | None:
        """The failure if it passes; else None, and a warning: no span may wait for metadata."""
        if isinstance(failure, Retry) and not failure.lasting:
            return failure
        self._log.warning(
            "details",
            "Traces are stored, but without their metadata: %s",
            outside_text(failure.reason, secrets=secrets_of(self._config)),
        )
        return None

    def annotate(self, annotation: Annotation) -> Outcome:
        """Store a change of an assessment or a tag in one request, or a program in three."""
        if annotation.program is not None:
            return self._save_program(annotation)
        wanted = request_for(annotation)
        answer = self._server.request(wanted.method, wanted.path, payload=wanted.payload)
        if isinstance(answer, Answer):
            if answer.ok:
                return Sent(1)
            if answer.status in _NO_SUCH_API and not answer.error_code:
                # A gateway may let spans pass only. They must not wait for an annotation for ever.
                return Rejected(f"the tracking server takes none: HTTP {answer.status}")
        found = self._trace_info(annotation.trace_id)
        if found is None or isinstance(found, Retry):
            return NOT_STORED if found is None else found
        if self._is_done(annotation, answer):
            return Sent(1)
        return answer if isinstance(answer, Retry) else answer.as_failure()

    def _save_program(self, annotation: Annotation) -> Outcome:
        assert annotation.program is not None
        run = programs_run(annotation.experiment_id)
        experiment = self._experiments.resolve(run.experiment_id)
        if not isinstance(experiment, str):
            return experiment
        digest, text = annotation.program
        return self._runs.save_artifact(experiment, run, program_artifact(digest), text) or Sent(1)

    def _is_done(self, annotation: Annotation, answer: Answer | Retry) -> bool:
        """Whether an attempt before has stored an annotation that MLflow now refuses."""
        if annotation.deleted_tag is not None:
            return isinstance(answer, Answer) and answer.error_code == _MISSING
        wanted = annotation.assessment_id
        if wanted is None:
            return False
        path = assessment_path(annotation.trace_id, wanted)
        return _succeeded(self._server.request("GET", path))

    def _trace_info(self, trace_id: str) -> dict[str, Any] | Retry | None:
        """The server's description of a trace; None if it does not know the trace."""
        answer = self._server.request("GET", f"{_TRACE_INFOS_PATH}/{trace_id}")
        if isinstance(answer, Retry):
            return answer
        if not answer.ok:
            return None if answer.error_code == _MISSING else _about_request(answer)
        trace: Any = answer.json.get("trace")
        info: Any = cast("dict[str, Any]", trace).get("trace_info") if trace else None
        if not isinstance(info, dict):
            return _no_tracking_server("its answer is not a trace")
        return cast("dict[str, Any]", info)

    def _describe_all(self, batch: Batch) -> Retry | None:
        for item in batch.spans:
            if item.details is not None:
                failure = self.describe(f"tr-{format_trace_id(item.trace_id)}", item.details)
                if failure is not None:
                    return failure  # The whole batch is sent again; a span is stored once.
        return None

    def begin_run(self, run: NewRun) -> str | Retry | Rejected:
        """Find the run with this key, or make it, and return its id."""
        experiment = self._experiments.resolve(run.experiment_id)
        return self._runs.begin(experiment, run) if isinstance(experiment, str) else experiment

    def log_step(self, run_id: str, step: RunStep) -> Retry | Rejected | None:
        """Write the metrics of one step of a run. May be repeated."""
        return self._runs.log_step(run_id, step)

    def end_run(self, run_id: str, figures: RunFigures) -> Retry | Rejected | None:
        """Write parameters and metrics of a run, and end it. May be repeated."""
        return self._runs.end(run_id, figures)

    def close(self) -> None:
        """Close kept connections."""
        self._server.close()

    def _post(self, batch: Batch) -> Answer | Retry | Rejected:
        experiment = self._experiments.resolve(batch.experiment_id)
        if not isinstance(experiment, str):
            return experiment
        headers = {"Content-Type": _PROTOBUF, _EXPERIMENT_HEADER: experiment}
        if batch.run_id is not None and self._can_be_named(batch.run_id):
            headers[_RUN_HEADER] = batch.run_id
        body = encode_spans([item.span for item in batch.spans]).SerializeToString()
        if self._config.compression == "gzip" and len(body) >= _MIN_COMPRESSED:
            headers["Content-Encoding"] = "gzip"
            body = gzip.compress(body, compresslevel=1)
        return self._server.request("POST", _TRACES_PATH, body=body, headers=headers)

    def _can_be_named(self, run_id: str) -> bool:
        """Whether the run id is valid in a header. If not, the trace is stored without a run."""
        if is_header_value(run_id):
            return True
        self._log.warning(
            "run",
            "Traces are stored, but cannot be linked to run %r: this is not a valid run id.",
            run_id,
        )
        return False


class ServerExperiments:
    """Experiment look-up through MLflow's REST API."""

    def __init__(self, server: TrackingServer) -> None:
        self._server = server

    def by_id(self, experiment_id: str) -> Found:
        return self._lookup("get", experiment_id=experiment_id)

    def by_name(self, name: str) -> Found:
        return self._lookup("get-by-name", experiment_name=name)

    def create(self, name: str) -> Found:
        answer = self._server.request("POST", f"{_EXPERIMENTS_PATH}/create", payload={"name": name})
        if isinstance(answer, Retry):
            return answer
        # The error code means that another process has created the experiment just before.
        if answer.ok or answer.error_code == "RESOURCE_ALREADY_EXISTS":
            return self.by_name(name)
        return _about_request(answer)

    def _lookup(self, operation: str, **query: str) -> Found:
        answer = self._server.request("GET", f"{_EXPERIMENTS_PATH}/{operation}", query=query)
        if isinstance(answer, Retry):
            return answer
        if not answer.ok:
            return None if answer.error_code == _MISSING else _about_request(answer)
        found: Any = answer.json.get("experiment")
        if not isinstance(found, dict):
            return _no_tracking_server("its answer is not an experiment")
        described = cast("dict[str, Any]", found)
        return Experiment(
            str(described.get("experiment_id", "")),
            str(described.get("name", "")),
            active=described.get("lifecycle_stage", "active") == "active",
        )


def _succeeded(answer: Answer | Retry) -> bool:
    return isinstance(answer, Answer) and answer.ok


def _milliseconds(time: Any) -> int:
    """A time of the server in milliseconds since 1970.

    Raises:
        ValueError: It is not a time as RFC 3339 has it.
    """
    stamp = Timestamp()
    stamp.FromJsonString(str(time))
    return stamp.ToMilliseconds()


def _no_tracking_server(detail: str) -> Retry:
    return Retry(
        f"there is no MLflow tracking server at this address (MLFLOW_TRACKING_URI): {detail}",
        lasting=True,
    )


def _about_request(answer: Answer) -> Retry:
    """The failure of a request without spans, so that spans cannot be the reason."""
    return Retry(answer.as_failure().reason, lasting=True)


def _outcome(answer: Answer, spans: int) -> Outcome:
    if not answer.ok:
        return _about_request(answer) if answer.error_code == _MISSING else answer.as_failure()
    if answer.content_type not in _UNDERSTOOD_TYPES:
        # For example the log-in page of a proxy.
        return _no_tracking_server(f"it answered with {answer.content_type}")
    return _accepted(answer, spans)


def _accepted(answer: Answer, spans: int) -> Outcome:
    try:
        partial = _otlp_response(answer).partial_success
    except (DecodeError, ParseError, ValueError):
        # The answer may come from a gateway that has not stored the spans.
        return Retry("the tracking server's answer is damaged (MLFLOW_TRACKING_URI)")
    message = partial.error_message
    if partial.rejected_spans <= 0:
        # In OTLP, a message without rejected spans is a warning.
        return Sent(spans, reason=f"the tracking server warns: {message}" if message else "")
    rejected = min(partial.rejected_spans, spans)
    # OTLP does not allow a partly accepted request to be sent again.
    return Sent(spans - rejected, rejected, f"the tracking server rejected spans: {message}")


def _otlp_response(answer: Answer) -> ExportTraceServiceResponse:
    """The OTLP response in the answer to an accepted request.

    Raises:
        DecodeError, ParseError, ValueError: The answer is not a valid OTLP response.
    """
    if answer.content_type == "application/json":
        return Parse(answer.body.strip() or b"{}", ExportTraceServiceResponse())
    return ExportTraceServiceResponse.FromString(answer.body)
