# Copyright The opentelemetry-instrumentation-dspy Authors
# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import os
from pathlib import Path

import pytest
from opentelemetry.exporter.otlp.proto.common.trace_encoder import encode_spans

from tests.support.http_client import post
from tests.support.memory import span_memory
from tests.support.mlflow_server import MLflowServer, mlflow_store
from tests.support.span_tree import assert_one_tree, span_tree

# litellm reads it when it is imported, and would go to the network without it.
os.environ.setdefault("LITELLM_LOCAL_MODEL_COST_MAP", "True")

mlflow = pytest.importorskip("mlflow")

pytestmark = pytest.mark.integration


# One test with one server: a start takes MLflow several seconds of imports.
def test_server_serves_and_leaves_no_process(tmp_path: Path) -> None:
    with MLflowServer(tmp_path) as server:
        _shows_a_trace_as_a_tree(server)
        group = server.process_id
        assert group in _group_members(group)
    assert _group_members(group) == []
    with pytest.raises(RuntimeError, match="not running"):
        _ = server.process_id


def _shows_a_trace_as_a_tree(server: MLflowServer) -> None:
    provider, exporter = span_memory()
    tracer = provider.get_tracer("test")
    with tracer.start_as_current_span("program", attributes={"mlflow.spanType": "CHAIN"}) as root:
        with tracer.start_as_current_span("chat", attributes={"mlflow.spanType": "CHAT_MODEL"}):
            pass
        with pytest.raises(ValueError), tracer.start_as_current_span("tool"):
            raise ValueError("no")
    spans = exporter.get_finished_spans()
    body = encode_spans(spans).SerializeToString()
    headers = {"Content-Type": "application/x-protobuf", "x-mlflow-experiment-id": "0"}
    assert post(f"{server.uri}/v1/traces", body, headers)[0] == 200
    trace_id = f"tr-{root.get_span_context().trace_id:032x}"
    trace = mlflow.MlflowClient(server.uri).get_trace(trace_id)
    tree = "program [CHAIN]\n├─ chat [CHAT_MODEL]\n└─ tool [UNKNOWN] ERROR(ValueError)"
    assert span_tree(trace) == tree
    assert assert_one_tree(trace.data.spans).trace_id == trace_id


def _group_members(group: int) -> list[int]:
    """The processes of a process group, by /proc."""
    found: list[int] = []
    for directory in Path("/proc").glob("[0-9]*"):
        try:
            fields = (directory / "stat").read_text().rpartition(")")[2].split()
        except OSError:  # ended while we looked
            continue
        if int(fields[2]) == group:
            found.append(int(directory.name))
    return found


def test_server_that_cannot_start_says_why(tmp_path: Path) -> None:
    server = MLflowServer(tmp_path, options=("--no-such-option",))
    with pytest.raises(RuntimeError, match="no-such-option"):
        server.start()


def test_store_in_a_file(tmp_path: Path) -> None:
    client = mlflow.MlflowClient(mlflow_store(tmp_path))
    assert client.create_experiment("mine") == "1"
    assert (tmp_path / "mlflow.db").exists()
