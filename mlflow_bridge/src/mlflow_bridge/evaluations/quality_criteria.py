# Copyright The opentelemetry-instrumentation-dspy Authors
# SPDX-License-Identifier: Apache-2.0
"""Quality criteria in MLflow's syntax, such as ``correctness >= 0.9 AND `latency/p90` <= 2``."""

from __future__ import annotations

import json
import math
import operator
import re
import uuid
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Final, NoReturn

CRITERIA_TAG: Final = "mlflow.genaiEvaluate.qualityCriteria"
"""The tag of a run in which MLflow keeps its criteria, for the page of evaluations."""

_MAX_TAG: Final = 8000
_SCHEMA_VERSION: Final = 1
_EXAMPLE: Final = "correctness >= 0.9 AND `latency/p90` <= 2"
# The operators that MLflow's page knows.
_IN_TAG: Final = {">=": "GTE", "<=": "LTE"}
_OPERATORS: Final[dict[str, Callable[[float, float], bool]]] = {
    ">=": operator.ge,
    "<=": operator.le,
    "==": operator.eq,
    "!=": operator.ne,
    ">": operator.gt,
    "<": operator.lt,
}
_NAME: Final = re.compile(r"`([^`]+)`|\"([^\"]+)\"|([A-Za-z_][\w.]*)")
_OPERATOR: Final = re.compile(r">=|<=|==|!=|>|<")
_NUMBER: Final = re.compile(r"[-+]?(?:\d+\.?\d*|\.\d+)(?:[eE][-+]?\d+)?(?![\w.])")
_AND: Final = re.compile(r"AND(?![\w.])", re.IGNORECASE)
_SPACE: Final = re.compile(r"\s*")


@dataclass(frozen=True, slots=True)
class Condition:
    """One condition.

    Attributes:
        name: Name as it was written, without quotes.
        operator: ``>=``, ``>``, ``<=``, ``<``, ``==`` or ``!=``.
        threshold: A finite number.
    """

    name: str
    operator: str
    threshold: float

    def holds(self, value: float) -> bool:
        """Whether a value meets the condition; a value that is not a number never does."""
        return not math.isnan(value) and _OPERATORS[self.operator](value, self.threshold)

    def __str__(self) -> str:
        name = self.name if _NAME.fullmatch(self.name) else f"`{self.name}`"
        return f"{name} {self.operator} {self.threshold:g}"


def parse_criteria(criteria: object) -> tuple[Condition, ...]:
    """The conditions of criteria, in their order.

    Args:
        criteria: Conditions joined by ``AND``. A name is plain, or in backticks or double quotes.

    Raises:
        ConfigurationError: The text is not of this form; the message has the position.
    """
    if not isinstance(criteria, str) or not criteria.strip():
        from mlflow_bridge._config.base import ConfigurationError

        raise ConfigurationError(f"the criteria are {criteria!r}; accepted: such as {_EXAMPLE!r}")
    return tuple(_Parser(criteria).conditions())


def criteria_tag(conditions: Sequence[Condition], keys: Sequence[str]) -> str | None:
    """The value of MLflow's tag; None if MLflow's page could not show all of the conditions.

    The page knows one condition for each metric, with ``>=`` or ``<=``. A tag with a part of the
    conditions might show a success where the criteria are not met.

    Args:
        conditions: The conditions.
        keys: The metric of the run for each of them.
    """
    if len(set(keys)) < len(keys) or any(one.operator not in _IN_TAG for one in conditions):
        return None
    rules = [
        {"metricKey": key, "comparator": _IN_TAG[one.operator], "threshold": one.threshold}
        for one, key in zip(conditions, keys, strict=True)
    ]
    # The same criteria have the same revision.
    revision = str(uuid.uuid5(uuid.NAMESPACE_URL, json.dumps(rules, sort_keys=True)))
    known: dict[str, Any] = {"schemaVersion": _SCHEMA_VERSION, "revision": revision, "rules": rules}
    value = json.dumps(known, separators=(",", ":"))
    return value if len(value) <= _MAX_TAG else None


class _Parser:
    def __init__(self, text: str) -> None:
        self._text = text
        self._at = 0

    def conditions(self) -> Iterator[Condition]:
        yield self._condition()
        while not self._at_end():
            self._take(_AND, "AND or the end")
            yield self._condition()

    def _condition(self) -> Condition:
        found = self._take(_NAME, "the name of a metric")
        name = next(group for group in found.groups() if group is not None)
        if found[3] is not None and _AND.fullmatch(name):
            self._fail(found.start(), "the name of a metric")
        sign = self._take(_OPERATOR, f"one of {' '.join(_OPERATORS)}")[0]
        number = self._take(_NUMBER, "a number")
        threshold = float(number[0])
        if not math.isfinite(threshold):
            self._fail(number.start(), "a finite number")
        return Condition(name, sign, threshold)

    def _at_end(self) -> bool:
        self._skip_space()
        return self._at == len(self._text)

    def _take(self, pattern: re.Pattern[str], expected: str) -> re.Match[str]:
        self._skip_space()
        found = pattern.match(self._text, self._at)
        if found is None:
            self._fail(self._at, expected)
        self._at = found.end()
        return found

    def _skip_space(self) -> None:
        found = _SPACE.match(self._text, self._at)
        self._at = found.end() if found else self._at

    def _fail(self, at: int, expected: str) -> NoReturn:
        from mlflow_bridge._config.base import ConfigurationError

        rest = self._text[at:]
        found = repr(rest[:40]) if rest else "the end"
        hint = ""
        if rest.startswith(("/", "-", ":")):
            hint = ". Put a name with other characters than letters, digits, _ and . in backticks"
        elif rest[:3].upper().startswith("OR"):
            hint = ". Only AND joins conditions"
        raise ConfigurationError(
            f"the criteria {self._text!r} have {found} at position {at + 1}, where {expected} "
            f"should be{hint}; accepted: conditions such as {_EXAMPLE!r}"
        )
