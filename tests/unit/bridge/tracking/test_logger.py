# Copyright The opentelemetry-instrumentation-dspy Authors
# SPDX-License-Identifier: Apache-2.0
"""Runs that are logged by hand: their state, their arguments, and what must not be stored."""

from __future__ import annotations

import builtins
import copy
import functools
import logging
import sys
from collections.abc import Callable
from types import ModuleType, SimpleNamespace
from typing import Any

import cloudpickle
import dspy
import pytest

from mlflow_bridge import ConfigurationError, MLflowLogger, configure_mlflow
from mlflow_bridge.tracking.program_copy import (
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

    def get_run(self, run_id: str) -> Any:
        status = "RUNNING" if run_id not in dict(self.ended) else "FINISHED"
        return SimpleNamespace(info=SimpleNamespace(status=status))


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


def test_a_run_that_the_program_has_ended_itself_ends_no_other_run(mlflow: FakeMLflow) -> None:
    mlflow.start_run()
    with MLflowLogger():
        mlflow.end_run("FINISHED")
    assert mlflow.ended == [("run-2", "FINISHED"), ("run-2", "FINISHED")]
    assert mlflow.active_run().info.run_id == "run-1"


def test_runs_that_the_block_leaves_open_end_with_it(mlflow: FakeMLflow) -> None:
    with pytest.raises(ValueError, match="no"), MLflowLogger():
        mlflow.start_run()
        raise ValueError("no")
    assert mlflow.ended == [("run-2", "FAILED"), ("run-1", "FAILED")]
    assert mlflow.active_run() is None


def test_a_block_that_overlaps_another_does_not_end_its_run(mlflow: FakeMLflow) -> None:
    first, second = MLflowLogger(), MLflowLogger()
    first.__enter__()
    second.__enter__()
    first.__exit__(None, None, None)
    assert mlflow.ended == [("run-1", "FINISHED")]
    assert mlflow.active_run().info.run_id == "run-2"
    second.__exit__(None, None, None)
    assert mlflow.ended == [("run-1", "FINISHED"), ("run-2", "FINISHED")]


def test_after_the_block_nothing_is_logged(mlflow: FakeMLflow) -> None:
    with MLflowLogger() as run:
        pass
    assert run.run_id == "run-1"
    for call in (
        lambda: run.log_params({"a": 1}),
        lambda: run.log_text("a", "b"),
        lambda: run.log_program(dspy.Module()),
    ):
        with pytest.raises(ConfigurationError, match="has ended"):
            call()


def test_a_program_is_logged_where_the_run_is_active(mlflow: FakeMLflow) -> None:
    with MLflowLogger() as run:
        mlflow.start_run()
        with pytest.raises(ConfigurationError, match="not MLflow's active run"):
            run.log_program(dspy.Module())


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
        (lambda run: run.log_metrics({"a": b"1"}), r"metrics\['a'\] is b'1'; accepted: a number"),
        (lambda run: run.log_metrics({"a": 10**400}), r"accepted: a number"),
        (lambda run: run.log_artifact(None), r"local_path is 'None'; accepted: a file"),
        (lambda run: run.log_artifact(""), r"local_path is ''; accepted: a file"),
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
    "aws_access_key_id": SECRET,
    "extra_body": {"api_key": SECRET, "top_k": 3},
    "api_base": f"https://user:{SECRET}@host/v1?key={SECRET}&version=2",
    "max_tokens": 7,
    "temperature": 0.5,
}
CLEAN = {
    "extra_body": {"top_k": 3},
    "api_base": "https://host/v1?version=2",
    "max_tokens": 7,
    "temperature": 0.5,
}


def lm() -> Any:
    made = EchoLM("-")
    made.kwargs = copy.deepcopy(OPTIONS)
    made.history = [{"kwargs": {"api_key": SECRET}}]
    return made


class Holder:
    def __init__(self, held: Any) -> None:
        self.held = held


class Slotted:
    __slots__ = ("api_key",)

    def __init__(self, api_key: str) -> None:
        self.api_key = api_key


class Holding(dspy.Module):
    def __init__(self, held: Any) -> None:
        super().__init__()
        self.answer = dspy.Predict("question -> answer")
        self.held = held


def shown(value: Any) -> bytes:
    return cloudpickle.dumps(value)


def test_a_copy_of_a_program_has_no_secrets_of_its_language_models() -> None:
    program = dspy.ChainOfThought("question -> answer")
    program.set_lm(lm())
    made = program_without_secrets(program)
    assert made.predict.lm.kwargs == CLEAN
    assert made.predict.lm.history == []
    assert program.predict.lm.kwargs == OPTIONS
    assert len(program.predict.lm.history) == 1


@pytest.mark.parametrize(
    "held",
    [
        pytest.param(lm, id="attribute"),
        pytest.param(lambda: [lm()], id="list"),
        pytest.param(lambda: {"judge": (lm(),)}, id="tuple in a dict"),
        pytest.param(lambda: Holder(lm()), id="object"),
        pytest.param(lambda: dspy.TwoStepAdapter(lm()), id="adapter"),
        pytest.param(lambda: dspy.Predict("a -> b", api_key=SECRET), id="predictor"),
        pytest.param(lambda: Holder({"private_key": SECRET}), id="own object"),
        pytest.param(lambda: {"client": {"password": SECRET}}, id="own settings"),
        pytest.param(lambda: {"extra_body": {"x-api-key": SECRET}}, id="hyphens"),
        pytest.param(lambda: functools.partial(print, api_key=SECRET), id="partial"),
        pytest.param(lambda: Slotted(SECRET), id="slots"),
    ],
)
def test_secrets_are_nowhere_in_a_copy(held: Callable[[], Any]) -> None:
    program = Holding(held())
    before = shown(program)
    assert SECRET.encode() in before
    assert SECRET.encode() not in shown(program_without_secrets(program))
    assert SECRET.encode() in shown(program)


def test_an_attribute_of_the_programs_own_is_emptied() -> None:
    program = Holding(None)
    program.client_api_key = SECRET
    program.threshold = 0.5
    made = program_without_secrets(program)
    assert (made.client_api_key, made.threshold) == (None, 0.5)
    assert program.client_api_key == SECRET


def test_fields_of_examples_stay() -> None:
    program = Holding(None)
    program.answer.demos = [dspy.Example(question="the token?", token="t-1234", answer="a")]
    assert program_without_secrets(program).answer.demos == program.answer.demos


def test_a_secret_that_cannot_be_removed_is_not_stored() -> None:
    key = SECRET
    program = Holding({"api_key": SECRET, "call": lambda: key})
    with pytest.raises(ConfigurationError, match="the program cannot be stored: it holds a secret"):
        program_without_secrets(program)


def test_a_secret_of_the_settings_is_not_stored_with_the_program() -> None:
    key = SECRET
    with dspy.context(lm=lm()), settings_without_secrets() as secrets:
        assert SECRET in secrets
        with pytest.raises(ConfigurationError, match="it holds a secret"):
            program_without_secrets(Holding(lambda: key), secrets)


def test_what_cannot_be_pickled_is_refused_and_not_changed() -> None:
    model = lm()
    program = Holding([model, (one for one in ())])
    with pytest.raises(ConfigurationError, match="the program cannot be stored: TypeError"):
        program_without_secrets(program)
    assert program.held[0] is model
    assert model.kwargs == OPTIONS


def test_the_settings_have_no_secrets_in_the_block() -> None:
    with dspy.context(lm=lm(), adapter=dspy.TwoStepAdapter(lm()), callbacks=[object()]):
        with settings_without_secrets():
            assert dspy.settings.lm.kwargs == CLEAN
            assert SECRET.encode() not in shown(dspy.settings.adapter)
            assert dspy.settings.callbacks == []
        assert dspy.settings.lm.kwargs == OPTIONS
