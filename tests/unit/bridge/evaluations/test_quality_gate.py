# Copyright The opentelemetry-instrumentation-dspy Authors
# SPDX-License-Identifier: Apache-2.0
"""What criteria mean for the metrics of a run, and the exit codes of the commands."""

from __future__ import annotations

import json
import math
import sys

import pytest

from mlflow_bridge import ConfigurationError, check_quality
from mlflow_bridge.cli import main
from tests.unit.bridge.evaluations.fake_mlflow import FakeMLflow

METRICS = {
    "score": 85.0,
    "errors": 0.0,
    "correctness/mean": 0.85,
    "correctness/min": 0.0,
    "score/mean": 0.85,
    "_lambda_/mean": 0.5,
    "latency/p90": 1.5,
    "nothing/mean": math.nan,
    "plain": 3.0,
}
TAG = "mlflow.genaiEvaluate.qualityCriteria"


@pytest.fixture
def run(fake: FakeMLflow) -> FakeMLflow:
    fake.add_run("r1", name="evaluate correctness", metrics=METRICS)
    return fake


@pytest.mark.parametrize(
    ("criteria", "metric", "value", "met"),
    [
        ("correctness >= 0.8", "correctness/mean", 0.85, True),
        ("correctness >= 0.9", "correctness/mean", 0.85, False),
        ("`correctness/min` == 0", "correctness/min", 0.0, True),
        ("score >= 80", "score", 85.0, True),
        ("`score/mean` > 0.8", "score/mean", 0.85, True),
        ("errors == 0", "errors", 0.0, True),
        ("traces >= 1", "traces", None, False),
        ("`latency/p90` <= 2", "latency/p90", 1.5, True),
        ("`latency/p90` < 1.5", "latency/p90", 1.5, False),
        ("`<lambda>` >= 0.5", "_lambda_/mean", 0.5, True),
        ("plain != 3", "plain", 3.0, False),
        ("misspelt >= 0", "misspelt/mean", None, False),
        ("`latency/p42` <= 2", "latency/p42", None, False),
    ],
)
def test_names_of_metrics(
    run: FakeMLflow, criteria: str, metric: str, value: float | None, met: bool
) -> None:
    report = check_quality("r1", criteria)
    [found] = report.results
    assert (found.metric, found.value, found.met) == (metric, value, met)
    assert report.met is met
    assert report.exit_code == (0 if met else 1)


def test_nan_meets_nothing(run: FakeMLflow) -> None:
    assert check_quality("r1", "nothing != 1").exit_code == 1


def test_all_conditions_have_to_be_met(run: FakeMLflow) -> None:
    report = check_quality("r1", "correctness >= 0.8 AND score >= 90")
    assert [one.met for one in report.results] == [True, False]
    assert not report.met
    assert str(report).splitlines() == [
        "evaluate correctness (r1, FINISHED) does not meet the criteria",
        "  met: correctness >= 0.8 (correctness/mean is 0.85)",
        "  not met: score >= 90 (score is 85)",
    ]


@pytest.mark.parametrize(
    ("status", "met"),
    [("FINISHED", True), ("RUNNING", True), ("FAILED", False), ("KILLED", False)],
)
def test_a_run_that_failed_meets_nothing(run: FakeMLflow, status: str, met: bool) -> None:
    run.runs["r1"].info.status = status
    assert check_quality("r1", "score >= 1").met is met


def test_the_criteria_are_written_to_the_run(run: FakeMLflow) -> None:
    check_quality("r1", "correctness >= 0.8 AND score >= 80")
    rules = json.loads(run.tags[TAG])["rules"]
    assert [rule["metricKey"] for rule in rules] == ["correctness/mean", "score"]


@pytest.mark.parametrize(
    ("criteria", "set_tag"), [("score >= 80", False), ("score > 80", True), ("a != 1", True)]
)
def test_no_tag(run: FakeMLflow, criteria: str, set_tag: bool) -> None:
    check_quality("r1", criteria, set_tag=set_tag)
    assert run.tags == {}


def test_the_right_to_write_is_not_needed(
    run: FakeMLflow, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def refuse(*arguments: object) -> None:
        raise PermissionError("read only")

    monkeypatch.setattr(run, "set_tag", refuse)
    assert check_quality("r1", "score >= 80").met
    assert "read only" in caplog.text


def test_the_run_by_name(run: FakeMLflow) -> None:
    assert check_quality("evaluate correctness", "score >= 80").run_id == "r1"
    with pytest.raises(ConfigurationError, match=r"run of check_quality\(\) is 'r2'"):
        check_quality("r2", "score >= 80")


def test_without_mlflow_the_error_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "mlflow", None)
    with pytest.raises(ConfigurationError, match=r"pip install 'mlflow-bridge\[mlflow\]'"):
        check_quality("r1", "score >= 1")


@pytest.mark.parametrize(
    ("arguments", "code"),
    [
        (["r1", "score >= 80"], 0),
        (["r1", "score >= 90"], 1),
        (["r1", "missing >= 90"], 1),
        (["r1", "score >="], 2),
        (["r2", "score >= 80"], 2),
    ],
)
def test_exit_codes_of_gate(
    run: FakeMLflow, arguments: list[str], code: int, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["gate", *arguments]) == code
    shown = capsys.readouterr()
    assert shown.err.startswith("error: ") is (code == 2)
    assert all(line.isprintable() for line in (shown.out + shown.err).splitlines())


def test_the_gate_in_json(run: FakeMLflow, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["gate", "r1", "nothing >= 1", "--json", "--no-tag"]) == 1
    said = json.loads(capsys.readouterr().out)
    assert said["met"] is False
    assert said["results"][0]["value"] is None
    assert run.tags == {}


@pytest.mark.parametrize("arguments", [["gate"], ["compare", "one"], ["compare", "a", "b", "--x"]])
def test_wrong_usage_has_its_own_exit_code(arguments: list[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(arguments)
    assert ended.value.code == 2


@pytest.mark.parametrize(
    ("arguments", "code"),
    [
        (["better", "worse"], 0),
        (["better", "worse", "--require", "improved"], 0),
        (["worse", "better"], 1),
        (["worse", "better", "--require", "nothing"], 0),
        (["worse", "better", "--lower-is-better", "graded"], 0),
        (["better", "worse", "--require", "improved", "--alpha", "0.001"], 1),
        (["better", "missing"], 2),
        (["better", "worse", "--scorer", "missing"], 2),
    ],
)
def test_exit_codes_of_compare(
    fake: FakeMLflow, arguments: list[str], code: int, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("scipy")
    fake.add_evaluation("worse", "graded", [0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7])
    fake.add_evaluation("better", "graded", [0.2, 0.4, 0.6, 0.8, 0.9, 0.9, 0.9])
    assert main(["compare", *arguments]) == code
    shown = capsys.readouterr()
    assert shown.err.startswith("error: ") is (code == 2)
    assert ("graded" in shown.out) is (code != 2)


def test_the_comparison_in_json(fake: FakeMLflow, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("scipy")
    fake.add_evaluation("worse", "graded", [0.5] * 7)
    fake.add_evaluation("better", "graded", [0.5] * 7)
    assert main(["compare", "better", "worse", "--json"]) == 0
    said = json.loads(capsys.readouterr().out)
    assert said["scorers"]["graded"]["effect_size"] is None
    assert said["holds"] is True
