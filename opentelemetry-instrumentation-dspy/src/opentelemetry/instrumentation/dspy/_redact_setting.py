# Copyright The opentelemetry-instrumentation-dspy Authors
# SPDX-License-Identifier: Apache-2.0
"""The setting ``redact``: functions, names of fields, names of patterns and regular expressions."""

from __future__ import annotations

import importlib
import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Final, TypeAlias, cast

from opentelemetry.instrumentation.dspy._function_settings import function_at
from opentelemetry.instrumentation.dspy._guarding import pass_on

Redact = Callable[[str, str, Any], Any]
"""Called as ``redact(operation, field, value)`` before a value is serialised; returns the value
to record. If it raises, the value is dropped."""

RedactItem: TypeAlias = "str | re.Pattern[str] | Redact | RedactionRules"
RedactSetting: TypeAlias = "RedactItem | Sequence[RedactItem]"

PATTERNS: Final = ("email", "phone", "card", "iban", "api_key", "ip")
"""Names of the built-in patterns."""

_PACKAGES = {"phone": ("phonenumbers", "phonenumbers"), "card": ("stdnum", "python-stdnum")}
_PACKAGES["iban"] = _PACKAGES["card"]
_FIELD, _REGEX = "field:", "regex:"

ACCEPTED: Final = (
    f"a function, {', '.join(PATTERNS)}, field:name, regex:expression, package.module:function, "
    "a compiled regular expression, or a list of these"
)


@dataclass(frozen=True, slots=True)
class RedactionRules:
    """The parts of recorded values that are removed.

    Attributes:
        fields: Names of fields whose values are removed.
        patterns: Names of built-in patterns whose matches are removed.
        expressions: Regular expressions whose matches are removed.
    """

    fields: frozenset[str] = frozenset()
    patterns: frozenset[str] = frozenset()
    expressions: tuple[re.Pattern[str], ...] = ()

    def __bool__(self) -> bool:
        return bool(self.fields or self.patterns or self.expressions)


def parse_redact(setting: Any) -> tuple[Redact | None, RedactionRules | None]:
    """The function and the rules in a value of ``redact``.

    Raises:
        ValueError: A part is not accepted, cannot be imported, or needs a package that is missing.
    """
    functions: list[Redact] = []
    fields: set[str] = set()
    patterns: set[str] = set()
    expressions: list[re.Pattern[str]] = []
    for item in _items(setting):
        if isinstance(item, RedactionRules):
            fields |= item.fields
            patterns |= item.patterns
            expressions += item.expressions
        elif callable(item):
            functions.append(item)
        elif isinstance(item, re.Pattern):
            expressions.append(cast("re.Pattern[str]", item))
        elif not isinstance(item, str):
            raise ValueError(f"redact is {item!r}; accepted: {ACCEPTED}")
        elif item.startswith(_FIELD) and len(item) > len(_FIELD):
            fields.add(item[len(_FIELD) :])
        elif item.startswith(_REGEX):
            expressions.append(_compiled(item))
        elif item in PATTERNS:
            _require_package(item)
            patterns.add(item)
        else:
            functions.append(_imported(item))
    rules = RedactionRules(frozenset(fields), frozenset(patterns), tuple(expressions))
    return _composed(functions), rules or None


def _items(setting: Any) -> Iterable[Any]:
    if setting is None:
        return ()
    if isinstance(setting, str):
        return _parts(setting)
    if isinstance(setting, (list, tuple, set, frozenset)):
        given = cast("Iterable[Any]", setting)
        return [part for item in given for part in (_parts(item) if _is_text(item) else [item])]
    return (setting,)


def _is_text(item: Any) -> bool:
    # Commas in a regular expression of a list do not separate.
    return isinstance(item, str) and not item.strip().startswith(_REGEX)


def _parts(text: str) -> list[str]:
    """The parts of a text, separated by commas. A regular expression takes the rest of the text."""
    head, separator, expression = text.partition(_REGEX)
    parts = [part.strip() for part in head.split(",")]
    return [*filter(None, parts), *([separator + expression] if separator else [])]


def _compiled(item: str) -> re.Pattern[str]:
    try:
        return re.compile(item.strip()[len(_REGEX) :])
    except re.error as error:
        raise ValueError(
            f"redact is {item!r}, which is not a regular expression: {error}"
        ) from None


def _require_package(pattern: str) -> None:
    module, distribution = _PACKAGES.get(pattern, ("", ""))
    if not module:
        return
    try:
        importlib.import_module(module)  # now, since it may take a while
    except Exception as error:
        pass_on(error)
        raise ValueError(
            f"redact is {pattern!r}, which needs {distribution}: "
            "pip install opentelemetry-instrumentation-dspy[redaction]"
        ) from None


def _imported(item: str) -> Redact:
    if ":" not in item:
        raise ValueError(f"redact is {item!r}; accepted: {ACCEPTED}")
    return function_at("redact", item, ACCEPTED)


def _composed(functions: list[Redact]) -> Redact | None:
    if len(functions) <= 1:
        return functions[0] if functions else None
    return _Composed(tuple(functions))


@dataclass(frozen=True)
class _Composed:
    """Several functions as one. Equal if the functions are, so that settings can be compared."""

    functions: tuple[Redact, ...]

    def __call__(self, operation: str, field: str, value: Any) -> Any:
        for function in self.functions:
            value = function(operation, field, value)
        return value


def withhold(operation: str, field: str, value: Any) -> str:
    """The function in place of a setting that cannot be used: nothing is recorded."""
    return "[REDACTED]"
