# Copyright The opentelemetry-instrumentation-dspy Authors
# SPDX-License-Identifier: Apache-2.0
"""Which examples are compared, and by what."""

from __future__ import annotations

import logging
import math
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from mlflow_bridge import ConfigurationError, ScorerComparison, compare_evaluations
from mlflow_bridge._setup import autolog
from mlflow_bridge.evaluations.comparison_result import MLFLOWS_FIELDS
from tests.unit.bridge.evaluations.fake_mlflow import (
    URI,
    FakeMLflow,
    expectation,
    feedback,
    span,
)

pytest.importorskip("scipy")

WORSE = [0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7]
BETTER = [0.2, 0.4, 0.6, 0.8, 0.9, 0.9, 0.9]


@pytest.fixture
def two(fake: FakeMLflow) -> FakeMLflow:
    fake.add_evaluation("worse", "graded", WORSE)
    fake.add_evaluation("better", "graded", BETTER)
    return fake


def graded(*, candidate: str = "better", baseline: str = "worse", **more: Any) -> ScorerComparison:
    return compare_evaluations(candidate, baseline, **more).scorers["graded"]


def test_a_better_run_is_found(two: FakeMLflow) -> None:
    result = compare_evaluations("better", "worse")
    assert two.uri == URI
    assert result.engine == "scipy"
    found = result.scorers["graded"]
    assert (found.status, found.n_paired, found.ties) == ("ok", 7, 0)
    assert found.p_value == pytest.approx(2 / 2**7)
    result.assert_improved()
    result.assert_improved(["graded"], alpha=0.02)
    result.assert_not_worse()
    assert result.paired_rows[0] == {
        "baseline_trace_id": "tr-worse-0",
        "candidate_trace_id": "tr-better-0",
        "paired_on": "eval_request_id",
        "scores": {"graded": {"baseline": 0.1, "candidate": 0.2, "delta": 0.1}},
    }


def test_a_worse_run_does_not_hold(two: FakeMLflow) -> None:
    result = compare_evaluations("worse", "better")
    with pytest.raises(AssertionError, match=r"graded: diff=-0\.2"):
        result.assert_improved()
    with pytest.raises(AssertionError, match="is worse than"):
        result.assert_not_worse()
    lower = compare_evaluations("worse", "better", greater_is_better={"graded": False})
    lower.assert_improved()
    assert lower.scorers["graded"].diff == result.scorers["graded"].diff


def test_a_difference_by_chance_is_neither_better_nor_worse(two: FakeMLflow) -> None:
    two.add_evaluation("mixed", "graded", [0.2, 0.1, 0.4, 0.3, 0.6, 0.5, 0.7])
    result = compare_evaluations("mixed", "worse")
    result.assert_not_worse()
    with pytest.raises(AssertionError, match="not shown to be better"):
        result.assert_improved()


def test_a_trace_that_cannot_be_read_has_its_score(two: FakeMLflow) -> None:
    broken = SimpleNamespace(to_dict=lambda: {"span_id": "not base64", "name": "x"})
    two.traces["better"][0].data.spans = [broken]
    assert graded().n_paired == 7


def test_few_pairs_hold_for_nothing(fake: FakeMLflow) -> None:
    fake.add_evaluation("worse", "graded", [0.0] * 5)
    fake.add_evaluation("better", "graded", [1.0] * 5)
    result = compare_evaluations("better", "worse")
    assert result.scorers["graded"].status == "insufficient_pairs"
    assert any("5 pairs, which are too few" in note for note in result.notes)
    for required in (result.assert_improved, result.assert_not_worse):
        with pytest.raises(AssertionError, match="insufficient_pairs"):
            required()


def test_examples_are_paired_in_any_order_and_over_pages(two: FakeMLflow) -> None:
    first = graded()
    two.traces["better"].reverse()
    two.page = 2
    again = graded()
    assert (again.n_paired, again.p_value) == (first.n_paired, first.p_value)
    assert again.diff == pytest.approx(first.diff)
    assert two.searches == 2 + 4 + 4


def test_duplicates_and_strangers_are_left_out(two: FakeMLflow) -> None:
    for run_id, request in (
        ("better", "r0"),
        ("worse", "only here"),
        ("better", "twice"),
        ("better", "twice"),
    ):
        two.add_trace(run_id, feedback("graded", 1.0), request=request)
    result = compare_evaluations("better", "worse")
    assert result.scorers["graded"].n_paired == 6
    assert result.unpaired_baseline_trace_ids == ["tr-worse-0", "tr-worse-7"]
    assert set(result.unpaired_candidate_trace_ids) == {
        "tr-better-0",
        "tr-better-7",
        "tr-better-8",
        "tr-better-9",
    }
    assert any("2 examples of the baseline and 4 of the candidate" in one for one in result.notes)


def test_examples_without_ids_are_paired_by_their_inputs(fake: FakeMLflow) -> None:
    for run_id, scores in (("worse", WORSE), ("better", BETTER)):
        fake.add_run(run_id)
        for number, score in enumerate(scores):
            inputs = {"a": 1, "q": number} if run_id == "worse" else {"q": number, "a": 1}
            root = span(1, **{"mlflow.spanInputs": inputs})
            fake.add_trace(run_id, feedback("graded", score), spans=[root])
    result = compare_evaluations("better", "worse")
    assert {row["paired_on"] for row in result.paired_rows} == {"inputs_hash"}
    assert result.scorers["graded"].p_value == pytest.approx(2 / 2**7)


def test_a_failed_example_is_counted_and_left_out(two: FakeMLflow) -> None:
    for run_id, score in (("worse", 0.5), ("better", None), ("worse", None), ("better", 0.5)):
        number = len(two.traces[run_id])
        failed = feedback("graded", error="ValueError") if score is None else None
        two.add_trace(run_id, failed or feedback("graded", score), request=f"r{number}")
    result = compare_evaluations("better", "worse")
    found = result.scorers["graded"]
    assert (found.n_paired, len(result.paired_rows)) == (7, 9)
    assert (found.baseline_errors, found.candidate_errors) == (1, 1)
    assert any(
        "1 examples of the baseline and 1 of the candidate, which are left out" in note
        for note in result.notes
    )


def test_a_failed_example_counts_as_the_given_score(two: FakeMLflow) -> None:
    two.add_trace("worse", feedback("graded", 0.5), request="r7")
    two.add_trace("better", feedback("graded", error="ValueError"), request="r7")
    result = compare_evaluations("better", "worse", failure_score=0.0)
    found = result.scorers["graded"]
    assert found.n_paired == 8
    assert result.paired_rows[7]["scores"]["graded"]["candidate"] == 0.0
    assert any("which count as 0" in note for note in result.notes)


def test_a_metric_that_failed_everywhere_is_not_lost(two: FakeMLflow) -> None:
    two.add_run("broken")
    for number in range(7):
        two.add_trace("broken", feedback("graded", error="KeyError"), request=f"r{number}")
    found = graded(candidate="broken")
    assert (found.status, found.n_paired, found.candidate_errors) == ("insufficient_pairs", 0, 7)
    assert graded(candidate="broken", failure_score=0.0).is_worse()


@pytest.mark.parametrize("value", [math.nan, math.inf, "a text", None, {"a": 1}])
def test_what_is_no_number_is_no_score(two: FakeMLflow, value: Any) -> None:
    two.traces["better"][3].info.assessments = (feedback("graded", value),)
    found = graded()
    assert found.n_paired == 6
    assert found.p_value is not None
    assert math.isfinite(found.p_value)


def test_truth_values_and_yes_and_no_are_binary(fake: FakeMLflow) -> None:
    fake.add_evaluation("worse", "graded", [False] * 7)
    fake.add_evaluation("better", "graded", ["yes", "YES", True, "no", True, True, True])
    found = graded()
    assert (found.value_type, found.method) == ("binary", "mcnemar_exact")
    assert found.p_value == pytest.approx(2 * 0.5**6)
    assert found.candidate_mean == pytest.approx(6 / 7)


def test_other_assessments_are_not_scores(two: FakeMLflow) -> None:
    for trace in two.traces["better"]:
        trace.info.assessments = (
            *trace.info.assessments,
            expectation("graded", 0.0),
            feedback("graded", 0.0, valid=False),
            feedback("graded", 0.0, run_id="another run"),
        )
    assert graded().candidate_mean == pytest.approx(sum(BETTER) / 7)


def test_several_values_of_an_example_are_averaged(two: FakeMLflow) -> None:
    for trace in two.traces["better"]:
        trace.info.assessments = (feedback("graded", 0.5), feedback("graded", 1.0))
    assert graded().candidate_mean == 0.75


def test_different_metrics(two: FakeMLflow) -> None:
    two.add_evaluation("other", "judged", BETTER)
    result = compare_evaluations("other", "worse")
    assert result.scorers == {}
    [note] = [note for note in result.notes if "No metric" in note]
    assert "baseline has graded" in note
    assert "candidate has judged" in note
    for required in (result.assert_improved, result.assert_not_worse):
        with pytest.raises(AssertionError, match="nothing was compared"):
            required()


def test_chosen_metrics(two: FakeMLflow) -> None:
    for run_id in ("worse", "better"):
        for trace in two.traces[run_id]:
            trace.info.assessments = (*trace.info.assessments, feedback("judged", 0.5))
    assert list(compare_evaluations("better", "worse").scorers) == ["graded", "judged"]
    chosen = compare_evaluations("better", "worse", scorers=["judged"])
    assert list(chosen.scorers) == ["judged"]
    with pytest.raises(ConfigurationError, match=r"\['jugded'\].*accepted.*graded, judged"):
        compare_evaluations("better", "worse", scorers=["jugded"])
    with pytest.raises(ConfigurationError, match=r"\['graded'\].*judged"):
        chosen.assert_improved(["graded"])
    with pytest.raises(ConfigurationError, match="accepted"):
        chosen.assert_improved([])


def test_latency_tokens_and_cost_are_compared(fake: FakeMLflow) -> None:
    for run_id, factor in (("worse", 3), ("better", 1)):
        fake.add_run(run_id)
        for number in range(8):
            program = span(
                2,
                parent=1,
                seconds=factor * (number + 1),
                **{
                    "dspy.operation": "predict",
                    "dspy.lm.cost.total": factor * 0.01,
                    "mlflow.chat.tokenUsage": {"total_tokens": factor * (number + 10)},
                    "mlflow.llm.cost": {"total_cost": factor * (number + 1) * 0.01},
                },
            )
            root = span(1, seconds=100, **{"dspy.operation": "example"})
            fake.add_trace(
                run_id, feedback("graded", 1.0), request=f"r{number}", spans=[root, program]
            )
    result = compare_evaluations("better", "worse")
    assert list(result.measures) == ["latency", "tokens", "cost"]
    latency = result.measures["latency"]
    assert (latency.baseline_mean, latency.candidate_mean) == (13.5, 4.5)
    assert latency.p_value == pytest.approx(2 / 2**8)
    assert result.measures["tokens"].diff == -27.0
    assert result.measures["cost"].diff == pytest.approx(-0.09)
    result.assert_improved(["latency", "tokens", "cost"])
    assert list(result.summary()["scorer"]) == ["graded", "latency", "tokens", "cost"]


def test_measures_that_the_traces_do_not_have(two: FakeMLflow) -> None:
    assert compare_evaluations("better", "worse").measures == {}


def test_the_statistics_are_logged_under_mlflows_names(fake: FakeMLflow) -> None:
    fake.add_evaluation("0123456789abcdef", "<lambda>", WORSE)
    fake.add_evaluation("better", "<lambda>", BETTER)
    result = compare_evaluations("better", "0123456789abcdef", log_results=True)
    found = result.scorers["<lambda>"]
    key = "compare/01234567"
    assert dict(fake.logged["better"]) == {
        f"{key}/_lambda_/{name}": getattr(found, name)
        for name in ("diff", "ci_low", "ci_high", "p_value", "effect_size", "n_paired")
    }
    assert fake.dicts == {f"{key}.json": {"baseline_run_id": "0123456789abcdef"}}


def test_notes_are_warnings(two: FakeMLflow, caplog: pytest.LogCaptureFixture) -> None:
    two.runs["better"].info.status = "RUNNING"
    with caplog.at_level(logging.WARNING):
        result = compare_evaluations("better", "worse")
    assert "is RUNNING" in result.notes[0]
    assert caplog.messages == list(result.notes)


class OwnFunction:
    """``mlflow.genai.compare_evaluations`` of MLflow 3.18."""

    def __init__(self) -> None:
        self.calls: list[tuple[Any, Any]] = []
        self.error: Exception | None = None

    def __call__(self, candidate_run_id: str, baseline_run_id: str, **more: Any) -> Any:
        self.calls.append(((candidate_run_id, baseline_run_id), more))
        if self.error is not None:
            raise self.error
        values = dict.fromkeys(MLFLOWS_FIELDS)
        values |= {"scorer": "graded", "status": "ok", "n_paired": 7, "p_value": 0.25}
        return SimpleNamespace(
            scorers={"graded": SimpleNamespace(**values)},
            paired_rows=[{"paired_on": "eval_request_id"}],
            unpaired_baseline_trace_ids=["tr-1"],
            unpaired_candidate_trace_ids=[],
        )


@pytest.fixture
def own(two: FakeMLflow, monkeypatch: pytest.MonkeyPatch) -> OwnFunction:
    made = OwnFunction()
    monkeypatch.setattr(sys.modules["mlflow.genai"], "compare_evaluations", made, raising=False)
    return made


def test_mlflows_own_function_is_used(own: OwnFunction) -> None:
    result = compare_evaluations("better", "worse", confidence_level=0.9)
    assert result.engine == "mlflow"
    assert result.scorers["graded"].p_value == 0.25
    assert result.unpaired_baseline_trace_ids == ["tr-1"]
    assert own.calls == [
        (("better", "worse"), {"greater_is_better": {}, "confidence_level": 0.9}),
    ]


@pytest.mark.parametrize(
    "more", [{"seed": 1}, {"failure_score": 0.0}, {"tracking_uri": "http://b"}]
)
def test_mlflows_own_function_is_not_used_for_what_it_cannot_do(
    own: OwnFunction, more: dict[str, Any]
) -> None:
    assert compare_evaluations("better", "worse", **more).engine == "scipy"
    assert own.calls == []


def test_the_store_may_be_written_in_another_way(own: OwnFunction, two: FakeMLflow) -> None:
    assert compare_evaluations("better", "worse", tracking_uri=f"{URI}/").engine == "mlflow"
    own.calls.clear()
    two.own_uri = "sqlite:///mlflow.db"
    assert compare_evaluations("better", "worse").engine == "scipy"
    path = Path("mlflow.db").absolute()
    assert compare_evaluations("better", "worse", tracking_uri=f"sqlite:///{path}").engine == (
        "mlflow"
    )
    two.own_uri = "databricks"
    assert compare_evaluations("better", "worse").engine == "scipy"


def test_mlflows_own_function_gets_no_scores_that_are_no_numbers(
    own: OwnFunction, two: FakeMLflow
) -> None:
    two.traces["better"][0].info.assessments = (feedback("graded", math.nan),)
    assert compare_evaluations("better", "worse").engine == "scipy"


@pytest.mark.parametrize("error", [TypeError("no such argument"), AttributeError("scorer")])
def test_an_error_of_mlflows_own_function_is_one_warning(
    own: OwnFunction, error: Exception, caplog: pytest.LogCaptureFixture
) -> None:
    own.error = error
    for _ in range(2):
        result = compare_evaluations("better", "worse")
        assert result.engine == "scipy"
        assert result.scorers["graded"].p_value == pytest.approx(2 / 2**7)
    assert sum("by SciPy" in message for message in caplog.messages) == 1


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"candidate": "missing"}, "candidate of .* is 'missing'.*no run.*experiment 'ours'"),
        ({"candidate": "no such run!"}, "candidate of .* is 'no such run!'"),
        ({"baseline": ""}, "baseline of .* is ''; accepted: the id of a run"),
        ({"baseline": None}, "baseline of .* is None"),
        ({"baseline": "better"}, "both the run better; accepted: two different runs"),
        ({"baseline": "empty"}, "no trace is linked; accepted: a run of an evaluation"),
        ({"confidence_level": 95}, "confidence_level of .* is 95; accepted"),
        ({"failure_score": math.nan}, "failure_score of .* is nan"),
        ({"seed": -1}, "seed of .* is -1"),
    ],
)
def test_arguments_that_are_not_accepted(
    two: FakeMLflow, arguments: dict[str, Any], message: str
) -> None:
    two.add_run("empty")
    with pytest.raises(ConfigurationError, match=message):
        compare_evaluations(**{"candidate": "better", "baseline": "worse", **arguments})


def test_names_of_runs(two: FakeMLflow) -> None:
    two.runs["worse"].info.run_name = "zero-shot"
    assert compare_evaluations("better", "zero-shot").baseline_run_id == "worse"
    two.add_run("third", name="zero-shot")
    with pytest.raises(ConfigurationError, match="the name of 2 runs, newest first: worse, third"):
        compare_evaluations("better", "zero-shot")
    with pytest.raises(ConfigurationError, match="in experiment 'another'"):
        compare_evaluations("better", "zero-shot", experiment="another")
    with pytest.raises(ConfigurationError, match="no run"):
        compare_evaluations("better", "Zero-Shot")


def test_the_destination_is_that_of_the_client(
    two: FakeMLflow, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    flushes: list[bool] = []

    def flush() -> bool:
        flushes.append(True)
        return len(flushes) == 1

    config = SimpleNamespace(
        tracking_uri="http://other", experiment_id=None, effective_experiment_name="ours"
    )
    client = SimpleNamespace(config=config, flush=flush)
    monkeypatch.setattr(autolog, "get_autolog_client", lambda: client)
    compare_evaluations("better", "worse")
    assert two.uri == "http://other"
    assert not any("still wait" in message for message in caplog.messages)
    compare_evaluations("better", "worse", tracking_uri="http://given")
    assert two.uri == "http://given"
    assert any("still wait" in message for message in caplog.messages)


@pytest.mark.parametrize("missing", ["mlflow", "scipy.stats"])
def test_without_mlflow_the_error_names_the_extra(
    two: FakeMLflow, monkeypatch: pytest.MonkeyPatch, missing: str
) -> None:
    monkeypatch.setitem(sys.modules, missing, None)
    with pytest.raises(ConfigurationError, match=r"pip install 'mlflow-bridge\[mlflow\]'"):
        compare_evaluations("better", "worse")
