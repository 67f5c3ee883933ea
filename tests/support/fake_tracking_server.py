# Copyright The opentelemetry-instrumentation-dspy Authors
# SPDX-License-Identifier: Apache-2.0
"""A fake MLflow tracking server with the endpoints that the bridge uses, over real HTTP."""

from __future__ import annotations

import gzip
import json
import ssl
from collections import Counter
from collections.abc import Callable, Mapping
from typing import Any

from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

from tests.support.loopback import HttpReply, HttpRequest, LoopbackServer

API = "/api/2.0/mlflow/experiments"
TRACES = "/api/3.0/mlflow/traces"
TAGS = "/api/2.0/mlflow/traces"
START = "2026-01-01T00:00:00Z"
JSON = {"Content-Type": "application/json"}
PROTOBUF = {"Content-Type": "application/x-protobuf"}


def json_reply(status: int, body: Mapping[str, Any]) -> HttpReply:
    return HttpReply(status, JSON, json.dumps(body).encode())


class FakeTrackingServer:
    """Use ``http`` as a context manager."""

    def __init__(self, tls: ssl.SSLContext | None = None) -> None:
        self.requests: list[HttpRequest] = []
        self.experiments: dict[str, dict[str, str]] = {}
        self.blind_look_ups = 0
        self.traces_reply = HttpReply(200, PROTOBUF, b"")
        self.stored: Counter[str] = Counter()
        """How often each span was stored, by its name."""
        self.described: dict[str, dict[str, Any]] = {}
        """What was written of a trace apart from its spans, by its id."""
        self.refuse: Callable[[HttpRequest], HttpReply | None] = lambda request: None
        """Looks at a request before it is answered; what it returns is the answer."""
        self.http = LoopbackServer(self._answer, received=self.requests.append, tls=tls)

    def _answer(self, request: HttpRequest) -> HttpReply:
        refusal = self.refuse(request)
        if refusal is not None:
            return refusal
        path, _, query = request.path.partition("?")
        if path == "/v1/traces":
            return self._take(request)
        if path == f"{API}/get-by-name":
            return self._experiment(query.removeprefix("experiment_name="))
        if path == f"{API}/get":
            wanted = query.removeprefix("experiment_id=")
            names = [name for name, e in self.experiments.items() if e["experiment_id"] == wanted]
            return self._experiment(names[0] if names else "")
        if path == f"{API}/create":
            return self._create(json.loads(request.body)["name"])
        if path.startswith((TRACES, TAGS)):
            return self._trace(request, path)
        return HttpReply(404, {"Content-Type": "text/html"}, b"<html>nothing here</html>")

    def _take(self, request: HttpRequest) -> HttpReply:
        known = {experiment["experiment_id"] for experiment in self.experiments.values()}
        if request.headers["x-mlflow-experiment-id"] not in known:
            return json_reply(404, {"error_code": "RESOURCE_DOES_NOT_EXIST", "message": "none"})
        if self.traces_reply.status == 200:
            self.stored.update(spans_in(request))
        return self.traces_reply

    def _trace(self, request: HttpRequest, path: str) -> HttpReply:
        """Every trace has ended, and everything is taken."""
        info = {"trace_id": path.rpartition("/")[2], "state": "OK", "request_time": START}
        if request.method == "POST" and path == TRACES:
            info = json.loads(request.body)["trace"]["trace_info"]
            self.described[info["trace_id"]] = info
        return json_reply(200, {"trace": {"trace_info": info}})

    def _experiment(self, name: str) -> HttpReply:
        found = self.experiments.get(name)
        self.blind_look_ups -= 1
        if found is None or self.blind_look_ups >= 0:
            return json_reply(404, {"error_code": "RESOURCE_DOES_NOT_EXIST", "message": "none"})
        return json_reply(200, {"experiment": found})

    def _create(self, name: str) -> HttpReply:
        if name in self.experiments:
            return json_reply(400, {"error_code": "RESOURCE_ALREADY_EXISTS", "message": "there"})
        self.add_experiment(name)
        return json_reply(200, {"experiment_id": self.experiments[name]["experiment_id"]})

    def add_experiment(self, name: str, stage: str = "active") -> None:
        identifier = str(len(self.experiments) + 1)
        self.experiments[name] = {
            "experiment_id": identifier,
            "name": name,
            "lifecycle_stage": stage,
        }

    @property
    def trace_requests(self) -> list[HttpRequest]:
        return [request for request in self.requests if request.path == "/v1/traces"]


def spans_in(request: HttpRequest) -> list[str]:
    body = request.body
    if request.headers.get("content-encoding") == "gzip":
        body = gzip.decompress(body)
    message = ExportTraceServiceRequest.FromString(body)
    return [
        span.name
        for resource in message.resource_spans
        for scope in resource.scope_spans
        for span in scope.spans
    ]
