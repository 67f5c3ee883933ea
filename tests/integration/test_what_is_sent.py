# Copyright The opentelemetry-instrumentation-dspy Authors
# SPDX-License-Identifier: Apache-2.0
"""Which spans of a whole program reach MLflow with the settings that are there by default."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.integration.traced_program import run_program, span_names, stored_traces
from tests.support.children import MLFLOW

pytest.importorskip("mlflow", reason="needs the extra mlflow")

pytestmark = pytest.mark.integration

PROGRAM = """
    import threading

    tracer = trace.get_tracer("program")

    def ask(name):
        return tracer.start_span(name, attributes={"gen_ai.operation.name": "chat"})

    def steps():
        span = ask("in a generator")
        yield 1
        span.end()

    work("done")
    with tracer.start_as_current_span("GET /health"):
        tracer.start_span("query").end()
    generator = steps()
    next(generator)
    thread = threading.Thread(target=ask, args=("in a thread",))
    thread.start()
    thread.join()
"""

OPEN = {"in a generator", "in a thread"}


@pytest.mark.parametrize("zero_code", [True, False], ids=["zero-code", "autolog"])
def test_open_spans_are_sent_and_traces_without_genai_are_not(
    zero_code: bool, store_uri: str, tmp_path: Path
) -> None:
    environment = {"MLFLOW_TRACKING_URI": store_uri, "OTEL_TRACES_EXPORTER": "mlflow,console"}
    start = "" if zero_code else "    import mlflow_bridge\n    mlflow_bridge.autolog()\n"
    done = run_program(start + PROGRAM, tmp_path, environment, zero_code=zero_code, zygote=MLFLOW)
    assert done.log_lines("Traceback") == done.log_lines("not in") == []

    traces = {trace.data.spans[0].name: trace for trace in stored_traces(store_uri)}
    assert traces.keys() == {"done", *OPEN}
    assert span_names(traces["done"]) == {"done", "done step"}
    for name in OPEN:
        assert traces[name].info.state.value == "ERROR"
        assert traces[name].data.spans[0].attributes["dspy.unfinished"] is True
    if zero_code:
        # Other processors get all of it, the spans that were ended for the program as well.
        assert done.stdout.count('"dspy.unfinished": true') == 2
        assert "GET /health" in done.stdout
