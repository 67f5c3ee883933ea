# Copyright The opentelemetry-instrumentation-dspy Authors
# SPDX-License-Identifier: Apache-2.0
"""Runs that are logged by hand: their state, their arguments, and what must not be stored."""

from __future__ import annotations

import builtins
import logging
import sys
from types import ModuleType, SimpleNamespace
from typing import Any

import dspy
import pytest

from mlflow_bridge import ConfigurationError, MLflowLogger, configure_mlflow
from mlflow_bridge.tracking.program_copy import (
    lm_without_secrets,
    program_without_secrets,
    settings_without_secrets,
)
from tests.support.lms import EchoLM


class FakeMLflow(ModuleType):
    """MLflow's active runs, and what was written to each run."""

    def __init__(self) -> None:
        super().__init__("mlflow")
        self.stack: list[Any] = []
        self.ended: list[tuple[str, str]] = []
        self.started: list[dict[str, Any]] = []
        self.batches: list[tuple[str, dict[str, list[Any]]]] = []
        self.calls: list[tuple[Any, ...]] = []
        self.failure: Exception | None = None

    def start_run(self, **options: Any) -> Any:
        self.started.append(options)
        run = SimpleNamespace(info=SimpleNamespace(run_id=f"run-{len(self.started)}"))
        self.stack.append(run)
        return run

    def active_run(self) -> Any:
        return self.stack[-1] if self.stack else None

    def end_run(self, status: str) -> None:
        if self.failure is not None:
            raise self.failure
        self.ended.append((self.stack.pop().info.run_id, status))

    def set_tracking_uri(self, uri: str) -> None:
        self.calls.append(("uri", uri))

    def set_experiment(self, name: str) -> None:
        self.calls.append(("experiment", name))

    def MlflowClient(self) -> Any:
        return self

    def log_batch(self, run_id: str, **items: list[Any]) -> None:
        self.batches.append((run_id, items))

    def log_text(self, run_id: str, text: str, artifact_file: str) -> None:
        self.calls.append(("text", run_id, text, artifact_file))

    def log_dict(self, run_id: str, dictionary: dict[str, Any], artifact_file: str) -> None:
        self.calls.append(("dict", run_id, dictionary, artifact_file))

    def log_artifact(self, run_id: str, local_path: str, artifact_path: str | None) -> None:
        self.calls.append(("artifact", run_id, local_path, artifact_path))

    def set_terminated(self, run_id: str, status: str) -> None:
        self.ended.append((run_id, status))


@pytest.fixture
def mlflow(monkeypatch: pytest.MonkeyPatch) -> FakeMLflow:
    module, entities = FakeMLflow(), ModuleType("mlflow.entities")
    for name in ("Param", "RunTag"):
        setattr(entities, name, lambda key, value: (key, value))
    entities.Metric = lambda key, value, _time, step: (key, value, step)  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "mlflow", module)
    monkeypatch.setitem(sys.modules, "mlflow.entities", entities)
    return module


@pytest.mark.parametrize(
    ("error", "status"),
    [
        (None, "FINISHED"),
        (ValueError("no"), "FAILED"),
        (SystemExit(1), "FAILED"),
        (KeyboardInterrupt(), "KILLED"),
    ],
)
def test_how_the_block_ends_is_the_state_of_the_run(
    mlflow: FakeMLflow, error: BaseException | None, status: str
) -> None:
    def block() -> None:
        with MLflowLogger("tuning", {"team": 7}) as run:
            assert run.run_id == "run-1"
            assert mlflow.active_run().info.run_id == "run-1"
            if error is not None:
                raise error

    if error is None:
        block()
    else:
        with pytest.raises(type(error)) as raised:
            block()
        assert raised.value is error
    assert mlflow.ended == [("run-1", status)]
    assert mlflow.started == [{"run_name": "tuning", "nested": False, "tags": {"team": "7"}}]


def test_inside_of_another_run_it_is_a_child(mlflow: FakeMLflow) -> None:
    mlflow.start_run()
    with MLflowLogger():
        pass
    assert mlflow.started[-1]["nested"] is True
    assert mlflow.ended == [("run-2", "FINISHED")]
    assert mlflow.active_run().info.run_id == "run-1"


def test_a_run_that_the_program_has_left_is_ended_by_its_id(mlflow: FakeMLflow) -> None:
    with MLflowLogger():
        mlflow.stack.clear()
        mlflow.start_run()
    assert mlflow.ended == [("run-1", "FINISHED")]
    assert mlflow.active_run().info.run_id == "run-2"


def test_an_end_that_fails_does_not_hide_the_programs_exception(
    mlflow: FakeMLflow, caplog: pytest.LogCaptureFixture
) -> None:
    mlflow.failure = ConnectionError("MLflow is down")
    with pytest.raises(ValueError, match="mine"), MLflowLogger():
        raise ValueError("mine")
    assert "could not be ended as FAILED" in caplog.text
    with pytest.raises(ConnectionError), MLflowLogger():
        pass


def test_what_is_logged_goes_to_the_run_in_parts(mlflow: FakeMLflow) -> None:
    with MLflowLogger() as run:
        run.log_params({f"p{number}": number for number in range(150)})
        run.log_metrics({f"m{number}": number for number in range(1500)}, step=3)
        run.set_tags({"a": 1})
        run.log_text("hello", "notes.md")
        run.log_dict({"k": [1]}, "config.json")
        run.log_artifact(__file__)
    sizes = [(name, len(items)) for _, batch in mlflow.batches for name, items in batch.items()]
    assert sizes == [
        ("params", 100),
        ("params", 50),
        ("metrics", 1000),
        ("metrics", 500),
        ("tags", 1),
    ]
    assert {run_id for run_id, _ in mlflow.batches} == {"run-1"}
    assert mlflow.batches[2][1]["metrics"][0] == ("m0", 0.0, 3)
    assert [call[0] for call in mlflow.calls] == ["text", "dict", "artifact"]


def test_a_long_value_is_cut_with_a_warning(
    mlflow: FakeMLflow, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING), MLflowLogger() as run:
        run.log_params({"prompt": "x" * 7000})
    assert mlflow.batches[0][1]["params"] == [("prompt", "x" * 6000)]
    assert "prompt" in caplog.text


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda run: run.log_params([1]), r"params is a list; accepted: a mapping"),
        (lambda run: run.log_params({1: 2}), r"a name in params is 1; accepted: a text"),
        (lambda run: run.log_metrics({"a": "1"}), r"metrics\['a'\] is '1'; accepted: a number"),
        (lambda run: run.log_metrics({"a": None}), r"metrics\['a'\] is None; accepted: a number"),
        (lambda run: run.log_metrics({"a": 1}, step=0.5), r"step is 0.5; accepted: an integer"),
        (lambda run: run.log_metrics({"a": 1}, step=True), r"step is True; accepted: an integer"),
        (lambda run: run.log_text(1, "a"), r"text is a int; accepted: a text"),
        (lambda run: run.log_text("a", " "), r"artifact_file is ' '; accepted: a text"),
        (lambda run: run.log_artifact("/not/there"), r"'/not/there'; accepted: a file"),
        (lambda run: run.log_program(object()), r"program is a object; accepted: a dspy.Module"),
        (lambda run: run.log_program(dspy.Module(), ""), r"name is ''; accepted: a text"),
        (lambda run: run.__enter__(), r"one block for each object"),
    ],
)
def test_a_wrong_argument_says_what_is_accepted(
    mlflow: FakeMLflow, call: Any, message: str
) -> None:
    with MLflowLogger() as run, pytest.raises(ConfigurationError, match=message):
        call(run)
    assert mlflow.ended == [("run-1", "FINISHED")]


def test_wrong_arguments_of_the_logger_itself(mlflow: FakeMLflow) -> None:
    for name in ("", 7):
        with pytest.raises(ConfigurationError, match="run_name"):
            MLflowLogger(name)  # type: ignore[arg-type]
    with pytest.raises(ConfigurationError, match="tags is a list"):
        MLflowLogger(tags=["a"])  # type: ignore[arg-type]
    with pytest.raises(ConfigurationError, match="before its block begins"):
        _ = MLflowLogger().run_id
    with pytest.raises(ConfigurationError, match="before its block begins"):
        MLflowLogger().log_params({"a": 1})


def test_configuring_mlflow(mlflow: FakeMLflow) -> None:
    configure_mlflow()
    configure_mlflow("sqlite:///x.db", "rag")
    configure_mlflow(experiment_name="other")
    assert mlflow.calls == [
        ("uri", "sqlite:///x.db"),
        ("experiment", "rag"),
        ("experiment", "other"),
    ]
    with pytest.raises(ConfigurationError, match="experiment_name is ''"):
        configure_mlflow(experiment_name="")


def test_without_mlflow_the_error_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "mlflow", None)
    with pytest.raises(ConfigurationError, match=r"mlflow-bridge\[mlflow\]"):
        configure_mlflow("sqlite:///x.db")
    with pytest.raises(ConfigurationError, match=r"mlflow-bridge\[mlflow\]"), MLflowLogger():
        builtins.print("not reached")


SECRET = "sk-canary-1"
OPTIONS = {
    "api_key": SECRET,
    "extra_headers": {"Authorization": SECRET},
    "azure_ad_token": SECRET,
    "api_base": f"https://user:{SECRET}@host/v1",
    "max_tokens": 7,
    "temperature": 0.5,
}


def lm() -> Any:
    made = EchoLM("-")
    made.kwargs = dict(OPTIONS)
    made.history = [{"kwargs": {"api_key": SECRET}}]
    return made


def test_a_copy_of_a_language_model_has_no_secrets() -> None:
    given = lm()
    made = lm_without_secrets(given)
    assert made.kwargs == {"api_base": "https://host/v1", "max_tokens": 7, "temperature": 0.5}
    assert made.history == []
    assert given.kwargs == OPTIONS
    assert len(given.history) == 1


def test_a_language_model_that_holds_its_key_elsewhere_is_left_out(
    caplog: pytest.LogCaptureFixture,
) -> None:
    given = lm()
    given.client = SimpleNamespace(key=SECRET)
    assert lm_without_secrets(given) is None
    assert "EchoLM is not stored" in caplog.text
    given.client = (one for one in ())  # cannot be pickled
    assert lm_without_secrets(given) is None


def test_a_copy_of_a_program_has_no_secrets_at_any_depth() -> None:
    class Program(dspy.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner = dspy.ChainOfThought("question -> answer")
            self.judge = lm()

    program = Program()
    program.inner.set_lm(lm())
    made = program_without_secrets(program)
    assert SECRET not in repr(made.judge.kwargs)
    assert all(SECRET not in repr(one.lm.kwargs) for _, one in made.named_predictors())
    assert program.judge.kwargs == OPTIONS
    assert all(one.lm.kwargs == OPTIONS for _, one in program.named_predictors())


def test_the_settings_have_no_secrets_in_the_block() -> None:
    with dspy.context(lm=lm(), callbacks=[object()]):
        with settings_without_secrets():
            assert SECRET not in repr(dspy.settings.lm.kwargs)
            assert dspy.settings.callbacks == []
        assert dspy.settings.lm.kwargs == OPTIONS
