# Copyright The opentelemetry-instrumentation-dspy Authors
# SPDX-License-Identifier: Apache-2.0
"""``dspy.Refine`` and ``dspy.BestOfN``: their attempts, the score of each, and the selected one.

The score of an attempt is known only after the attempt's span has ended, so it is recorded as an
event on the span of the module that judges. ``forward`` reads ``self.reward_fn``; a descriptor on
the class then returns a reward function that reports its result. The instance's attribute is not
changed, and all other code that reads it gets the original function.
"""

from __future__ import annotations

import types
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import wrapt

import dspy
from opentelemetry.instrumentation.dspy import semconv
from opentelemetry.instrumentation.dspy._calls.begin import current_call
from opentelemetry.instrumentation.dspy._calls.call import Attributes, Call, Runtime
from opentelemetry.instrumentation.dspy._calls.frames import as_dspy_frame, hide_frame
from opentelemetry.instrumentation.dspy._guarding import guarded
from opentelemetry.instrumentation.dspy._operations.evaluation.scores import as_number, name_of
from opentelemetry.instrumentation.dspy._operations.reading import instance_dict
from opentelemetry.instrumentation.dspy._patching.points import PatchPoint, Version


def patch_points() -> Sequence[PatchPoint]:
    """The patch points of reward functions."""
    return [RewardPatch("dspy.predict.refine", "Refine"), RewardPatch("dspy.predict", "BestOfN")]


def makes_attempts(module_type: type) -> bool:
    """Whether modules of a class run another module several times and select a result."""
    return issubclass(module_type, (dspy.Refine, dspy.BestOfN))


@dataclass(slots=True)
class AttemptsRecord:
    """The attempts of one call of a `Refine` or `BestOfN` so far.

    Attributes:
        judge: The module that makes the attempts.
        judging: Whether the reward function is running, which may call modules itself.
        count: Number of attempts started.
        best_score: The highest score.
        selected: The attempt with the highest score.
    """

    judge: Any
    judging: bool = False
    count: int = 0
    best_score: float | None = None
    selected: int | None = None
    _best: list[Any] = field(default_factory=list[Any])

    def start_attempt(self, module: Any) -> int | None:
        """Record that a module is called; returns the index, from 0, if it is an attempt."""
        judged = instance_dict(self.judge).get("module")
        if self.judging or type(module) is not type(judged) or _gives_advice(module):
            return None
        self.count += 1
        return self.count - 1

    def record_score(self, call: Call, prediction: Any, outcome: Any, name: str) -> None:
        """Record the score of the latest attempt, also on the judge's span."""
        score = as_number(outcome)
        if score is None or call.span is None:
            return
        index = self.count - 1
        if self.best_score is None or score > self.best_score:
            self.best_score, self._best, self.selected = score, [prediction], index
        event: Attributes = {
            semconv.GEN_AI_EVALUATION_NAME: name,
            semconv.GEN_AI_EVALUATION_SCORE_VALUE: score,
            semconv.DSPY_ATTEMPT_INDEX: index,
        }
        call.span.add_event(semconv.Events.EVALUATION_RESULT, event)

    def attributes(self, result: Any) -> Attributes:
        """The number of attempts, the best score and the returned attempt, as attributes."""
        attributes: Attributes = {semconv.DSPY_ATTEMPT_COUNT: self.count}
        if self.best_score is not None:
            attributes[semconv.DSPY_ATTEMPT_BEST_SCORE] = self.best_score
        if self._best and self._best[0] is result and self.selected is not None:
            attributes[semconv.DSPY_ATTEMPT_SELECTED_INDEX] = self.selected
        return attributes


def _gives_advice(module: Any) -> bool:
    # Between attempts, Refine calls a predictor for advice.
    return instance_dict(module).get("signature") is dspy.predict.refine.OfferFeedback


class RewardPatch:
    """A patch that adds a descriptor for ``reward_fn``, an attribute of instances."""

    effect = "attempts of Refine and BestOfN have no scores"
    since: Version = (0,)
    until: Version | None = None

    def __init__(self, module: str, name: str) -> None:
        self._module = module
        self._name = name
        self._installed: tuple[Any, TracedReward] | None = None

    @property
    def point(self) -> str:
        return f"{self._module}:{self._name}.reward_fn"

    def install(self, runtime: Runtime) -> None:
        owner: Any = wrapt.resolve_path(self._module, self._name)[2]  # type: ignore[reportUnknownMemberType]
        if "reward_fn" in instance_dict(owner):
            raise AttributeError(f"{self._name} has a reward_fn of its own")
        descriptor = TracedReward()
        owner.reward_fn = descriptor
        self._installed = (owner, descriptor)

    def remove(self) -> bool:
        if self._installed is None:
            return True
        (owner, descriptor), self._installed = self._installed, None
        if instance_dict(owner).get("reward_fn") is not descriptor:
            return False
        del owner.reward_fn
        return True


class TracedReward:
    """A descriptor of the instance's reward function, traced during the instance's own call."""

    def __get__(self, instance: Any, owner: type | None = None) -> Any:
        function = instance_dict(instance).get("reward_fn", self) if instance is not None else self
        if function is self:
            raise AttributeError("reward_fn")
        call = current_call()
        if call is None or call.instance is not instance or not call.recording:
            return function
        return _traced_reward(function, call)

    def __set__(self, instance: Any, value: Any) -> None:
        instance_dict(instance)["reward_fn"] = value

    def __delete__(self, instance: Any) -> None:
        if "reward_fn" not in instance_dict(instance):
            raise AttributeError("reward_fn")
        del instance_dict(instance)["reward_fn"]


def _traced_reward(_function: Any, _call: Call) -> Any:
    _hide, _guarded, _start, _stop = hide_frame, guarded, _start_judging, _stop_judging

    def reward_fn(*args: Any, **kwargs: Any) -> Any:
        _guarded(_start, _call)
        try:
            _outcome = _function(*args, **kwargs)
        except BaseException as _error:
            _hide(_error)
            _guarded(_stop, _call)
            raise
        _guarded(_stop, _call, _function, args, _outcome)
        return _outcome

    return as_dspy_frame(reward_fn, _function)


def _start_judging(call: Call) -> None:
    attempts = getattr(call.state, "attempts", None)
    if isinstance(attempts, AttemptsRecord):
        attempts.judging = True


def _stop_judging(call: Call, function: Any = None, *scored: Any) -> None:
    """The end of the reward function, with its arguments and result unless it failed."""
    attempts = getattr(call.state, "attempts", None)
    if not isinstance(attempts, AttemptsRecord):
        return
    attempts.judging = False
    if scored:
        arguments, outcome = scored
        attempts.record_score(call, arguments[-1], outcome, _reward_name(function))


def _reward_name(function: Any) -> str:
    # DSPy wraps the user's function in a lambda.
    if isinstance(function, types.FunctionType) and function.__closure__:
        names = function.__code__.co_freevars
        if "reward_fn" in names:
            return name_of(function.__closure__[names.index("reward_fn")].cell_contents)
    return name_of(function)
