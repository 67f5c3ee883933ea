# Copyright The opentelemetry-instrumentation-dspy Authors
# SPDX-License-Identifier: Apache-2.0
"""The settings ``input_sanitizer`` and ``output_sanitizer`` at work."""

from __future__ import annotations

import logging
import re
from collections.abc import Iterator, Mapping
from difflib import SequenceMatcher
from typing import Any, Final, cast

from opentelemetry.instrumentation.dspy._content.jsonable import JsonableCopier, is_record, items_of
from opentelemetry.instrumentation.dspy._content.known_values import current_values, leaves
from opentelemetry.instrumentation.dspy._content.redaction import REDACTED
from opentelemetry.instrumentation.dspy._function_settings import Sanitizer
from opentelemetry.instrumentation.dspy._guarding import call_untraced, new_lock, pass_by_value
from opentelemetry.instrumentation.dspy._settings import Settings
from opentelemetry.instrumentation.dspy.semconv import (
    DSPY_ADAPTER_INPUT,
    DSPY_ADAPTER_OUTPUT,
    DSPY_EMBEDDER_INPUT,
    DSPY_EVALUATE_OUTPUT,
    DSPY_EXAMPLE_INPUT,
    DSPY_INTERPRETER_INPUT,
    DSPY_INTERPRETER_OUTPUT,
    DSPY_METRIC_INPUT,
    DSPY_MODULE_INPUT,
    DSPY_MODULE_OUTPUT,
    DSPY_RETRIEVAL_ARGUMENTS,
    GEN_AI_TOOL_CALL_ARGUMENTS,
    GEN_AI_TOOL_CALL_RESULT,
    Operations,
)

logger = logging.getLogger(__name__)

_INPUTS: Final = frozenset(
    {
        DSPY_ADAPTER_INPUT,
        DSPY_EMBEDDER_INPUT,
        DSPY_EXAMPLE_INPUT,
        DSPY_INTERPRETER_INPUT,
        DSPY_METRIC_INPUT,
        DSPY_MODULE_INPUT,
        DSPY_RETRIEVAL_ARGUMENTS,
        GEN_AI_TOOL_CALL_ARGUMENTS,
    }
)
_OUTPUTS: Final = frozenset(
    {
        DSPY_ADAPTER_OUTPUT,
        DSPY_EVALUATE_OUTPUT,
        DSPY_INTERPRETER_OUTPUT,
        DSPY_MODULE_OUTPUT,
        GEN_AI_TOOL_CALL_RESULT,
    }
)
_ADAPTERS: Final = frozenset({Operations.ADAPTER, Operations.ADAPTER_FORMAT})
_WITHOUT_RECORDS: Final = frozenset({Operations.LM, Operations.ADAPTER_FORMAT})
"""Operations whose messages are not a mapping of the program's."""
_FIELDS: Final = "inputs"
"""The argument of an adapter that holds the fields of the signature."""
_UNBOUNDED: Final = 2**40
_MAX_DEPTH: Final = 24
_WORDS: Final = re.compile(r"\s+|\S+")
_MAX_COMPARISONS: Final = 1_000_000
_CONTAINERS: Final = (dict, list, tuple, set)


class Sanitizers:
    """The two functions of one ``instrument()``. Thread-safe.

    Args:
        settings: The settings, with at least one of the functions.
    """

    def __init__(self, settings: Settings) -> None:
        self._functions = {
            "input_sanitizer": settings.input_sanitizer,
            "output_sanitizer": settings.output_sanitizer,
        }
        self._reported: set[str] = set()
        self._lock = new_lock()

    def recorded(self, operation: str, attribute: str, value: Any) -> Any:
        """The value to record under an attribute."""
        if attribute in _INPUTS:
            return self.inputs(operation, value)
        if attribute in _OUTPUTS:
            return self.outputs(operation, value)
        return value

    def inputs(self, operation: str, value: Any) -> Any:
        """The inputs to record of an operation."""
        function = self._functions["input_sanitizer"]
        if function is None or operation in _WITHOUT_RECORDS - _ADAPTERS:
            return value
        if operation in _ADAPTERS and isinstance(value, dict) and _FIELDS in value:
            given = cast("dict[str, Any]", value)
            return {**given, _FIELDS: self._sanitized("input_sanitizer", function, given[_FIELDS])}
        return self._sanitized("input_sanitizer", function, value)

    def outputs(self, operation: str, value: Any) -> Any:
        """The outputs to record of an operation."""
        function = self._functions["output_sanitizer"]
        if function is None or operation in _WITHOUT_RECORDS:
            return value
        if operation == Operations.ADAPTER and type(value) is list:
            completions = cast("list[Any]", value)
            return [self._sanitized("output_sanitizer", function, item) for item in completions]
        return self._sanitized("output_sanitizer", function, value)

    def _sanitized(self, setting: str, function: Sanitizer, value: Any) -> Any:
        try:
            if not is_record(value):
                return value
            given = {key: _copied(item) for key, item in items_of(value)}
        except BaseException as error:  # a mapping of the program's
            pass_by_value(error)
            return REDACTED
        before = _plain(given)
        try:
            after: Any = call_untraced(function, given)
            if not isinstance(after, Mapping):
                raise TypeError
            after = dict(cast("Mapping[str, Any]", after))
            plain = _plain(after)
        except BaseException as error:
            pass_by_value(error)
            self._report(setting, error)
            current_values().learn((leaf, REDACTED) for leaf in leaves(before))
            return REDACTED
        current_values().learn((text, REDACTED) for text in _removed(before, plain))
        return after

    def _report(self, setting: str, error: BaseException) -> None:
        with self._lock:
            if setting in self._reported:
                return
            self._reported.add(setting)
        # Without its message, which may contain the value.
        logger.warning(
            "The function of the setting %s raised %s, or did not return a mapping. The values "
            "that it was called with are withheld. This is reported once.",
            setting,
            type(error).__qualname__,
        )


def _copied(value: Any, depth: int = 0) -> Any:
    """A value whose containers the function may change, since they are copies."""
    kind = cast("type[Any]", type(value))
    if kind not in _CONTAINERS or depth > _MAX_DEPTH:
        return value
    if kind is dict:
        fields = cast("dict[Any, Any]", value)
        return {key: _copied(item, depth + 1) for key, item in list(fields.items())}
    copies = [_copied(item, depth + 1) for item in list(cast("list[Any]", value))]
    return copies if kind is list else tuple(copies) if kind is tuple else set(copies)


def _plain(value: Any) -> Any:
    return JsonableCopier(_UNBOUNDED).copy(value)


def _removed(before: Any, after: Any) -> Iterator[str]:
    """The texts and numbers that are missing."""
    kept = set(leaves(after))
    return (text for text in _changed(before, after) if text not in kept)


def _changed(before: Any, after: Any) -> Iterator[str]:
    if before == after:
        return
    if isinstance(before, dict) and isinstance(after, dict):
        fields, others = cast("dict[str, Any]", before), cast("dict[str, Any]", after)
        for key, item in fields.items():
            yield from _changed(item, others.get(key))
    elif isinstance(before, str) and isinstance(after, str):
        if before not in after:
            yield before.strip()
            yield from _parts_removed(before, after)
    else:
        yield from leaves(before)


def _parts_removed(before: str, after: str) -> Iterator[str]:
    """The parts of a text that are missing, since they may also occur without the rest of it."""
    old, new = _WORDS.findall(before), _WORDS.findall(after)
    if len(old) * len(new) > _MAX_COMPARISONS:
        return
    steps = SequenceMatcher(None, old, new, autojunk=False).get_opcodes()
    for kind, start, end, new_start, new_end in steps:
        if kind in ("replace", "delete"):
            removed = "".join(old[start:end])
            yield removed.strip()
            yield _without_common_ends(removed, "".join(new[new_start:new_end])).strip()


def _without_common_ends(removed: str, added: str) -> str:
    start = _length_of_common_start(removed, added)
    end = _length_of_common_start(removed[start:][::-1], added[start:][::-1])
    return removed[start : len(removed) - end]


def _length_of_common_start(one: str, other: str) -> int:
    pairs = enumerate(zip(one, other, strict=False))
    return next((at for at, (a, b) in pairs if a != b), min(len(one), len(other)))
