# Copyright The opentelemetry-instrumentation-dspy Authors
# SPDX-License-Identifier: Apache-2.0
"""Two evaluations of a better and a worse program, compared and gated in a store."""

from __future__ import annotations

import importlib
import json
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from mlflow_bridge import (
    ConfigurationError,
    EvaluationComparison,
    check_quality,
    compare_evaluations,
)
from mlflow_bridge.evaluations.comparison_result import MLFLOWS_FIELDS
from tests.integration.traced_program import run_program
from tests.support.children import MLFLOW
from tests.support.mlflow_server import MLflowServer

mlflow = pytest.importorskip("mlflow")

pytestmark = pytest.mark.integration

EXAMPLES = 40
SOURCE = """
    import json

    import dspy
    from dspy.utils import DummyLM
    from mlflow_bridge import autolog, check_quality

    client = autolog(log_evals=True)
    devset = [
        dspy.Example(question=f"q{number}", answer="yes", number=number).with_inputs("question")
        for number in range(40)
    ]

    def graded(example, prediction, trace=None):
        if prediction.answer == "fail":
            raise ValueError("cannot be graded")
        if prediction.answer == "yes":
            return 0.8 + example.number / 400
        return 0.5 + example.number / 300

    def correct(example, prediction, trace=None):
        return prediction.answer == example.answer

    def evaluated(metric, answers):
        # One thread, so that each example gets the answer in its place.
        answers = [{"answer": answer} for answer in answers]
        with dspy.context(lm=DummyLM(answers)):
            program = dspy.Predict("question -> answer")
            result = dspy.Evaluate(devset=devset, metric=metric, num_threads=1, max_errors=100)(
                program
            )
        return result.score

    scores = [
        evaluated(graded, ["no"] * 30 + ["yes"] * 8 + ["fail"] * 2),
        evaluated(graded, ["fail"] + ["yes"] * 35 + ["no"] * 4),
        evaluated(correct, ["no"] * 15 + ["yes"] * 25),
    ]
    # What has just ended is delivered first.
    report = check_quality("evaluate correct", "correct >= 0.625 AND traces == 40")
    scores.append(evaluated(correct, ["yes"] * 40))
    complete = client.flush(100)
    print(json.dumps({"scores": scores, "complete": complete, "gate": str(report)}))
"""


@dataclass(frozen=True)
class Evaluated:
    """Where the runs are, and the runs in the order in which they began."""

    uri: str
    runs: list[Any]
    scores: list[float]
    gate: str

    def compared(self, candidate: int, baseline: int, **more: Any) -> EvaluationComparison:
        return compare_evaluations(
            self.runs[candidate].info.run_id,
            self.runs[baseline].info.run_id,
            tracking_uri=self.uri,
            **more,
        )


def evaluate(directory: Path, uri: str) -> Evaluated:
    environment = {"MLFLOW_TRACKING_URI": uri, "MLFLOW_EXPERIMENT_NAME": "compared"}
    done = run_program(SOURCE, directory, environment, zygote=MLFLOW)
    said = json.loads(done.stdout.splitlines()[-1])
    assert said["complete"] is True
    client = mlflow.MlflowClient(uri)
    experiment = client.get_experiment_by_name("compared")
    runs = client.search_runs(
        [experiment.experiment_id],
        "tags.`mlflow.runType` = 'genai_evaluate'",
        order_by=["attributes.start_time ASC"],
    )
    assert len(runs) == 4
    return Evaluated(uri, list(runs), said["scores"], said["gate"])


@pytest.fixture(scope="module")
def evaluated(empty_store: Path, tmp_path_factory: pytest.TempPathFactory) -> Evaluated:
    directory = tmp_path_factory.mktemp("evaluated")
    file = directory / "mlflow.db"
    file.write_bytes(empty_store.read_bytes())
    return evaluate(directory, f"sqlite:///{file}")


def scores_of(evaluated: Evaluated, index: int, metric: str) -> dict[str, float]:
    """The scores of a run by question, as MLflow has them."""
    run = evaluated.runs[index]
    traces = mlflow.MlflowClient(evaluated.uri).search_traces(
        locations=[run.info.experiment_id], run_id=run.info.run_id, max_results=100
    )
    assert len(traces) == EXAMPLES
    found: dict[str, float] = {}
    for trace in traces:
        assessments = {one.name: one for one in trace.info.assessments}
        if assessments[metric].error is None:
            found[str(assessments["number"].value)] = float(assessments[metric].value)
    return found


def test_a_better_program_is_found(evaluated: Evaluated) -> None:
    stats: Any = importlib.import_module("scipy.stats")
    result = evaluated.compared(1, 0)
    before, after = (scores_of(evaluated, index, "graded") for index in (0, 1))
    both = sorted(before.keys() & after.keys())
    old, new = [before[key] for key in both], [after[key] for key in both]
    deltas = [b - a for a, b in zip(old, new, strict=True)]
    nonzero = [delta for delta in deltas if delta]

    [graded] = result.scorers.values()
    assert graded.n_paired == len(both) == EXAMPLES - 3
    assert graded.method == "wilcoxon_exact"
    assert graded.p_value == pytest.approx(stats.wilcoxon(nonzero, method="exact").pvalue)
    assert graded.t_test_p_value == pytest.approx(stats.ttest_rel(new, old).pvalue)
    assert graded.diff == pytest.approx(sum(deltas) / len(deltas))
    assert (graded.baseline_errors, graded.candidate_errors) == (2, 1)
    result.assert_improved(["graded"])
    assert len(result.paired_rows) == EXAMPLES
    assert {row["paired_on"] for row in result.paired_rows} == {"eval_request_id"}
    assert list(result.summary()["scorer"]) == ["graded", *result.measures]

    back = evaluated.compared(0, 1)
    assert back.scorers["graded"].is_worse()
    with pytest.raises(AssertionError, match="is worse than"):
        back.assert_not_worse()


def test_a_tracking_server_gives_the_same_result(
    evaluated: Evaluated, shared_server: MLflowServer, tmp_path: Path
) -> None:
    here = evaluate(tmp_path, shared_server.uri).compared(1, 0).scorers["graded"]
    there = evaluated.compared(1, 0).scorers["graded"]
    assert (here.n_paired, here.candidate_errors) == (there.n_paired, there.candidate_errors)
    assert here.p_value == there.p_value
    assert here.diff == pytest.approx(there.diff)


def test_the_gate_of_an_evaluation_that_has_just_ended(evaluated: Evaluated) -> None:
    assert "meets the criteria" in evaluated.gate


def test_failures_count_as_dspy_counts_them(evaluated: Evaluated) -> None:
    [graded] = evaluated.compared(1, 0, failure_score=0.0).scorers.values()
    assert graded.n_paired == EXAMPLES
    assert graded.baseline_mean == pytest.approx(evaluated.scores[0] / 100, abs=1e-4)
    assert graded.candidate_mean == pytest.approx(evaluated.scores[1] / 100, abs=1e-4)


def test_truth_values_have_the_test_of_mcnemar(evaluated: Evaluated) -> None:
    [correct] = evaluated.compared(3, 2).scorers.values()
    assert correct.method == "mcnemar_exact"
    assert correct.value_type == "binary"
    assert (correct.n_paired, correct.n_nonzero) == (EXAMPLES, 15)
    assert correct.p_value == pytest.approx(2 * 0.5**15)
    assert correct.candidate_mean == 1.0


def test_latencies_are_compared(evaluated: Evaluated) -> None:
    result = evaluated.compared(3, 2)
    latency = result.measures["latency"]
    assert latency.n_paired == EXAMPLES
    assert not latency.greater_is_better
    mean = evaluated.runs[3].data.metrics["latency/mean"]
    assert latency.candidate_mean == pytest.approx(mean, rel=1e-3)


def test_other_metrics_are_not_compared(evaluated: Evaluated) -> None:
    result = evaluated.compared(2, 0)
    assert result.scorers == {}
    assert any("No metric was compared" in note for note in result.notes)
    with pytest.raises(AssertionError, match="nothing was compared"):
        result.assert_not_worse()


def test_the_statistics_are_written_to_the_candidate(evaluated: Evaluated) -> None:
    result = evaluated.compared(3, 2, log_results=True)
    client = mlflow.MlflowClient(evaluated.uri)
    metrics = client.get_run(result.candidate_run_id).data.metrics
    key = f"compare/{result.baseline_run_id[:8]}"
    correct = result.scorers["correct"]
    assert metrics[f"{key}/correct/p_value"] == correct.p_value
    assert metrics[f"{key}/correct/n_paired"] == EXAMPLES
    assert f"{key}/latency/diff" in metrics
    saved = mlflow.artifacts.load_dict(f"{evaluated.runs[3].info.artifact_uri}/{key}.json")
    assert saved == {"baseline_run_id": result.baseline_run_id}


@pytest.mark.skipif(
    not hasattr(mlflow.genai, "compare_evaluations"),
    reason="mlflow.genai.compare_evaluations is there from MLflow 3.18 on",
)
@pytest.mark.parametrize(("candidate", "baseline"), [(1, 0), (3, 2)])
def test_the_fields_and_numbers_are_those_of_mlflow(
    evaluated: Evaluated, candidate: int, baseline: int
) -> None:
    by_scipy = evaluated.compared(candidate, baseline)
    assert by_scipy.engine == "scipy"
    before = mlflow.get_tracking_uri()
    mlflow.set_tracking_uri(evaluated.uri)
    try:
        by_mlflow = evaluated.compared(candidate, baseline)
    finally:
        mlflow.set_tracking_uri(before)
    assert by_mlflow.engine == "mlflow"
    assert by_mlflow.scorers.keys() == by_scipy.scorers.keys()
    for name, theirs in by_mlflow.scorers.items():
        ours = by_scipy.scorers[name]
        assert vars(theirs) == pytest.approx(vars(ours), nan_ok=True)
    assert set(MLFLOWS_FIELDS) == set(
        mlflow.genai.evaluation.comparison.entities.ScorerComparison.__dataclass_fields__
    )


def test_a_name_that_several_runs_have_is_refused(evaluated: Evaluated) -> None:
    with pytest.raises(ConfigurationError, match="the name of 2 runs") as caught:
        compare_evaluations(
            "evaluate graded", "x", tracking_uri=evaluated.uri, experiment="compared"
        )
    assert evaluated.runs[1].info.run_id in str(caught.value)


def test_runs_by_name(evaluated: Evaluated) -> None:
    client = mlflow.MlflowClient(evaluated.uri)
    for index, name in ((2, "it's the baseline"), (3, 'the "better" program')):
        client.update_run(evaluated.runs[index].info.run_id, name=name)
    result = compare_evaluations(
        'the "better" program',
        "it's the baseline",
        tracking_uri=evaluated.uri,
        experiment="compared",
    )
    assert result.candidate_run_id == evaluated.runs[3].info.run_id
    assert result.baseline_run_id == evaluated.runs[2].info.run_id


def test_criteria_of_a_run(evaluated: Evaluated) -> None:
    run_id = evaluated.runs[1].info.run_id
    report = check_quality(
        run_id, "graded >= 0.8 AND score >= 50 AND `latency/p90` <= 60", tracking_uri=evaluated.uri
    )
    assert report.exit_code == 0, str(report)
    assert [one.metric for one in report.results] == ["graded/mean", "score", "latency/p90"]
    tags = mlflow.MlflowClient(evaluated.uri).get_run(run_id).data.tags
    rules = json.loads(tags["mlflow.genaiEvaluate.qualityCriteria"])["rules"]
    assert [rule["metricKey"] for rule in rules] == ["graded/mean", "score", "latency/p90"]

    report = check_quality(
        run_id, "errors == 0 AND faithfulness >= 0.5", tracking_uri=evaluated.uri
    )
    assert report.exit_code == 1
    assert [one.value for one in report.results] == [1.0, None]


def command(evaluated: Evaluated, directory: Path, *arguments: str) -> Any:
    return subprocess.run(
        [sys.executable, "-m", "mlflow_bridge", *arguments, "--tracking-uri", evaluated.uri],
        cwd=directory,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )


def test_commands_for_ci(evaluated: Evaluated, tmp_path: Path) -> None:
    worse, better = (evaluated.runs[index].info.run_id for index in (0, 1))
    done = command(evaluated, tmp_path, "compare", better, worse, "--require", "improved", "--json")
    assert done.returncode == 0, done.stderr
    said = json.loads(done.stdout)
    assert said["holds"] is True
    assert said["scorers"]["graded"]["n_paired"] == EXAMPLES - 3

    done = command(evaluated, tmp_path, "compare", worse, better)
    assert done.returncode == 1, done.stderr
    assert "is worse than" in done.stdout

    done = command(evaluated, tmp_path, "gate", better, "graded >= 0.99")
    assert done.returncode == 1, done.stderr
    assert "not met: graded >= 0.99" in done.stdout

    done = command(evaluated, tmp_path, "gate", better, "graded => 0.99")
    assert done.returncode == 2
    assert "at position 8" in done.stderr
