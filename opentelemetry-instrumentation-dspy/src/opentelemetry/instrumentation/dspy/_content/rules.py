# Copyright The opentelemetry-instrumentation-dspy Authors
# SPDX-License-Identifier: Apache-2.0
"""Redaction by rules: fields by their names, and texts by patterns, in every recorded value."""

from __future__ import annotations

import importlib
import ipaddress
import re
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any, Final, cast

from opentelemetry.instrumentation.dspy._content.jsonable import is_schema, schema_without_values
from opentelemetry.instrumentation.dspy._content.known_values import KnownValues, leaves
from opentelemetry.instrumentation.dspy._content.named_fields import NamedField
from opentelemetry.instrumentation.dspy._content.redaction import REDACTED, redact_text
from opentelemetry.instrumentation.dspy._guarding import pass_on
from opentelemetry.instrumentation.dspy._redact_setting import RedactionRules

STRUCTURE: Final = frozenset(
    {"role", "parts", "type", "id", "name", "finish_reason", "modality", "mime_type", "function"}
    | {"parameters", "properties", "required", "title", "strict", "constraints", "items", "anyOf"}
)
"""Keys of messages, tools and signatures that are not names of the program's fields."""
_CONTENT = frozenset({"content", "arguments", "response", "uri", "description", "default"})
_OF_PROGRAM = frozenset({"arguments", "response", "properties"})
"""Keys below which the names are the program's again."""


class Rules:
    """The rules of one ``instrument()``. Thread-safe."""

    def __init__(self, rules: RedactionRules) -> None:
        self._fields = rules.fields
        self._named = [NamedField(name) for name in sorted(rules.fields)]
        self._patterns: list[Callable[[str], str]] = [
            *(_BUILT_IN[name] for name in sorted(rules.patterns)),
            *(partial(expression.sub, REDACTED) for expression in rules.expressions),
        ]

    def hide(self, value: Any, known: KnownValues, structural: bool = False) -> Any:
        """A copy of JSON's own types without what the rules name.

        Args:
            value: The value; it is not changed.
            known: Gets the values of hidden fields, and names further texts to hide.
            structural: Whether the value is a list of messages, tools or fields of a signature,
                whose own keys are not names of fields.
        """
        if self._fields:
            known.learn((leaf, REDACTED) for leaf in self._hidden_leaves(value, structural))
        return REDACTED if known.withholds else self._hidden(value, known, structural)

    def hide_text(self, text: str, known: KnownValues) -> str:
        """A text without what the rules name and the known values."""
        for field in self._named:
            text = field.hide(text)
        text = known.hide(text)
        for pattern in self._patterns:
            text = pattern(text)
        return text

    def hides_field(self, name: str) -> bool:
        """Whether a rule names this field."""
        return name in self._fields

    def _hidden(self, value: Any, known: KnownValues, structural: bool) -> Any:
        if isinstance(value, str):
            return self.hide_text(value, known)
        if isinstance(value, dict):
            fields = cast("dict[str, Any]", value)
            return {
                self.hide_text(key, known): self._hidden_item(key, item, fields, known, structural)
                for key, item in fields.items()
            }
        if isinstance(value, list):
            items = cast("list[Any]", value)
            return [self._hidden(item, known, structural) for item in items]
        if isinstance(value, (int, float)) and not isinstance(value, bool):
            text = str(value)
            return value if self.hide_text(text, known) == text else REDACTED
        return value

    def _hidden_item(
        self, key: str, item: Any, fields: dict[str, Any], known: KnownValues, structural: bool
    ) -> Any:
        if self._is_hidden(key, fields, structural):
            return schema_without_values(item)
        inner = (structural and key not in _OF_PROGRAM) or is_schema(item)
        return self._hidden(item, known, inner)

    def _is_hidden(self, key: str, fields: dict[str, Any], structural: bool) -> bool:
        if not structural or (key not in STRUCTURE and key not in _CONTENT):
            return key in self._fields
        # The default of a field, in the description of a signature.
        return key == "default" and fields.get("name") in self._fields

    def _hidden_leaves(self, value: Any, structural: bool) -> Iterator[str]:
        if isinstance(value, dict):
            fields = cast("dict[str, Any]", value)
            for key, item in fields.items():
                inner = (structural and key not in _OF_PROGRAM) or is_schema(item)
                if not self._is_hidden(key, fields, structural):
                    yield from self._hidden_leaves(item, inner)
                elif not is_schema(item):
                    yield from leaves(item)
        elif isinstance(value, list):
            for item in cast("list[Any]", value):
                yield from self._hidden_leaves(item, structural)


_EMAIL = re.compile(r"[\w.%+\-]{1,64}(?:@|%40)[\w\-]{1,63}(?:\.[\w\-]{1,63}){1,8}")
# Runs of digits, or of groups of an account number, which may be longer than the number itself.
_CARD = re.compile(r"(?<![\d.])\d(?:[ \-]?\d){11,}(?!\d)")
_SHORTEST_CARD, _LONGEST_CARD, _LONGEST_IBAN = 12, 19, 34
_IBAN = re.compile(r"\b[A-Z]{2}\d{2}(?: ?[A-Z0-9]){11,}\b")
_IP = re.compile(
    r"(?<![\w.])(?:\d{1,3}(?:\.\d{1,3}){3}"
    r"|[0-9A-Fa-f]{0,4}(?::[0-9A-Fa-f]{0,4}){2,7}(?:(?:\.\d{1,3}){3})?)"
)
_GROUP = re.compile(r"[A-Z0-9]+")


def _without_numbers(found: re.Match[str], longest: int, is_valid: Callable[[str], bool]) -> str:
    """A run of groups without the valid numbers in it, each as long as possible."""
    text, groups = found[0], list(_GROUP.finditer(found[0]))
    parts: list[str] = []
    written = first = 0
    while first < len(groups):
        number, after = "", None
        for last in range(first, len(groups)):
            number += groups[last][0]
            if len(number) > longest:
                break
            if is_valid(number):
                after = last + 1
        if after is None:
            first += 1
            continue
        parts.append(f"{text[written : groups[first].start()]}{REDACTED}")
        written, first = groups[after - 1].end(), after
    return "".join([*parts, text[written:]])


def _without_cards(text: str) -> str:
    luhn: Any = importlib.import_module("stdnum.luhn")  # an optional package

    def is_card(digits: str) -> bool:
        return len(digits) >= _SHORTEST_CARD and luhn.is_valid(digits)

    return _CARD.sub(lambda found: _without_numbers(found, _LONGEST_CARD, is_card), text)


def _without_ibans(text: str) -> str:
    iban: Any = importlib.import_module("stdnum.iban")  # an optional package
    return _IBAN.sub(lambda found: _without_numbers(found, _LONGEST_IBAN, iban.is_valid), text)


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
        if not found[0].strip(":"):
            return found[0]  # a slice of Python
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
