# Copyright The opentelemetry-instrumentation-dspy Authors
# SPDX-License-Identifier: Apache-2.0
"""A trace of two services with one store: one tree, named and judged by its root."""

from __future__ import annotations

import signal
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import pytest
from opentelemetry.trace import Status, StatusCode
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

from mlflow_bridge._export import remote_callers
from mlflow_bridge._export.contract import Sent
from tests.integration.place import Place, spans_by_name, tokens_of
from tests.integration.traced_program import WORK, program_environment, stored_traces
from tests.support.dspy_spans import Recorder, json_of, lm_attributes
from tests.support.fake_delivery import wait_until

pytestmark = pytest.mark.integration


class TwoServices:
    """One trace of a service "caller" and of a service "called", as their own exporters get it."""

    def __init__(self, place: Place, *, fails: bool = False) -> None:
        headers: dict[str, str] = {}
        caller, called = Recorder("caller"), Recorder("called")
        question = {"dspy.module.input": json_of({"question": "asked"})}
        with caller.tracer.start_as_current_span("caller", attributes=question) as root:
            caller.tracer.start_span("chat", attributes=lm_attributes()).end()
            self.early = caller.take()
            time.sleep(0.005)  # MLflow tells starts apart by milliseconds
            TraceContextTextMapPropagator().inject(headers)
            context = TraceContextTextMapPropagator().extract(headers)
            passed_on = {"dspy.module.input": json_of({"question": "passed on"})}
            with called.tracer.start_as_current_span("called", context, attributes=passed_on):
                called.tracer.start_span("chat", attributes=lm_attributes()).end()
            if fails:
                root.set_status(Status(StatusCode.ERROR, "no answer"))
        self.caller, self.called = [*self.early, *caller.take()], called.take()
        self._place = place

    def assert_one_tree(self, state: str = "OK") -> None:
        trace = self._place.trace()
        assert trace.info.state.value == state
        assert trace.info.tags["mlflow.traceName"] == "caller"
        assert trace.info.tags["service.name"] == "caller"
        assert trace.info.request_preview == '{"question":"asked"}'
        assert tokens_of(trace.info) == 240
        caller, called = (spans_by_name(trace)[name] for name in ("caller", "called"))
        assert (caller.parent_id, called.parent_id) == (None, caller.span_id)
        services = sorted(span.get_attribute("service.name") for span in trace.data.spans)
        assert services == ["called", "called", "caller", "caller"]
        assert called.get_attribute("otel.remote_parent.span_id") == caller.span_id


@pytest.mark.parametrize("fails", [False, True])
def test_a_called_service_stands_below_its_caller(place: Place, fails: bool) -> None:
    services = TwoServices(place, fails=fails)
    called = place.exporter()
    assert called.deliver(services.called) == Sent(2)
    assert place.trace().info.state.value == "IN_PROGRESS"  # as the caller still is
    place.store(services.caller)
    called.close()
    services.assert_one_tree("ERROR" if fails else "OK")


def test_a_called_service_may_be_the_last_to_be_stored(place: Place) -> None:
    services = TwoServices(place)
    place.store(services.caller)
    place.store(services.called)
    services.assert_one_tree()


def test_a_called_service_may_end_before_its_caller(place: Place) -> None:
    services = TwoServices(place)
    place.store(services.called)
    assert place.trace().info.state.value == "OK"
    place.store(services.caller)
    trace = place.trace()
    caller, called = (spans_by_name(trace)[name] for name in ("caller", "called"))
    assert (caller.parent_id, called.parent_id) == (None, caller.span_id)
    assert trace.info.tags["mlflow.traceName"] == "caller"
    assert trace.info.tags["service.name"] == "caller"


def test_a_caller_that_comes_late_takes_its_called_service_back(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(remote_callers, "GRACE_SECONDS", 0.2)
    services = TwoServices(place)
    exporter = place.exporter()
    assert exporter.deliver(services.called) == Sent(2)
    wait_until(lambda: place.trace().info.state.value == "OK")
    assert spans_by_name(place.trace())["called"].parent_id is None
    assert place.trace().info.tags["service.name"] == "called"
    place.store(services.caller)
    wait_until(lambda: spans_by_name(place.trace())["called"].parent_id is not None)
    exporter.close()
    trace = place.trace()
    assert trace.info.tags["mlflow.traceName"] == "caller"
    assert trace.info.tags["service.name"] == "caller"


def test_a_called_service_waits_for_a_caller_that_is_busy(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(remote_callers, "GRACE_SECONDS", 0.2)
    services = TwoServices(place)
    exporter = place.exporter()
    assert exporter.deliver(services.called) == Sent(2)
    place.store(services.early)
    time.sleep(1)
    assert place.trace().info.state.value == "IN_PROGRESS"
    place.store(services.caller)
    exporter.close()
    services.assert_one_tree()


@pytest.mark.skipif(sys.platform == "win32", reason="there is no SIGTERM to handle")
def test_a_called_process_that_is_terminated_leaves_no_trace_in_progress(
    store_uri: str, tmp_path: Path
) -> None:
    source = """
        import os, signal
        from mlflow_bridge import autolog
        from opentelemetry.propagate import extract

        client = autolog()
        caller = extract({"traceparent": f"00-{'ab' * 16}-{'cd' * 8}-01"})
        with trace.get_tracer("program").start_as_current_span("called", context=caller):
            work("step")
        client.flush()
        print("stored", flush=True)
        os.kill(os.getpid(), signal.SIGTERM)
    """
    script = tmp_path / "program.py"
    script.write_text(WORK + textwrap.dedent(source))
    environment = {
        **program_environment(tmp_path),
        "MLFLOW_TRACKING_URI": store_uri,
        "MLFLOW_EXPERIMENT_NAME": "terminated",
    }
    command = [sys.executable, str(script)]
    done = subprocess.run(
        command, env=environment, capture_output=True, text=True, timeout=300, check=False
    )
    assert done.stdout == "stored\n", done.stderr
    assert done.returncode == -signal.SIGTERM
    [trace] = stored_traces(store_uri, "terminated")
    assert trace.info.state.value == "OK"
    assert trace.info.tags["mlflow.traceName"] == "called"
