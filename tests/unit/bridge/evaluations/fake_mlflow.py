# Copyright The opentelemetry-instrumentation-dspy Authors
# SPDX-License-Identifier: Apache-2.0
"""MLflow's client with runs and traces of evaluations, as far as comparisons need it."""

from __future__ import annotations

import base64
import json
from collections.abc import Mapping, Sequence
from types import SimpleNamespace
from typing import Any

URI = "http://mlflow:5000"


class Page(list[Any]):
    token: str | None = None


class NotFoundError(Exception):
    error_code = "RESOURCE_DOES_NOT_EXIST"


def feedback(
    name: str,
    value: Any = None,
    *,
    error: str | None = None,
    valid: bool = True,
    run_id: Any = None,
) -> Any:
    found = None if error is None else SimpleNamespace(error_code=error)
    body = SimpleNamespace(value=value, error=found)
    return SimpleNamespace(name=name, feedback=body, valid=valid, run_id=run_id)


def expectation(name: str, value: Any) -> Any:
    return SimpleNamespace(name=name, feedback=None, valid=None, run_id=None, value=value)


def span(number: int, *, parent: int | None = None, seconds: float = 1.0, **attributes: Any) -> Any:
    shown = {
        "span_id": _encoded(number),
        "parent_span_id": None if parent is None else _encoded(parent),
        "name": f"span {number}",
        "start_time_unix_nano": number,
        "end_time_unix_nano": number + int(seconds * 1e9),
        "status": {"code": "STATUS_CODE_OK", "message": ""},
        "attributes": {key: json.dumps(value) for key, value in attributes.items()},
    }
    return SimpleNamespace(to_dict=lambda: shown)


def _encoded(number: int) -> str:
    return base64.b64encode(number.to_bytes(8, "big")).decode()


class FakeMLflow:
    """Stands for the module ``mlflow`` and for its client."""

    def __init__(self) -> None:
        self.runs: dict[str, Any] = {}
        self.traces: dict[str, list[Any]] = {}
        self.logged: dict[str, list[Any]] = {}
        self.dicts: dict[str, Any] = {}
        self.tags: dict[str, str] = {}
        self.searches = 0
        self.page = 100
        self.uri: str | None = None
        self.own_uri = URI

    def MlflowClient(self, tracking_uri: str) -> FakeMLflow:
        self.uri = tracking_uri
        return self

    def get_tracking_uri(self) -> str:
        return self.own_uri

    def add_run(
        self,
        run_id: str,
        *,
        name: str = "",
        status: str = "FINISHED",
        metrics: Mapping[str, float] | None = None,
    ) -> str:
        info = SimpleNamespace(
            run_id=run_id, run_name=name or run_id, status=status, experiment_id="1"
        )
        data = SimpleNamespace(metrics=dict(metrics or {}), tags={})
        self.runs[run_id] = SimpleNamespace(info=info, data=data)
        self.traces[run_id] = []
        return run_id

    def add_trace(
        self,
        run_id: str,
        *assessments: Any,
        request: str | None = None,
        spans: Sequence[Any] = (),
    ) -> str:
        trace_id = f"tr-{run_id}-{len(self.traces[run_id])}"
        tags = {} if request is None else {"mlflow.eval.requestId": request}
        info = SimpleNamespace(
            trace_id=trace_id, state="OK", tags=tags, trace_metadata={}, assessments=assessments
        )
        data = SimpleNamespace(spans=list(spans))
        self.traces[run_id].append(SimpleNamespace(info=info, data=data))
        return trace_id

    def add_evaluation(self, run_id: str, metric: str, scores: Sequence[Any]) -> str:
        self.add_run(run_id)
        for number, score in enumerate(scores):
            self.add_trace(run_id, feedback(metric, score), request=f"r{number}")
        return run_id

    def get_run(self, run_id: str) -> Any:
        if run_id not in self.runs:
            raise NotFoundError(run_id)
        return self.runs[run_id]

    def get_experiment_by_name(self, name: str) -> Any:
        return SimpleNamespace(experiment_id="1") if name == "ours" else None

    def search_runs(self, experiment_ids: Sequence[str], **options: Any) -> Page:
        return self._page(list(self.runs.values()), options["page_token"])

    def search_traces(self, *, run_id: str, page_token: str | None, **options: Any) -> Page:
        self.searches += 1
        return self._page(self.traces[run_id], page_token)

    def _page(self, everything: Sequence[Any], token: str | None) -> Page:
        start = int(token or 0)
        page = Page(everything[start : start + self.page])
        if start + len(page) < len(everything):
            page.token = str(start + len(page))
        return page

    def log_batch(self, run_id: str, *, metrics: Sequence[Any]) -> None:
        self.logged.setdefault(run_id, []).extend(metrics)

    def log_dict(self, run_id: str, dictionary: Any, artifact_file: str) -> None:
        self.dicts[artifact_file] = dictionary

    def set_tag(self, run_id: str, key: str, value: str) -> None:
        self.tags[key] = value
