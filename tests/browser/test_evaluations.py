# Copyright The opentelemetry-instrumentation-dspy Authors
# SPDX-License-Identifier: Apache-2.0
"""MLflow's pages of evaluations show ``dspy.Evaluate`` as they show MLflow's own evaluations."""

from __future__ import annotations

import textwrap
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.browser.pages import open_page, take_picture, wait_for
from tests.integration.traced_program import run_program
from tests.support.children import MLFLOW
from tests.support.mlflow_server import MLflowServer

pytestmark = pytest.mark.browser

EVALUATIONS = textwrap.dedent(
    """
    import dspy
    from dspy.utils import DummyLM
    from mlflow_bridge import autolog

    autolog(log_evals=True)
    FACTS = {
        "What is the capital of Japan?": "Tokyo",
        "What is the capital of France?": "Paris",
        "How many legs has a spider?": "8",
        "Who wrote Hamlet?": "Shakespeare",
        "What is H2O?": "water",
        "What is 6 x 7?": "42",
        "Which planet is red?": "Mars",
        "Who painted Guernica?": "Picasso",
    }
    devset = [dspy.Example(question=q, answer=a).with_inputs("question") for q, a in FACTS.items()]

    class Program(dspy.Module):
        def __init__(self, *unknown):
            super().__init__()
            self.answer = dspy.Predict("question -> answer")
            self.unknown = unknown

        def forward(self, question):
            self.answer(question=question)
            known = list(FACTS).index(question) not in self.unknown
            return dspy.Prediction(answer=FACTS[question] if known else "I do not know")

    def correct(example, prediction, trace=None):
        is_right = example.answer == prediction.answer
        return dspy.Prediction(
            score=float(is_right), feedback="right" if is_right else f"expected {example.answer}"
        )

    dspy.configure(lm=DummyLM([{"answer": "-"}] * 100))
    for program in (Program(1, 3, 5), Program(3)):
        dspy.Evaluate(devset=devset, metric=correct, num_threads=4)(program)
    """
)


@pytest.fixture(scope="module")
def pages(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, str]]:
    """The addresses of the pages of two evaluations, the second of a better program."""
    from mlflow import MlflowClient

    directory: Path = tmp_path_factory.mktemp("server")
    with MLflowServer(directory) as server:
        environment = {"MLFLOW_TRACKING_URI": server.uri, "MLFLOW_EXPERIMENT_NAME": "facts"}
        run_program(EVALUATIONS, directory, environment, zygote=MLFLOW)
        client = MlflowClient(server.uri)
        experiment = client.get_experiment_by_name("facts")
        assert experiment is not None
        runs = client.search_runs(
            [experiment.experiment_id],
            "tags.`mlflow.runType` = 'genai_evaluate'",
            order_by=["start_time ASC"],
        )
        before, after = (run.info.run_id for run in runs)
        all_runs = f"{server.uri}/#/experiments/{experiment.experiment_id}/evaluation-runs"
        yield {
            "runs": all_runs,
            "compared": f"{all_runs}?selectedRunUuid={after}&compareToRunUuid={before}",
        }


def test_evaluations_are_listed_with_their_scores(browser: Any, pages: dict[str, str]) -> None:
    open_page(browser, pages["runs"])
    text = wait_for(browser, "evaluate correct", "correct/mean", "62.5", "87.5")
    assert text.count("evaluate correct") == 2
    assert text.count("devset") == 2


def test_two_evaluations_are_compared_row_by_row(browser: Any, pages: dict[str, str]) -> None:
    open_page(browser, pages["compared"])
    text = wait_for(browser, "Comparing", "8 of 8", "What is 6 x 7?", "I do not know")
    assert text.count("I do not know") == 4
    take_picture(browser, "evaluations-compared", (1410, 1000))
