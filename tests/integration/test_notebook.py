# Copyright The opentelemetry-instrumentation-dspy Authors
# SPDX-License-Identifier: Apache-2.0
"""A notebook shows the trace of a cell below the cell."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import pytest

from tests.integration.traced_program import run_program, stored_traces
from tests.support.children import MLFLOW
from tests.support.mlflow_server import MLflowServer

pytestmark = [
    pytest.mark.integration,
    pytest.mark.skipif(importlib.util.find_spec("IPython") is None, reason="needs IPython"),
]

CELLS = """
from IPython.core.interactiveshell import InteractiveShell
from IPython.utils.capture import capture_output

shell = InteractiveShell.instance()
cells = [
    "import mlflow, mlflow_bridge\\nclient = mlflow_bridge.autolog()",
    "import dspy\\nfrom dspy.utils import DummyLM\\nlm = DummyLM([{'answer': 'blue'}] * 3)\\n"
    "program = dspy.Predict('question -> answer')",
    "with dspy.context(lm=lm): program(question='one')",
    "1 + 1",
    "mlflow.tracing.disable_notebook_display()\\n"
    "with dspy.context(lm=lm): program(question='two')",
]
for number, cell in enumerate(cells):
    with capture_output() as shown:
        result = shell.run_cell(cell)
    assert result.success, result
    html = [output.data.get("text/html", "") for output in shown.outputs]
    for text in html:
        if "trace_id=" in text:
            print("cell", number, text.partition("trace_id=")[2].partition("&")[0])
"""


def test_a_trace_is_shown_below_the_cell_that_made_it(
    shared_server: MLflowServer, tmp_path: Path
) -> None:
    environment = {
        "MLFLOW_TRACKING_URI": shared_server.uri,
        "MLFLOW_EXPERIMENT_NAME": "notebook",
    }
    done = run_program(CELLS, tmp_path, environment, zygote=MLFLOW)
    shown = [line for line in done.stdout.splitlines() if line.startswith("cell ")]
    traces = {
        trace.data.spans[0].inputs["question"]: trace.info.trace_id
        for trace in stored_traces(shared_server.uri, "notebook")
    }
    assert shown == [f"cell 2 {traces['one']}"]
