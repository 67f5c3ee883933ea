# Copyright The opentelemetry-instrumentation-dspy Authors
# SPDX-License-Identifier: Apache-2.0
"""Trace processors in forked children and at the end of processes."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import textwrap
import threading
from pathlib import Path

import pytest
from opentelemetry import trace
from opentelemetry.sdk.trace import TracerProvider

from mlflow_bridge import FinishedTrace
from mlflow_bridge.traces.dispatch import DispatchSettings, TraceDispatch
from tests import ROOT
from tests.support.children import SDK

PATIENCE = 60.0

PREAMBLE = """
import os, sys, time
from opentelemetry import trace
from opentelemetry.sdk.trace import TracerProvider
from mlflow_bridge.traces.dispatch import DispatchSettings, TraceDispatch

exit_seconds = float(os.environ.get("EXIT_SECONDS", "60"))
dispatch = TraceDispatch(lambda: DispatchSettings(False, exit_timeout_seconds=exit_seconds))
provider = TracerProvider()
provider.add_span_processor(dispatch)
tracer = provider.get_tracer("test")

def write(found):
    time.sleep(0.02)
    os.write(1, f"{found.name}\\n".encode())

dispatch.add(write)

def work(name):
    with tracer.start_as_current_span(name):
        tracer.start_span("step").end()
"""


def run(source: str, tmp_path: Path, **environment: str) -> list[str]:
    """The lines that a program writes whose trace processor writes the names of traces."""
    script = tmp_path / "program.py"
    script.write_text(PREAMBLE + textwrap.dedent(source), "utf-8")
    path = os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])
    variables = {**os.environ, "PYTHONPATH": path, **environment}
    done = SDK.run(script, env=variables, cwd=tmp_path, timeout=300)
    assert done.returncode == 0, done.stderr
    assert "Traceback" not in done.stderr, done.stderr
    return sorted(done.stdout.splitlines())


@pytest.mark.skipif(not hasattr(os, "fork"), reason="there is no fork here")
def test_a_child_has_its_own_traces_thread_and_counters() -> None:
    dispatch = TraceDispatch(lambda: DispatchSettings(only_genai=False))
    provider = TracerProvider(shutdown_on_exit=False)
    provider.add_span_processor(dispatch)
    tracer = provider.get_tracer("test")
    held, released = threading.Event(), threading.Event()
    given: list[str] = []

    def look(found: FinishedTrace) -> None:
        given.append(found.name)
        if found.name == "held":
            held.set()
            released.wait(PATIENCE)

    dispatch.add(look)
    tracer.start_span("held").end()
    assert held.wait(PATIENCE)
    tracer.start_span("waiting").end()
    parents = tracer.start_span("of the parent")
    child = os.fork()
    if child == 0:
        signal.alarm(60)  # otherwise a deadlock would last for ever
        try:
            given.clear()
            fresh = dispatch.open_traces == 0 and dispatch.status()[0].processed == 0
            tracer.start_span("step", trace.set_span_in_context(parents)).end()
            parents.end()
            tracer.start_span("of the child").end()
            flushed = dispatch.flush(30)
            os._exit(0 if fresh and flushed and given == ["of the child"] else 1)
        finally:
            os._exit(2)
    _, status = os.waitpid(child, 0)
    released.set()
    assert os.waitstatus_to_exitcode(status) == 0
    parents.end()
    assert dispatch.flush(PATIENCE)
    assert given == ["held", "waiting", "of the parent"]
    dispatch.close(0)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="there is no fork here")
def test_a_child_that_is_forked_while_a_thread_ends_a_span_goes_on() -> None:
    dispatch = TraceDispatch(lambda: DispatchSettings(only_genai=False))
    provider = TracerProvider(shutdown_on_exit=False)
    provider.add_span_processor(dispatch)
    dispatch.add(lambda _: None)
    locked, forked = threading.Event(), threading.Event()

    def hold() -> None:
        with dispatch._changed:
            locked.set()
            forked.wait(PATIENCE)

    thread = threading.Thread(target=hold)
    thread.start()
    assert locked.wait(PATIENCE)
    child = os.fork()
    if child == 0:
        signal.alarm(60)  # otherwise a deadlock would last for ever
        try:
            provider.get_tracer("test").start_span("one").end()
            os._exit(0 if dispatch.flush(30) else 1)
        finally:
            os._exit(2)
    _, status = os.waitpid(child, 0)
    forked.set()
    thread.join()
    assert os.waitstatus_to_exitcode(status) == 0
    dispatch.close(0)


def test_what_has_ended_is_given_out_at_the_exit(tmp_path: Path) -> None:
    assert run('work("one")\nwork("two")', tmp_path) == ["one", "two"]


def test_what_a_child_has_ended_is_given_out_at_its_exit(tmp_path: Path) -> None:
    source = """
        import multiprocessing

        work("parent")
        child = multiprocessing.get_context("fork").Process(target=work, args=("child",))
        child.start()
        child.join()
    """
    assert run(source, tmp_path) == ["child", "parent"]


def test_a_processor_that_hangs_delays_the_exit_by_the_time_limit_only(tmp_path: Path) -> None:
    source = """
        dispatch.add(lambda found: time.sleep(3600))
        work("one")
    """
    assert run(source, tmp_path, EXIT_SECONDS="0.5") == ["one"]


def test_reading_a_trace_of_mlflow_needs_neither_mlflow_nor_the_sdk(tmp_path: Path) -> None:
    program = tmp_path / "program.py"
    program.write_text(
        textwrap.dedent(
            """
            import sys
            from mlflow_bridge.traces import FinishedTrace, get_traces, read_otlp_json

            text = '''{"info": {"trace_id": "tr-1", "state": "OK", "tags": {"a": "b"}},
                "data": {"spans": [{"span_id": "AAAAAAAAAAE=", "name": "root",
                "start_time_unix_nano": 1, "end_time_unix_nano": 2000001,
                "status": {"code": "STATUS_CODE_OK"}, "attributes": {"n": "[1]"}}]}}'''
            trace = FinishedTrace.from_mlflow(text)
            assert (trace.name, trace.duration_ms, trace.tags) == ("root", 2.0, {"a": "b"})
            assert trace.root.attributes == {"n": [1]}
            assert "mlflow" not in sys.modules
            assert "opentelemetry.sdk.trace" not in sys.modules
            """
        ),
        "utf-8",
    )
    done = subprocess.run(
        [sys.executable, str(program)], capture_output=True, text=True, timeout=300, check=False
    )
    assert done.returncode == 0, done.stderr
