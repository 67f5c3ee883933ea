# Copyright The opentelemetry-instrumentation-dspy Authors
# SPDX-License-Identifier: Apache-2.0
"""Whole programs: without MLflow, at exit, and without a server at the address."""

from __future__ import annotations

import os
import subprocess
import textwrap
import time
from collections.abc import Mapping
from pathlib import Path

import pytest

from tests.support.children import MLFLOW, SDK, Zygote
from tests.support.fake_tracking_server import FakeTrackingServer, spans_in
from tests.support.faults import Hang

pytestmark = pytest.mark.integration


PROGRAM = """
    import sys
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.sdk.trace.export import BatchSpanProcessor
    from mlflow_bridge._export.exporter import MLflowSpanExporter

    provider = TracerProvider()
    provider.add_span_processor(BatchSpanProcessor(MLflowSpanExporter()))
    tracer = provider.get_tracer("program")
    with tracer.start_as_current_span("root"):
        tracer.start_span("step").end()
    print("the program is done", flush=True)
"""
WITHOUT_MLFLOW = """
    import sys

    class Blocker:
        def find_spec(self, name, path=None, target=None):
            if name.partition(".")[0] in ("mlflow", "sqlalchemy"):
                raise ImportError(f"{name} is blocked")

    sys.meta_path.insert(0, Blocker())
"""


def run(
    source: str, tmp_path: Path, environment: Mapping[str, str], zygote: Zygote = SDK
) -> subprocess.CompletedProcess[str]:
    # Of what the tests set for all, an exporter alone cannot carry this out.
    inherited = {key: text for key, text in os.environ.items() if key != "MLFLOW_DSPY_TRACES"}
    child = zygote.start(textwrap.dedent(source), env={**inherited, **environment}, cwd=tmp_path)
    output, errors = child.communicate()
    assert child.returncode is not None
    return subprocess.CompletedProcess(source, child.returncode, output, errors)


def test_server_needs_no_mlflow_in_the_program(tmp_path: Path) -> None:
    server = FakeTrackingServer()
    with server.http:
        settings = {"MLFLOW_TRACKING_URI": server.http.url, "MLFLOW_EXPERIMENT_NAME": "mine"}
        source = textwrap.dedent(WITHOUT_MLFLOW) + textwrap.dedent(PROGRAM)
        source += "\nassert not any(name.startswith('mlflow.') for name in sys.modules)\n"
        done = run(source, tmp_path, settings)
    assert (done.returncode, done.stdout, done.stderr) == (0, "the program is done\n", "")
    assert [spans_in(request) for request in server.trace_requests] == [["step", "root"]]


def test_store_without_mlflow_is_one_error_that_says_what_to_install(tmp_path: Path) -> None:
    source = textwrap.dedent(WITHOUT_MLFLOW) + textwrap.dedent(PROGRAM)
    done = run(source, tmp_path, {"MLFLOW_TRACKING_URI": "sqlite:///mlflow.db"})
    assert (done.returncode, done.stdout) == (0, "the program is done\n")
    first, second = done.stderr.strip().splitlines()
    assert "pip install 'mlflow-bridge[mlflow]'" in first
    assert "MLFLOW_TRACKING_URI" in first
    assert "2 spans" in second


def test_short_program_stores_all_of_it_at_exit(store_uri: str, tmp_path: Path) -> None:
    mlflow = pytest.importorskip("mlflow")
    done = run(PROGRAM, tmp_path, {"MLFLOW_TRACKING_URI": store_uri}, MLFLOW)
    assert (done.returncode, done.stderr) == (0, "")
    [trace] = mlflow.MlflowClient(store_uri).search_traces(locations=["0"])
    assert len(trace.data.spans) == 2


@pytest.mark.parametrize("peer", ["nobody", "silence"])
def test_server_that_does_not_answer_delays_the_exit_for_a_moment(
    tmp_path: Path, peer: str
) -> None:
    server = FakeTrackingServer()
    settings = {
        "MLFLOW_EXPERIMENT_NAME": "mine",
        "MLFLOW_DSPY_EXIT_TIMEOUT_SECONDS": "2",
        "MLFLOW_DSPY_REQUEST_TIMEOUT_SECONDS": "1",
    }
    with server.http:
        server.http.fail_with(*[Hang(60)] * 50)
        uri = server.http.url if peer == "silence" else "http://127.0.0.1:1"
        began = time.monotonic()
        done = run(PROGRAM, tmp_path, {"MLFLOW_TRACKING_URI": uri, **settings})
        took = time.monotonic() - began
    assert (done.returncode, done.stdout) == (0, "the program is done\n")
    assert took < 30  # of which the imports take the most
    assert "2 spans are lost" in done.stderr
    assert "MLFLOW_TRACKING_URI" in done.stderr
    assert "Traceback" not in done.stderr
    assert len(done.stderr.strip().splitlines()) <= 2
