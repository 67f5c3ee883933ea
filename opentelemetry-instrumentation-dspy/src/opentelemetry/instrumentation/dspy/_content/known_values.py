# Copyright The opentelemetry-instrumentation-dspy Authors
# SPDX-License-Identifier: Apache-2.0
"""Values of hidden fields that a trace has shown so far.

The value of a field also occurs where it has no name: in the prompt that an adapter makes of it, in
the answer of the model, in an exception. So values of hidden fields are remembered and removed from
all texts of the same trace that are recorded later. They are forgotten with the trace.
"""

from __future__ import annotations

import html
import json
import logging
from collections import deque
from collections.abc import Generator, Iterable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any, Final, cast
from weakref import WeakValueDictionary

from opentelemetry.instrumentation.dspy._content.redaction import REDACTED
from opentelemetry.instrumentation.dspy._guarding import new_lock

logger = logging.getLogger(__name__)

MIN_VALUE: Final = 4
"""Removing a shorter value from every text would remove parts of other words and numbers."""
MAX_VALUES: Final = 10_000
_MAX_ENDED = 1_024

_lock = new_lock()


class KnownValues:
    """The values of hidden fields in one trace, or in one example of an evaluation. Thread-safe.

    Args:
        outer: The values of what encloses the example.

    Attributes:
        full: Whether there are more values than can be searched for. Texts are then withheld.
    """

    def __init__(self, outer: KnownValues | None = None) -> None:
        self.full = False
        self._outer = outer
        self._shown: dict[str, str] = {}  # the longest first: a value may be part of another

    def learn(self, pairs: Iterable[tuple[str, str]]) -> None:
        """Remember values, each with the text to show instead."""
        new: dict[str, str] = {}
        for value, shown in pairs:
            if len(value) >= MIN_VALUE and value not in self._shown and value not in REDACTED:
                new.update(zip(_forms(value), _forms(shown), strict=True))
        if not new or self.full:
            return
        with _lock:
            known = {**self._shown, **new}
            if len(known) > MAX_VALUES:
                self.withhold()
            else:
                self._shown = dict(sorted(known.items(), key=_length, reverse=True))

    def withhold(self) -> None:
        """Withhold all texts from now on, since there are values that are not known."""
        if self.full:
            return
        self.full, self._shown = True, {}
        logger.warning(
            "One trace has more than %d values of fields that redact names; the rest of its "
            "content is withheld.",
            MAX_VALUES,
        )

    def hide(self, text: str) -> str:
        """``text`` without the known values."""
        scope: KnownValues | None = self
        while scope is not None:
            if scope.full:
                return REDACTED
            for value, shown in scope._shown.items():
                if value in text:
                    text = text.replace(value, shown)
            scope = scope._outer
        return text

    @property
    def withholds(self) -> bool:
        """Whether texts can no longer be searched for all values."""
        return self.full or (self._outer is not None and self._outer.withholds)


class TraceValues:
    """The known values by trace, for spans that are not below a DSPy call. Thread-safe.

    A DSPy call keeps the values of its trace alive. Those of ended calls are kept for the latest
    traces only.
    """

    def __init__(self) -> None:
        self._by_trace: WeakValueDictionary[int, KnownValues] = WeakValueDictionary()
        self._latest: deque[KnownValues] = deque(maxlen=_MAX_ENDED)

    def of(self, trace_id: int) -> KnownValues:
        """The values of a trace."""
        values = self._by_trace.get(trace_id)
        if values is None:
            with _lock:
                values = self._by_trace.setdefault(trace_id, KnownValues())
                self._latest.append(values)
        return values

    def add(self, trace_id: int, values: KnownValues) -> None:
        """Remember the values of a trace that has begun."""
        with _lock:
            self._by_trace[trace_id] = values
            self._latest.append(values)


_current: ContextVar[KnownValues | None] = ContextVar("dspy-known-values", default=None)


def current_values() -> KnownValues:
    """The values of the call that is being recorded on this thread."""
    return _current.get() or KnownValues()


@contextmanager
def using(values: KnownValues) -> Generator[None]:
    """Record with the values of a call."""
    before = _current.get()
    _current.set(values)
    try:
        yield
    finally:
        _current.set(before)


def leaves(value: Any) -> Iterator[str]:
    """The texts and numbers in a value of JSON's own types."""
    if isinstance(value, dict):
        value = list(cast("dict[str, Any]", value).values())
    if isinstance(value, list):
        for item in cast("list[Any]", value):
            yield from leaves(item)
    elif isinstance(value, (str, int, float)) and not isinstance(value, bool):
        yield str(value).strip()


def _length(item: tuple[str, str]) -> int:
    return len(item[0])


def _forms(value: str) -> list[str]:
    """A value as it is, in JSON, in JSON inside of JSON, in Python and in XML."""
    escaped = ascii_only = value
    forms = [value]
    for _ in range(2):
        escaped = json.dumps(escaped, ensure_ascii=False)[1:-1]
        ascii_only = json.dumps(ascii_only)[1:-1]
        forms += [escaped, ascii_only]
    return [*forms, repr(value)[1:-1], html.escape(value, quote=False), html.escape(value)]
