# Copyright The opentelemetry-instrumentation-dspy Authors
# SPDX-License-Identifier: Apache-2.0
"""The program of the comparison; each of its cases asks a question of its own.

``run(tracer, base_url)`` is called in a process that traces nothing yet.
"""

from __future__ import annotations

import contextlib
import json
import time
from collections.abc import Callable, Iterator
from enum import Enum
from pathlib import Path
from typing import Any

import dspy
import mlflow
import mlflow.tracing
import numpy as np
from mlflow import dspy as mlflow_dspy
from opentelemetry import trace

EXPERIMENT = "beside"
VERSION = "maps-v1"
PATIENCE = 120.0
"""Seconds; no measure of anything."""
RAISED = Path("raised.json")
"""What the calls of MLflow's API raised into the program, by the name of the case."""


class Tracer(str, Enum):
    """Which of the two traces the program."""

    THEIRS = "mlflow.dspy.autolog"
    OURS = "mlflow_bridge.autolog"


class Asked(str, Enum):
    """The question of each case, by which its traces are found again."""

    PLAIN = "Where is Paris?"
    AGENT = "Book a trip to Paris."
    RETRIEVAL = "What do the papers say of Paris?"
    ERROR = "Where is Atlantis?"
    TOOLS = "Which tool finds Paris?"
    BELOW_MLFLOW = "Who stands below MLflow's span?"
    BELOW_OTEL = "Who stands below a web framework's span?"
    CONTEXT = "Who asks for Paris?"
    RUN = "Which run asks for Paris?"
    VERSION = "Which version asks for Paris?"
    PARALLEL = "How far is Paris?"
    FEEDBACK = "Is Paris rated while asked for?"
    FEEDBACK_AFTER = "Is Paris rated right after?"
    TAG_AFTER = "Is Paris tagged right after?"
    EVALUATION = "What is Paris worth?"


def weather(city: str) -> str:
    """The weather in a city."""
    return f"It is sunny in {city}."


def book(city: str) -> str:
    """Book a trip, which fails."""
    raise ConnectionError(f"no trains to {city}")


class Papers(dspy.Retrieve):
    """A retriever of the program's own, which searches two papers with one of DSPy's."""

    def __init__(self) -> None:
        super().__init__(k=1)
        embedder = dspy.Embedder(_vectors, caching=False)
        papers = ["Paris is in France.", "Rome is in Italy."]
        self.index = dspy.retrievers.Embeddings(papers, embedder, k=1, normalize=False)

    def forward(self, query: str) -> dspy.Prediction:
        return self.index(query)


class Retrieval(dspy.Module):
    """Searches, and answers from what it finds."""

    def __init__(self) -> None:
        super().__init__()
        self.search = Papers()
        self.answer = dspy.ChainOfThought("context: list[str], question -> answer")

    def forward(self, question: str) -> dspy.Prediction:
        return self.answer(context=self.search(question).passages, question=question)


class Lost(dspy.Module):
    """Asks, and then fails."""

    def __init__(self) -> None:
        super().__init__()
        self.answer = dspy.Predict("question -> answer")

    def forward(self, question: str) -> dspy.Prediction:
        self.answer(question=question)
        raise LookupError("no such city")


class SideBySide(dspy.Module):
    """Asks twice at the same time."""

    def __init__(self) -> None:
        super().__init__()
        self.answer = dspy.Predict("question -> answer")

    def forward(self, question: str) -> list[dspy.Prediction]:
        each = dspy.Example(question=question).with_inputs("question")
        run = dspy.Parallel(num_threads=2, disable_progress_bar=True)
        return run([(self.answer, each), (self.answer, each)])


def _vectors(texts: list[str]) -> Any:
    return np.array([[float("Paris" in text), float("Rome" in text)] for text in texts])


def run(tracer: Tracer, base_url: str) -> None:
    """Run all cases, and deliver their traces."""
    mlflow.set_experiment(EXPERIMENT)
    _begin(tracer)
    lm = dspy.LM("openai/gpt-4o-mini", api_base=base_url, api_key="test", cache=False)
    dspy.configure(lm=lm)
    predict = dspy.Predict("question -> answer")
    _programs(predict)
    _contexts(predict)
    _assessments(predict)
    _evaluation(predict)
    mlflow.flush_trace_async_logging()
    _wait_for_metadata()


def _wait_for_metadata() -> None:
    """Go on until each trace has its metadata, which the bridge writes when no span waits."""
    client = mlflow.MlflowClient()
    experiment = client.get_experiment_by_name(EXPERIMENT)
    assert experiment is not None
    until = time.monotonic() + PATIENCE
    while time.monotonic() < until:
        traces = client.search_traces(
            locations=[experiment.experiment_id], max_results=100, include_spans=False
        )
        if all("mlflow.source.name" in trace.info.trace_metadata for trace in traces):
            return
        time.sleep(0.05)


def _begin(tracer: Tracer) -> None:
    if tracer is Tracer.THEIRS:
        mlflow_dspy.autolog(log_evals=True)
        return
    import mlflow_bridge

    mlflow_bridge.autolog(experiment_name=EXPERIMENT, log_evals=True)


def _programs(predict: dspy.Predict) -> None:
    dspy.ChainOfThought("question -> answer")(question=Asked.PLAIN.value)
    dspy.ReAct("question -> answer", tools=[weather, book])(question=Asked.AGENT.value)
    Retrieval()(question=Asked.RETRIEVAL.value)
    with contextlib.suppress(LookupError):
        Lost()(question=Asked.ERROR.value)
    with dspy.context(adapter=dspy.ChatAdapter(use_native_function_calling=True)):
        chosen = dspy.Predict("question, tools: list[dspy.Tool] -> answer, calls: dspy.ToolCalls")
        chosen(question=Asked.TOOLS.value, tools=[dspy.Tool(weather)])
    SideBySide()(question=Asked.PARALLEL.value)
    with mlflow.start_span("answer request"):
        predict(question=Asked.BELOW_MLFLOW.value)
    with trace.get_tracer("web").start_as_current_span("GET /ask"):
        predict(question=Asked.BELOW_OTEL.value)


def _contexts(predict: dspy.Predict) -> None:
    with mlflow.tracing.context(
        session_id="s-1", user="ada", tags={"team": "maps"}, metadata={"build": "7"}
    ):
        predict(question=Asked.CONTEXT.value)
    with mlflow.start_run(run_name="trips"):
        predict(question=Asked.RUN.value)
    mlflow.set_active_model(name=VERSION)
    predict(question=Asked.VERSION.value)
    mlflow.clear_active_model()


def _assessments(predict: dspy.Predict) -> None:
    raised: dict[str, str] = {}
    with mlflow.start_span("rated") as span, _noted(raised, Asked.FEEDBACK):
        predict(question=Asked.FEEDBACK.value)
        mlflow.log_feedback(trace_id=span.trace_id, name="rated", value=True)
    with _noted(raised, Asked.FEEDBACK_AFTER):
        mlflow.log_feedback(trace_id=_last(predict, Asked.FEEDBACK_AFTER), name="rated", value=True)
    with _noted(raised, Asked.TAG_AFTER):
        mlflow.set_trace_tag(_last(predict, Asked.TAG_AFTER), "seen", "yes")
    RAISED.write_text(json.dumps(raised), "utf-8")


def _last(predict: dspy.Predict, asked: Asked) -> str:
    predict(question=asked.value)
    return str(mlflow.get_last_active_trace_id())


@contextlib.contextmanager
def _noted(raised: dict[str, str], case: Asked) -> Iterator[None]:
    try:
        yield
    except Exception as error:
        raised[case.name] = type(error).__name__


def _evaluation(predict: dspy.Predict) -> None:
    devset = [dspy.Example(question=Asked.EVALUATION.value, answer="7").with_inputs("question")] * 2
    metric: Callable[..., bool] = lambda example, prediction, trace=None: True  # noqa: E731
    dspy.Evaluate(devset=devset, metric=metric, display_progress=False, num_threads=1)(predict)
