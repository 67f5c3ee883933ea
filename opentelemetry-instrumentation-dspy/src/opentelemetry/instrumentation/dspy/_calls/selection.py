# Copyright The opentelemetry-instrumentation-dspy Authors
# SPDX-License-Identifier: Apache-2.0
"""The settings ``module_filter`` and ``trace_condition`` as questions, each asked in one place."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any, Final, cast

from opentelemetry.instrumentation.dspy._calls.by_class import cached_by_class
from opentelemetry.instrumentation.dspy._guarding import call_untraced, new_lock, pass_by_value
from opentelemetry.instrumentation.dspy._settings import Settings

logger = logging.getLogger(__name__)

_PATIENCE_SECONDS: Final = 1.0


class Selection:
    """The filter and the condition of one trace. Thread-safe.

    Args:
        settings: The settings, with a filter, a condition or both.
    """

    def __init__(self, settings: Settings) -> None:
        self._filter = settings.module_filter
        self._condition = settings.trace_condition
        self._reported: set[str] = set()
        self._lock = new_lock()
        self._answer_for = cached_by_class(self._ask)

    def selects(self, module: Any) -> bool:
        """Whether calls of a module have spans; the functions are asked once for each class."""
        if self._filter is None:
            return True
        # Two threads would ask twice. A predicate that waits for another thread's call of DSPy is
        # asked twice rather than waited for.
        held = self._lock.acquire(timeout=_PATIENCE_SECONDS)
        try:
            return self._answer_for(cast("type[Any]", type(module)))
        finally:
            if held:
                self._lock.release()

    def _ask(self, kind: type) -> bool:
        name, chosen = kind.__name__, self._filter
        if chosen is None or chosen.has_name(name):
            return True
        return any(self._says_yes("module_filter", one, name) for one in chosen.predicates)

    @property
    def asks_about_inputs(self) -> bool:
        """Whether there is a condition."""
        return self._condition is not None

    def accepts(self, inputs: dict[str, Any]) -> bool:
        """Whether an outermost call with these arguments is recorded."""
        return self._condition is None or self._says_yes("trace_condition", self._condition, inputs)

    def _says_yes(self, setting: str, predicate: Callable[[Any], Any], value: Any) -> bool:
        try:
            return bool(call_untraced(predicate, value))
        except BaseException as error:
            pass_by_value(error)
            self._report(setting, error)
            return False

    def _report(self, setting: str, error: BaseException) -> None:
        with self._lock:
            if setting in self._reported:
                return
            self._reported.add(setting)
        # Without its message, which may contain the arguments.
        logger.warning(
            "The function of the setting %s raised %s. It counts as a no, so the call is not "
            "recorded. This is reported once.",
            setting,
            type(error).__qualname__,
        )
