# Copyright The opentelemetry-instrumentation-dspy Authors
# SPDX-License-Identifier: Apache-2.0
"""Parts of a call that get no span of their own: they become attributes of the call's span."""

from __future__ import annotations

import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from typing import Any

from opentelemetry.context import Context, get_current

from opentelemetry.instrumentation.dspy._calls.call import Call
from opentelemetry.instrumentation.dspy._guarding import (
    forget_our_frames,
    guarded,
    is_programs,
    log_once,
)
from opentelemetry.instrumentation.dspy.api import CALL_KEY


class Step(ABC):
    """How one kind of step becomes attributes. Methods may raise: the caller guards them."""

    @abstractmethod
    def call_for(self, current: Call, instance: Any) -> Call | None:
        """The call that a step of an object belongs to; None if the step is not recorded.

        Args:
            current: The innermost call in progress, whose span records.
            instance: The object whose method is called.
        """
        ...

    @abstractmethod
    def ended(
        self, call: Call, instance: Any, result: Any, error: BaseException | None, seconds: float
    ) -> None:
        """Add to the attributes of the call what is known at the end of the step."""
        ...


class CallPart:
    """A part of a call, in the place of a `Call` in a traced function; it has no span.

    Attributes:
        asynchronous: As in `Call`.
        context: None, since a part makes no context current.
    """

    asynchronous = False
    context: Context | None = None

    def close(self, result: Any, error: BaseException | None = None) -> None:
        """End the part; a second call does nothing."""

    def leave(self) -> None:
        """Do nothing, since a part makes no span current."""

    def resume(self) -> None:
        """Do nothing, since a part makes no span current."""

    def span_end(self) -> Callable[[], None]:
        """A function that does nothing, since a part has no span."""
        return self.leave


class StepInProgress(CallPart):
    """One step, from its start to its end."""

    def __init__(self, step: Step, call: Call, instance: Any) -> None:
        self._step: Step | None = step
        self._call = call
        self._instance = instance
        self._started_ns = time.perf_counter_ns()

    def close(self, result: Any, error: BaseException | None = None) -> None:
        seconds = (time.perf_counter_ns() - self._started_ns) / 1e9
        step, self._step = self._step, None
        if step is not None:
            guarded(step.ended, self._call, self._instance, result, error, seconds)


def begin_step(
    step: Step, instance: Any, _args: tuple[Any, ...], _kwargs: Mapping[str, Any]
) -> StepInProgress | None:
    """Open the step that a traced function is about to make; None if it is not recorded.

    Raises only exceptions that `is_programs` accepts, such as KeyboardInterrupt.
    """
    try:
        current: Any = get_current().get(CALL_KEY)
        if current is None or not current.recording:
            return None
        call = step.call_for(current, instance)
        return None if call is None else StepInProgress(step, call, instance)
    except BaseException as error:
        if is_programs(error):
            forget_our_frames(error)
            raise
        log_once(error)
        return None
