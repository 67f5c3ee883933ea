# Copyright The opentelemetry-instrumentation-dspy Authors
# SPDX-License-Identifier: Apache-2.0
"""``dspy.Refine`` and ``dspy.BestOfN``: each attempt, its score, and which one won."""

from __future__ import annotations

import copy
import functools
import pickle
import threading
from collections.abc import Callable
from typing import Any

import dspy
import pytest

from opentelemetry.instrumentation.dspy import DSPyInstrumentor
from tests.support.dspy_prompts import chat_text
from tests.support.lms import EchoLM
from tests.support.prompt_lm import PromptLM
from tests.support.traced import Traced
from tests.unit.instrumentation.conftest import TraceWith

pytestmark = pytest.mark.surface("ChainOfThought")

QA = "question -> answer"
JUDGES = pytest.mark.parametrize("judge", [dspy.BestOfN, dspy.Refine], ids=lambda cls: cls.__name__)


class Counting(EchoLM):
    """Answers 1, 2, 3, ...; advice is asked for in another signature."""

    def __init__(self) -> None:
        super().__init__()
        self.answered = 0

    def copy(self, **kwargs: Any) -> Counting:
        return self

    def __deepcopy__(self, memo: Any) -> Counting:
        return self

    def forward(self, prompt: Any = None, messages: Any = None, **kwargs: Any) -> Any:
        if "advice" in messages[0]["content"]:
            self.reply = chat_text(discussion="d", advice={"predict": "be better", "self": "b"})
        else:
            self.answered += 1
            self.reply = chat_text(answer=str(self.answered))
        return super().forward(prompt, messages)


def reward_of(*scores: float) -> Callable[..., float]:
    """A reward function that gives these scores to the answers 1, 2, 3, ..."""

    def correctness(args: dict[str, Any], prediction: Any) -> float:
        return scores[int(prediction.answer) - 1]

    return correctness


def choose(judge: Any, reward: Any, *, attempts: int = 3, threshold: float = 1.0) -> Any:
    options: dict[str, Any] = {"N": attempts, "threshold": threshold, "fail_count": 100}
    chooser = judge(dspy.Predict(QA), reward_fn=reward, **options)
    with dspy.context(lm=Counting()):
        return chooser(question="?")


def told(traced: Traced, name: str) -> dict[str, Any]:
    """What the judge's span says of the attempts."""
    attributes = traced.attributes(name)
    return {
        key.removeprefix("dspy.attempt."): value
        for key, value in attributes.items()
        if key.startswith("dspy.attempt.")
    }


def scores(traced: Traced, name: str) -> list[tuple[Any, Any, Any]]:
    """Name, score and attempt of each event on the judge's span."""
    events = [dict(event.attributes or {}) for event in traced.span(name).events]
    return [
        (
            event["gen_ai.evaluation.name"],
            event["gen_ai.evaluation.score.value"],
            event["dspy.attempt.index"],
        )
        for event in events
    ]


@JUDGES
def test_each_attempt_and_its_score(traced: Traced, judge: Any) -> None:
    result = choose(judge, reward_of(0.25, 0.75, 0.5))
    assert result.answer == "2"
    name = f"invoke_workflow {judge.__name__}"
    assert told(traced, name) == {"count": 3, "best_score": 0.75, "selected_index": 1}
    assert scores(traced, name) == [
        ("correctness", 0.25, 0),
        ("correctness", 0.75, 1),
        ("correctness", 0.5, 2),
    ]
    attempts = [span for span in traced.spans if span.name == "Predict module"]
    indices = [(span.attributes or {})["dspy.attempt.index"] for span in attempts]
    assert indices == [0, 1, 2]


@JUDGES
def test_the_first_attempt_that_is_good_enough(traced: Traced, judge: Any) -> None:
    choose(judge, reward_of(0.5, 1, 0), threshold=1)
    name = f"invoke_workflow {judge.__name__}"
    assert told(traced, name) == {"count": 2, "best_score": 1.0, "selected_index": 1}
    assert type(told(traced, name)["best_score"]) is float


def test_of_equals_the_first_wins(traced: Traced) -> None:
    assert choose(dspy.BestOfN, reward_of(0.5, 0.5, 0.5)).answer == "1"
    assert told(traced, "invoke_workflow BestOfN")["selected_index"] == 0


def test_advice_is_no_attempt(traced: Traced) -> None:
    choose(dspy.Refine, reward_of(0.1, 0.2, 0.3))
    advisers = [span for span in traced.spans if span.name == "Predict OfferFeedback"]
    assert len(advisers) == 2
    assert not [span for span in advisers if "dspy.attempt.index" in (span.attributes or {})]


def test_a_reward_function_that_asks_a_predictor(traced: Traced) -> None:
    judge = dspy.Predict("answer -> verdict")

    def asking(args: dict[str, Any], prediction: Any) -> float:
        judge(answer=prediction.answer)
        return 0.5

    chooser = dspy.BestOfN(dspy.Predict(QA), N=2, reward_fn=asking, threshold=1)
    with dspy.context(lm=PromptLM()):
        chooser(question="?")
    assert told(traced, "invoke_workflow BestOfN")["count"] == 2
    below = [span for span in traced.spans if span.name.startswith("Predict")]
    indices = [(span.attributes or {}).get("dspy.attempt.index") for span in below]
    assert indices == [0, None, 1, None]


def test_attempts_of_a_program(traced: Traced) -> None:
    chooser = dspy.BestOfN(dspy.ChainOfThought(QA), N=2, reward_fn=lambda *_: 0, threshold=1)
    with dspy.context(lm=PromptLM()):
        chooser(question="?")
    paths = [(span.attributes or {}).get("dspy.module.path") for span in traced.spans]
    assert [path for path in paths if path] == ["module.predict", "module"] * 2
    # The event's name is that of the function, whatever it is.
    assert scores(traced, "invoke_workflow BestOfN")[0][0] == "<lambda>"


@JUDGES
def test_an_attempt_that_fails(traced: Traced, judge: Any, capsys: Any) -> None:
    class Failing(Counting):
        def forward(self, prompt: Any = None, messages: Any = None, **kwargs: Any) -> Any:
            response = super().forward(prompt, messages)
            if self.answered in (1, 2):  # ChatAdapter tries again with JSON before dspy 3.4
                raise KeyError("first")
            return response

    chooser = judge(dspy.Predict(QA), N=5, reward_fn=lambda *_: 0.5, threshold=0.5, fail_count=9)
    with dspy.context(lm=Failing()):
        chooser(question="?")
    name = f"invoke_workflow {judge.__name__}"
    facts = told(traced, name)
    assert "failed" in capsys.readouterr().out
    assert facts["count"] > 1
    assert facts["selected_index"] == facts["count"] - 1
    assert scores(traced, name) == [("<lambda>", 0.5, facts["selected_index"])]


def broken(args: Any, prediction: Any) -> float:
    raise ZeroDivisionError("no score")


@JUDGES
def test_a_reward_that_fails(trace_with: TraceWith, judge: Any, capsys: Any) -> None:
    assert choose(judge, broken) is None
    without = capsys.readouterr().out
    traced = trace_with()
    assert choose(judge, broken) is None
    assert capsys.readouterr().out == without
    assert told(traced, f"invoke_workflow {judge.__name__}") == {"count": 3}


@JUDGES
@pytest.mark.parametrize("odd", [None, "good", float("nan")], ids=str)
def test_a_score_that_is_no_number(
    trace_with: TraceWith, judge: Any, odd: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    def outcome() -> tuple[Any, str]:
        return getattr(choose(judge, lambda *_: odd), "answer", None), capsys.readouterr().out

    without = outcome()
    traced = trace_with()
    assert outcome() == without
    name = f"invoke_workflow {judge.__name__}"
    assert scores(traced, name) == []
    assert told(traced, name) == {"count": 3}


class Callable_:
    def __call__(self, args: Any, prediction: Any) -> float:
        return 0.5


def named(args: Any, prediction: Any, weight: float) -> float:
    return weight


@pytest.mark.parametrize(
    ("reward", "name"),
    [(Callable_(), "Callable_"), (functools.partial(named, weight=0.5), "named")],
)
def test_what_a_reward_function_is_called(traced: Traced, reward: Any, name: str) -> None:
    choose(dspy.BestOfN, reward, attempts=1)
    assert scores(traced, "invoke_workflow BestOfN") == [(name, 0.5, 0)]


def test_without_content(trace_with: TraceWith) -> None:
    traced = trace_with(capture_content=False)
    choose(dspy.BestOfN, reward_of(0.25, 0.75, 0.5))
    name = "invoke_workflow BestOfN"
    assert told(traced, name) == {"count": 3, "best_score": 0.75, "selected_index": 1}
    assert len(scores(traced, name)) == 3


def test_one_object_in_many_threads(traced: Traced) -> None:
    chooser = dspy.BestOfN(dspy.Predict(QA), N=3, reward_fn=reward_of(0.1, 0.2, 0.3), threshold=1)
    seen: list[str] = []

    def run() -> None:
        with dspy.context(lm=Counting()):
            seen.append(chooser(question="?").answer)

    threads = [threading.Thread(target=run) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert seen == ["3"] * 8
    roots = [span for span in traced.spans if span.parent is None]
    for root in roots:
        assert (root.attributes or {})["dspy.attempt.selected_index"] == 2
        assert len(root.events) == 3


@JUDGES
def test_the_program_sees_its_own_function(trace_with: TraceWith, judge: Any) -> None:
    before = judge(dspy.Predict(QA), N=1, reward_fn=reward_of(1), threshold=1)
    function = before.reward_fn
    attributes = dict(vars(judge))
    trace_with()
    after = judge(dspy.Predict(QA), N=1, reward_fn=reward_of(1), threshold=1)
    assert before.reward_fn is function is vars(before)["reward_fn"]
    assert after.reward_fn is vars(after)["reward_fn"]
    assert not hasattr(judge, "reward_fn")
    after.reward_fn = other = reward_of(2)
    assert vars(after)["reward_fn"] is other
    del after.reward_fn
    assert not hasattr(after, "reward_fn")
    with pytest.raises(AttributeError):
        del after.reward_fn
    assert copy.deepcopy(before).reward_fn.__code__ is function.__code__
    DSPyInstrumentor().uninstrument()
    assert dict(vars(judge)) == attributes
    assert before.reward_fn is function


class Own(dspy.BestOfN):
    """Has a method where the base class has a function in each instance."""

    def __init__(self) -> None:
        super().__init__(dspy.Predict(QA), N=2, reward_fn=reward_of(0, 0), threshold=1)
        del self.reward_fn

    def reward_fn(self, args: Any, prediction: Any) -> float:  # type: ignore[override]
        return 0.5


def test_a_subclass_with_a_method_of_that_name(traced: Traced) -> None:
    with dspy.context(lm=Counting()):
        Own()(question="?")
    assert told(traced, "invoke_workflow Own") == {"count": 2}


def test_a_reward_function_is_pickled_as_it_is(traced: Traced) -> None:
    chooser = dspy.BestOfN(dspy.Predict(QA), N=1, reward_fn=named, threshold=1)
    chooser.reward_fn = named
    assert pickle.loads(pickle.dumps(chooser.reward_fn)) is named
