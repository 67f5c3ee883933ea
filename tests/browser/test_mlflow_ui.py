# Copyright The opentelemetry-instrumentation-dspy Authors
# SPDX-License-Identifier: Apache-2.0
"""MLflow's own pages show the demo's trace in a real browser."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests import ROOT
from tests.support.mlflow_server import MLflowServer

pytestmark = pytest.mark.browser

webdriver = pytest.importorskip("selenium.webdriver", reason="pip install --group browser")
CHROMIUM = shutil.which("chromium") or shutil.which("google-chrome")
DRIVER = shutil.which("chromedriver")
EXAMPLES = ROOT / "examples"
PATIENCE = 90.0
"""Seconds until something has to be on the page; no measure of anything."""

# A sandboxed browser does not start as root, and one that calls home waits for its network.
OPTIONS = (
    *("--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage"),
    *("--no-first-run", "--disable-background-networking", "--disable-component-update"),
    *("--disable-sync", "--disable-quic", "--window-size=1900,1300"),
)


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[MLflowServer]:
    """A tracking server that holds one run of the demo."""
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
        yield server


@pytest.fixture(scope="module")
def page(server: MLflowServer, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Page]:
    if CHROMIUM is None or DRIVER is None:
        pytest.skip("Chromium and its driver are not installed")
    options = webdriver.ChromeOptions()
    options.binary_location = CHROMIUM
    for option in (*OPTIONS, f"--user-data-dir={tmp_path_factory.mktemp('profile')}"):
        options.add_argument(option)
    browser = webdriver.Chrome(options=options, service=webdriver.ChromeService(DRIVER))
    try:
        yield Page(browser, server)
    finally:
        browser.quit()


class Page:
    """The page of the demo's only trace."""

    def __init__(self, browser: Any, server: MLflowServer) -> None:
        import mlflow

        client = mlflow.MlflowClient(server.uri)
        experiment = client.get_experiment_by_name("quickstart")
        [trace] = client.search_traces(locations=[experiment.experiment_id])
        self._browser = browser
        pages = f"{server.uri}/#/experiments/{experiment.experiment_id}"
        self.trace_list = f"{pages}/traces"
        self.tool_calls = f"{pages}/overview/tool-calls"
        self.trace = f"{self.trace_list}?selectedEvaluationId={trace.info.trace_id}"
        # The page that MLflow embeds in a notebook.
        self.in_notebook = (
            f"{server.uri}/static-files/lib/notebook-trace-renderer/index.html"
            f"?trace_id={trace.info.trace_id}&experiment_id={experiment.experiment_id}"
        )

    def open(self, address: str) -> None:
        self._browser.get("about:blank")
        self._browser.get(address)

    def wait_for(self, *texts: str) -> str:
        """All the text on the page, once it has all of these in it."""
        from selenium.webdriver.support.wait import WebDriverWait

        def shown(browser: Any) -> str:
            text = browser.find_element("tag name", "body").text
            return text if all(wanted in text for wanted in texts) else ""

        return WebDriverWait(self._browser, PATIENCE).until(shown, f"not shown: {texts}")

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
