# Copyright The opentelemetry-instrumentation-dspy Authors
# SPDX-License-Identifier: Apache-2.0
"""Runs at a tracking server, through MLflow's REST API."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final, cast
from urllib.parse import quote, urlsplit

from mlflow_bridge._export.contract import Rejected, Retry
from mlflow_bridge._export.runs.contract import RUN_KEY_TAG, NewRun, RunFigures, RunStep
from mlflow_bridge._export.server.client import Answer, TrackingServer

_PATH: Final = "/api/2.0/mlflow/runs"
_ARTIFACTS: Final = "/api/2.0/mlflow-artifacts/artifacts"


class ServerRuns:
    """Runs of a tracking server. Used by one thread at a time.

    Args:
        server: The server.
    """

    def __init__(self, server: TrackingServer) -> None:
        self._server = server

    def begin(self, experiment_id: str, run: NewRun) -> str | Retry | Rejected:
        """Find the run with this key, or make it, and return its id."""
        found = self._post(
            "search",
            {
                "experiment_ids": [experiment_id],
                "filter": f"tags.`{RUN_KEY_TAG}` = '{run.key}'",
                "max_results": 1,
            },
        )
        if isinstance(found, (Retry, Rejected)):
            return found
        known = cast("list[dict[str, Any]]", found.get("runs") or [])
        if known:
            return _id_of(known[0])
        made = self._post(
            "create",
            {
                "experiment_id": experiment_id,
                "run_name": run.name,
                "start_time": run.start_ms,
                "tags": _items(run.tags),
            },
        )
        return made if isinstance(made, (Retry, Rejected)) else _id_of(made.get("run"))

    def log_step(self, run_id: str, step: RunStep) -> Retry | Rejected | None:
        """Write the metrics of one step of a run. May be repeated."""
        metrics = _metrics(step.metrics, step.time_ms, step.number)
        written = self._post("log-batch", {"run_id": run_id, "metrics": metrics})
        return written if isinstance(written, (Retry, Rejected)) else None

    def end(self, run_id: str, figures: RunFigures) -> Retry | Rejected | None:
        """Write parameters and metrics of a run, and end it. May be repeated."""
        metrics = _metrics(figures.metrics, figures.end_ms, 0)
        written = self._post(
            "log-batch",
            {"run_id": run_id, "metrics": metrics, "params": _items(figures.parameters)},
        )
        if isinstance(written, (Retry, Rejected)):
            return written
        ended = self._post(
            "update",
            {"run_id": run_id, "status": figures.status, "end_time": figures.end_ms},
        )
        return ended if isinstance(ended, (Retry, Rejected)) else None

    def save_artifact(
        self, experiment_id: str, run: NewRun, path: str, text: str
    ) -> Retry | Rejected | None:
        """Write an artifact of a run, which is made if there is none, and end the run."""
        run_id = self.begin(experiment_id, run)
        if not isinstance(run_id, str):
            return run_id
        found = self._server.request("GET", f"{_PATH}/get", query={"run_id": run_id})
        if not isinstance(found, Answer) or not found.ok:
            return found.as_failure() if isinstance(found, Answer) else found
        run_found: Any = found.json.get("run")
        place = urlsplit(str(run_found["info"]["artifact_uri"]))
        if place.scheme != "mlflow-artifacts":
            return Rejected(
                f"the tracking server takes no artifacts ({place.scheme}), so programs are not kept"
            )
        address = f"{_ARTIFACTS}/{quote(place.path.strip('/'))}/{path}"
        answer = self._server.request("PUT", address, body=text.encode())
        if not isinstance(answer, Answer) or not answer.ok:
            return answer.as_failure() if isinstance(answer, Answer) else answer
        ended = self._post("update", {"run_id": run_id, "status": "FINISHED"})
        return ended if isinstance(ended, (Retry, Rejected)) else None

    def _post(self, operation: str, payload: Any) -> Mapping[str, Any] | Retry | Rejected:
        answer = self._server.request("POST", f"{_PATH}/{operation}", payload=payload)
        if not isinstance(answer, Answer):
            return answer
        return answer.json if answer.ok else answer.as_failure()


def _metrics(values: Mapping[str, float], time_ms: int, step: int) -> list[dict[str, Any]]:
    return [
        {"key": name, "value": value, "timestamp": time_ms, "step": step}
        for name, value in values.items()
    ]


def _items(values: Mapping[str, str]) -> list[dict[str, str]]:
    return [{"key": key, "value": value} for key, value in values.items()]


def _id_of(run: Any) -> str | Retry:
    info: Any = cast("dict[str, Any]", run).get("info") if isinstance(run, dict) else None
    run_id: Any = cast("dict[str, Any]", info).get("run_id") if isinstance(info, dict) else None
    if isinstance(run_id, str) and run_id:
        return run_id
    return Retry("there is no MLflow tracking server at this address: its answer is not a run")
