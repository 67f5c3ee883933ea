# Copyright The opentelemetry-instrumentation-dspy Authors
# SPDX-License-Identifier: Apache-2.0
"""The demo, end to end: an unchanged program becomes one trace in MLflow and in a collector."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests import ROOT
from tests.support.children import MLFLOW
from tests.support.otlp_collector import StubCollector
from tests.support.otlp_decode import CollectedSpan
from tests.support.span_tree import assert_one_tree, span_tree

mlflow = pytest.importorskip("mlflow")

pytestmark = pytest.mark.integration

EXAMPLES = ROOT / "examples"
ANSWER = "The Eiffel Tower is 1,082.7 feet tall."
TREE = """\
invoke_workflow RAG [CHAIN]
├─ retrieval KeywordRetriever [RETRIEVER]
├─ ChainOfThought generate [CHAIN]
│  └─ Predict generate [LLM]
│     └─ ChatAdapter [PARSER]
│        └─ chat gpt-4o-mini [CHAT_MODEL]
└─ invoke_agent ReAct check [AGENT]
   ├─ Predict check.react [LLM]
   │  └─ ChatAdapter [PARSER]
   │     └─ chat gpt-4o-mini [CHAT_MODEL]
   ├─ metres_to_feet [TOOL]
   ├─ Predict check.react [LLM]
   │  └─ ChatAdapter [PARSER]
   │     └─ chat gpt-4o-mini [CHAT_MODEL]
   └─ ChainOfThought check.extract [CHAIN]
      └─ Predict check.extract [LLM]
         └─ ChatAdapter [PARSER]
            └─ chat gpt-4o-mini [CHAT_MODEL]"""


@dataclass(frozen=True)
class Demo:
    """What one run of the demo left behind."""

    printed: str
    traces: list[Any]
    collected: list[CollectedSpan]
    environment: dict[str, str]

    @property
    def trace(self) -> Any:
        (trace,) = self.traces
        return trace


@pytest.fixture(scope="module")
def demo(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Demo]:
    directory = tmp_path_factory.mktemp("demo")
    with StubCollector() as collector:
        environment = {
            **os.environ,
            "OTEL_TRACES_EXPORTER": "mlflow,otlp",
            "OTEL_METRICS_EXPORTER": "none",
            "OTEL_LOGS_EXPORTER": "none",
            "OTEL_PYTHON_DISABLED_INSTRUMENTATIONS": "openai,fastapi",
            "OTEL_EXPORTER_OTLP_ENDPOINT": collector.http_endpoint,
            "OTEL_EXPORTER_OTLP_PROTOCOL": "http/protobuf",
            "MLFLOW_TRACKING_URI": f"sqlite:///{directory}/mlflow.db",
            "MLFLOW_EXPERIMENT_NAME": "quickstart",
            "MLFLOW_DSPY_EXIT_TIMEOUT_SECONDS": "60",
            "DSPY_CACHEDIR": str(directory / "traced-cache"),
        }
        instrument = str(Path(sys.executable).with_name("opentelemetry-instrument"))
        printed = _run(environment, instrument, sys.executable, _quickstart())
        yield Demo(printed, _traces(environment), collector.spans(), environment)


def _quickstart() -> str:
    return str(EXAMPLES / "quickstart.py")


def _run(environment: dict[str, str], *command: str) -> str:
    done = subprocess.run(
        command, env=environment, capture_output=True, text=True, timeout=180, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def _traces(environment: dict[str, str]) -> list[Any]:
    client = mlflow.MlflowClient(tracking_uri=environment["MLFLOW_TRACKING_URI"])
    experiment = client.get_experiment_by_name(environment["MLFLOW_EXPERIMENT_NAME"])
    return list(client.search_traces(locations=[experiment.experiment_id]))


def test_mlflow_holds_one_trace_with_the_whole_program_in_it(demo: Demo) -> None:
    assert_one_tree(demo.trace)
    assert span_tree(demo.trace) == TREE


def test_the_trace_is_complete_in_the_list_of_traces(demo: Demo) -> None:
    info = demo.trace.info

    assert info.state.value == "OK"
    assert "How tall is the Eiffel Tower" in info.request_preview
    assert ANSWER in info.response_preview
    assert info.tags["mlflow.traceName"] == "RAG"


def test_the_totals_are_the_sums_of_the_language_model_calls(demo: Demo) -> None:
    calls = [span for span in demo.trace.data.spans if span.span_type == "CHAT_MODEL"]
    usages = [span.get_attribute("mlflow.chat.tokenUsage") for span in calls]
    total = sum(usage["total_tokens"] for usage in usages)

    assert demo.trace.info.token_usage["total_tokens"] == total > 0
    for span in calls:
        parts = span.llm_cost["input_cost"], span.llm_cost["output_cost"]
        assert min(parts) > 0
        assert sum(parts) == pytest.approx(span.llm_cost["total_cost"])
    assert demo.trace.info.cost["total_cost"] == pytest.approx(
        sum(span.llm_cost["total_cost"] for span in calls)
    )


def test_the_collector_has_the_same_spans_with_the_same_ids(demo: Demo) -> None:
    assert_one_tree(demo.collected)
    in_mlflow = {(span.span_id, span.parent_id, span.name) for span in demo.trace.data.spans}
    # In MLflow, a tool has its own name.
    in_collector = {
        (span.span_id, span.parent_id, span.name.removeprefix("execute_tool "))
        for span in demo.collected
    }

    assert in_collector == in_mlflow
    assert demo.trace.info.trace_id == f"tr-{demo.collected[0].trace_id}"


def test_the_program_prints_what_it_prints_without_tracing(demo: Demo, tmp_path: Path) -> None:
    untraced = {**demo.environment, "DSPY_CACHEDIR": str(tmp_path / "cache")}
    done = MLFLOW.run(EXAMPLES / "quickstart.py", env=untraced, cwd=tmp_path)

    assert (done.stdout, done.returncode) == (demo.printed, 0)
    assert demo.printed == f"{ANSWER}\n"


def test_the_trace_is_shown_as_a_tree_with_figures(demo: Demo, tmp_path: Path) -> None:
    done = MLFLOW.run(EXAMPLES / "show_trace.py", env=demo.environment, cwd=tmp_path)
    shown = done.stdout
    names = [line.partition(" [")[0] for line in TREE.splitlines()]

    assert [name for name in names if name not in shown] == []
    assert f"total of {len(names)} spans" in shown
    assert "mlflow ui --backend-store-uri sqlite:///" in shown


def test_an_empty_experiment_is_not_taken_for_a_success(demo: Demo, tmp_path: Path) -> None:
    other = {**demo.environment, "MLFLOW_EXPERIMENT_NAME": "nobody wrote here"}
    done = MLFLOW.run(EXAMPLES / "show_trace.py", env=other, cwd=tmp_path)

    assert done.returncode == 1
    assert "holds 0 traces, not one" in done.stderr
