# Copyright The opentelemetry-instrumentation-dspy Authors
# SPDX-License-Identifier: Apache-2.0
"""Redaction by rules: fields by their names, and texts by patterns, in every recorded value.

The value of a field also occurs where it has no name: in the prompt that an adapter makes of it, in
the answer of the model, in an exception. So values of such fields are remembered and removed from
all texts that are recorded later. Texts are also searched for the forms in which adapters name a
field.
"""

from __future__ import annotations

import importlib
import ipaddress
import json
import re
from collections.abc import Callable, Iterable
from functools import partial
from typing import Any, cast

from opentelemetry.instrumentation.dspy._content.jsonable import is_schema
from opentelemetry.instrumentation.dspy._content.redaction import REDACTED, redact_text
from opentelemetry.instrumentation.dspy._content.tool_arguments import named_value
from opentelemetry.instrumentation.dspy._guarding import new_lock, pass_on
from opentelemetry.instrumentation.dspy._redact_setting import RedactionRules

# Removing a shorter value from every text would remove parts of other words and numbers.
_MIN_VALUE = 4
_MAX_VALUES = 4_096


class RuleRedactor:
    """The rules of one ``instrument()``, and the values of the fields seen so far. Thread-safe."""

    def __init__(self, rules: RedactionRules) -> None:
        self._fields = rules.fields
        self._patterns: list[Callable[[str], str]] = [
            *(_BUILT_IN[name] for name in sorted(rules.patterns)),
            *(partial(expression.sub, REDACTED) for expression in rules.expressions),
        ]
        self._named = [_NamedField(name) for name in sorted(rules.fields)]
        self._values: dict[str, None] = {}
        self._lock = new_lock()

    def hide(self, value: Any) -> Any:
        """JSON's own types without what the rules name; the value itself is not changed."""
        self._learn(value)
        return self._hidden(value)

    def hide_text(self, text: str) -> str:
        """A text without what the rules name."""
        for field in self._named:
            text = field.hide(text)
        for known in sorted(self._values, key=len, reverse=True):
            if known in text:
                text = text.replace(known, REDACTED)
        for pattern in self._patterns:
            text = pattern(text)
        return text

    def hide_field(self, name: str, value: Any) -> Any:
        """One value with its name."""
        return self.hide({name: value})[name]

    def _hidden(self, value: Any) -> Any:
        if isinstance(value, str):
            return self.hide_text(value)
        if isinstance(value, dict):
            items = cast("dict[str, Any]", value).items()
            return {
                self.hide_text(key): REDACTED if self._is_hidden(key, item) else self._hidden(item)
                for key, item in items
            }
        if isinstance(value, list):
            return [self._hidden(item) for item in cast("list[Any]", value)]
        if isinstance(value, (int, float)) and not isinstance(value, bool):
            text = str(value)
            return value if self.hide_text(text) == text else REDACTED
        return value

    def _is_hidden(self, key: str, item: Any) -> bool:
        return key in self._fields and not is_schema(item)

    def _learn(self, value: Any) -> None:
        if isinstance(value, dict):
            for key, item in cast("dict[str, Any]", value).items():
                if self._is_hidden(key, item):
                    self._remember(_leaves(item))
                else:
                    self._learn(item)
        elif isinstance(value, list):
            for item in cast("list[Any]", value):
                self._learn(item)

    def _remember(self, values: Iterable[str]) -> None:
        with self._lock:
            known = dict(self._values)
            for value in values:
                if len(value) >= _MIN_VALUE and value != REDACTED:
                    known.update(dict.fromkeys(_forms(value)))
            for old in list(known)[: max(0, len(known) - _MAX_VALUES)]:
                del known[old]
            self._values = known


def _leaves(value: Any) -> Iterable[str]:
    if isinstance(value, dict):
        value = list(cast("dict[str, Any]", value).values())
    if isinstance(value, list):
        for item in cast("list[Any]", value):
            yield from _leaves(item)
    elif isinstance(value, (str, int, float)) and not isinstance(value, bool):
        yield str(value).strip()


def _forms(value: str) -> Iterable[str]:
    """A value as it is, in JSON, and in JSON inside of JSON."""
    escaped = value
    yield value
    for _ in range(2):
        escaped = json.dumps(escaped, ensure_ascii=False)[1:-1]
        yield escaped


class _NamedField:
    """A field in a text: as a section of a chat, as JSON or Python, as XML."""

    def __init__(self, name: str) -> None:
        self._name = name
        literal = re.escape(name)
        self._section = re.compile(
            rf"(\[\[ ## {literal} ## \]\][ \t]*\r?\n).*?(?=\r?\n[ \t]*\[\[ ## |\Z)", re.DOTALL
        )
        self._element = re.compile(rf"(<{literal}>).*?(</{literal}>)", re.DOTALL)
        self._value = named_value(name)

    def hide(self, text: str) -> str:
        if self._name not in text:
            return text
        text = self._section.sub(rf"\g<1>{REDACTED}", text)
        text = self._element.sub(rf"\g<1>{REDACTED}\g<2>", text)
        return self._value(text)


_EMAIL = re.compile(r"[A-Za-z0-9._%+\-]{1,64}@[A-Za-z0-9\-]{1,63}(?:\.[A-Za-z0-9\-]{1,63}){1,8}")
_CARD = re.compile(r"(?<![\d.])\d(?:[ \-]?\d){11,18}(?![\d])")
_IBAN = re.compile(r"\b[A-Z]{2}\d{2}(?: ?[A-Z0-9]{1,4}){3,9}\b")
_IP = re.compile(
    r"(?<![\w.:])(?:\d{1,3}(?:\.\d{1,3}){3}|[0-9A-Fa-f]{0,4}(?::[0-9A-Fa-f]{0,4}){2,7})"
)


def _without_cards(text: str) -> str:
    luhn: Any = importlib.import_module("stdnum.luhn")  # an optional package

    def replaced(found: re.Match[str]) -> str:
        digits = re.sub(r"[ \-]", "", found[0])
        return REDACTED if luhn.is_valid(digits) else found[0]

    return _CARD.sub(replaced, text)


def _without_ibans(text: str) -> str:
    iban: Any = importlib.import_module("stdnum.iban")  # an optional package

    def replaced(found: re.Match[str]) -> str:
        # The next words may be in capitals as well.
        groups = found[0].split(" ")
        for count in range(len(groups), 0, -1):
            if iban.is_valid("".join(groups[:count])):
                return " ".join([REDACTED, *groups[count:]])
        return found[0]

    return _IBAN.sub(replaced, text)


def _without_phones(text: str) -> str:
    phonenumbers: Any = importlib.import_module("phonenumbers")  # an optional package

    if "+" not in text:
        return text
    # Without a region, only numbers with a country code are recognised.
    for match in reversed(list(phonenumbers.PhoneNumberMatcher(text, None))):
        text = f"{text[: match.start]}{REDACTED}{text[match.end :]}"
    return text


def _without_ips(text: str) -> str:
    def replaced(found: re.Match[str]) -> str:
        try:
            ipaddress.ip_address(found[0])
        except ValueError as error:
            pass_on(error)
            return found[0]
        return REDACTED

    return _IP.sub(replaced, text)


_BUILT_IN: dict[str, Callable[[str], str]] = {
    "email": partial(_EMAIL.sub, REDACTED),
    "phone": _without_phones,
    "card": _without_cards,
    "iban": _without_ibans,
    "api_key": redact_text,
    "ip": _without_ips,
}
