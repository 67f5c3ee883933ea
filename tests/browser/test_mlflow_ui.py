# Copyright The opentelemetry-instrumentation-dspy Authors
# SPDX-License-Identifier: Apache-2.0
"""MLflow's own pages show the demo's trace, and that of a web service, in a real browser."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests import ROOT
from tests.browser.pages import PATIENCE, open_page, wait_for
from tests.integration.traced_program import run_program
from tests.support.children import MLFLOW
from tests.support.mlflow_server import MLflowServer

pytestmark = pytest.mark.browser

EXAMPLES = ROOT / "examples"

WEB_SERVICE = """
import dspy
import mlflow
from dspy.utils import DummyLM
from mlflow_bridge import autolog

autolog()
mlflow.set_experiment("web")
mlflow.set_active_model(name="fjords-2")
dspy.configure(lm=DummyLM([{"answer": "A narrow inlet of the sea."}]), adapter=dspy.ChatAdapter())
program = dspy.Predict("question -> answer")
# What an instrumentation of a web framework makes around the program.
with trace.get_tracer("web").start_as_current_span("GET /ask", kind=trace.SpanKind.SERVER):
    program(question="What is a fjord?")
"""


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[MLflowServer]:
    """A tracking server that holds one run of the demo, and one of the web service."""
    directory = tmp_path_factory.mktemp("server")
    with MLflowServer(directory) as server:
        environment = {
            **os.environ,
            "OTEL_TRACES_EXPORTER": "mlflow",
            "OTEL_METRICS_EXPORTER": "none",
            "OTEL_LOGS_EXPORTER": "none",
            "MLFLOW_TRACKING_URI": server.uri,
            "MLFLOW_EXPERIMENT_NAME": "quickstart",
            "MLFLOW_DSPY_EXIT_TIMEOUT_SECONDS": "60",
            "DSPY_CACHEDIR": str(directory / "dspy-cache"),
        }
        instrument = str(Path(sys.executable).with_name("opentelemetry-instrument"))
        command = [instrument, sys.executable, str(EXAMPLES / "quickstart.py")]
        subprocess.run(command, env=environment, check=True, timeout=180)
        web = {"MLFLOW_TRACKING_URI": server.uri, "MLFLOW_EXPERIMENT_NAME": "web"}
        run_program(WEB_SERVICE, directory, web, zygote=MLFLOW)
        yield server


@pytest.fixture(scope="module")
def page(browser: Any, server: MLflowServer) -> Page:
    """The pages of the demo."""
    return Page(browser, server, "quickstart")


@pytest.fixture(scope="module")
def web_page(browser: Any, server: MLflowServer) -> Page:
    """The pages of the web service."""
    return Page(browser, server, "web")


class Page:
    """The pages of an experiment with one trace."""

    def __init__(self, browser: Any, server: MLflowServer, experiment_name: str) -> None:
        import mlflow

        client = mlflow.MlflowClient(server.uri)
        experiment = client.get_experiment_by_name(experiment_name)
        [trace] = client.search_traces(locations=[experiment.experiment_id])
        self._browser = browser
        pages = f"{server.uri}/#/experiments/{experiment.experiment_id}"
        self.trace_list = f"{pages}/traces"
        self.tool_calls = f"{pages}/overview/tool-calls"
        self.trace = f"{self.trace_list}?selectedEvaluationId={trace.info.trace_id}"
        model = trace.info.trace_metadata.get("mlflow.modelId")
        self.version = f"{pages}/models/{model}/traces"
        # The page that MLflow embeds in a notebook.
        self.in_notebook = (
            f"{server.uri}/static-files/lib/notebook-trace-renderer/index.html"
            f"?trace_id={trace.info.trace_id}&experiment_id={experiment.experiment_id}"
        )

    def open(self, address: str) -> None:
        open_page(self._browser, address)

    def wait_for(self, *texts: str) -> str:
        return wait_for(self._browser, *texts)

    def click(self, text: str) -> None:
        from selenium.common.exceptions import ElementClickInterceptedException
        from selenium.webdriver.support.expected_conditions import visibility_of_element_located
        from selenium.webdriver.support.wait import WebDriverWait

        place = ("xpath", f"(//*[normalize-space(text())='{text}'])[1]")
        found = WebDriverWait(self._browser, PATIENCE).until(visibility_of_element_located(place))
        try:
            found.click()
        except ElementClickInterceptedException:
            # With MLflow's assistant open, a handle that is not to be seen lies across the tree,
            # and takes the clicks of the mouse at some widths of the window.
            self._browser.execute_script("arguments[0].click()", found)


def test_the_list_of_traces_shows_request_response_state_and_tokens(page: Page) -> None:
    page.open(page.trace_list)
    page.wait_for("How tall is the Eiffel Tower", "1,082.7 feet", "OK", "2062")


def test_the_tree_has_every_step_with_tokens_and_cost(page: Page) -> None:
    page.open(page.trace)
    shown = page.wait_for("invoke_workflow RAG", "chat gpt-4o-mini", "2,062 tokens")
    for name in ("retrieval KeywordRetriever", "ChainOfThought generate", "ChatAdapter"):
        assert name in shown
    assert "$0.000059" in shown


def test_a_model_call_is_shown_as_a_conversation(page: Page) -> None:
    page.open(page.trace)
    page.wait_for("invoke_workflow RAG", "chat gpt-4o-mini")
    page.click("chat gpt-4o-mini")
    shown = page.wait_for("System", "User", "Assistant", "278 tokens")
    assert "The Eiffel Tower is 330 metres tall." in shown


def test_a_tool_call_shows_its_schema_among_the_attributes(page: Page) -> None:
    page.open(page.trace)
    page.wait_for("invoke_workflow RAG", "metres_to_feet")
    page.click("metres_to_feet")
    page.wait_for("metres")
    page.click("Attributes")
    page.wait_for("gen_ai.tool.name", "dspy.tool.schema", "Convert a length from metres to feet.")


def test_the_dashboard_counts_a_tool_that_worked_as_a_success(page: Page) -> None:
    page.open(page.tool_calls)
    shown = page.wait_for("Tool Performance Summary", "metres_to_feet", "100.00%")
    assert "execute_tool" not in shown


def test_a_notebook_shows_the_trace(page: Page) -> None:
    page.open(page.in_notebook)
    page.wait_for("invoke_workflow RAG", "chat gpt-4o-mini")


def test_the_list_shows_request_and_response_below_a_span_of_a_web_framework(
    web_page: Page,
) -> None:
    web_page.open(web_page.trace_list)
    # One column after the other.
    web_page.wait_for('{"question":"What is a fjord?"}\n{"answer":"A narrow inlet of the sea."}')


def test_the_page_of_a_version_lists_the_traces_of_its_model(web_page: Page) -> None:
    web_page.open(web_page.version)
    web_page.wait_for("fjords-2", '"What is a fjord?"', "A narrow inlet of the sea.")


def test_the_span_of_a_web_framework_shows_the_values_of_the_program(web_page: Page) -> None:
    web_page.open(web_page.trace)
    web_page.wait_for("GET /ask", "invoke_workflow Predict question -> answer", "chat dummy")
    web_page.click("GET /ask")
    web_page.wait_for("question\nWhat is a fjord?", "answer\nA narrow inlet of the sea.")


def test_a_predict_shows_its_inputs_and_outputs_by_field(page: Page) -> None:
    page.open(page.trace)
    page.wait_for("invoke_workflow RAG", "Predict generate")
    page.click("Predict generate")
    page.wait_for(
        "question\nHow tall is the Eiffel Tower, in feet?\nOutputs",
        "reasoning\nThe first passage gives the height in metres: 330.",
        "answer\nThe Eiffel Tower is 330 metres tall.",
    )
