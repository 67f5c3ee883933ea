# Copyright The opentelemetry-instrumentation-dspy Authors
# SPDX-License-Identifier: Apache-2.0
"""Conversion of attribute values to a storable form; one bad value makes MLflow refuse a batch.

MLflow parses every attribute that looks like JSON, in the process that stores it and in the
browser. This module repairs values that break a parser or database: lone surrogates and NUL
(refused by databases), NaN and infinities (not JSON in the browser), integers and nesting beyond
the limits of Python's parser, and values of unlimited size. All functions are pure and never raise.
"""

from __future__ import annotations

import base64
import json
import math
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Final, cast

_INT64: Final = 2**63
_MAX_DIGITS: Final = 18  # always fewer than 64 bits
_MAX_BITS: Final = 4096
# MLflow's server responds in protobuf, which allows 100 levels and needs three for each JSON level.
_MAX_DEPTH: Final = 24
_NOTE_BYTES: Final = 64
_CUT: Final = "[... {} more characters]"
_TOO_DEEP: Final = "[nested too deep]"

# Escapes hide characters that cannot be stored, and prevent searches from finding text.
_ESCAPE_IN_JSON: Final = re.compile(r"\\u|NaN|Infinity")

Scalar = str | bool | int | float
Storable = Scalar | list[Scalar]
"""Types of attribute values that this module returns: text, a number, or a list of both."""


class JsonText(str):
    """Text that is a JSON document and is stored unchanged, not encoded as a JSON string."""

    __slots__ = ()


def clean_text(text: str, limit: int) -> str:
    """Valid UTF-8 without NUL, at most ``limit`` bytes long; a note states how much was cut."""
    if len(text) <= limit and text.isascii() and "\x00" not in text:
        return text  # The common case needs no copy.
    if "\x00" in text:
        text = text.replace("\x00", "\ufffd")
    try:
        return _shortened(text, limit)
    except UnicodeEncodeError:
        return _shortened(_without_lone_surrogates(text), limit)


def storable(value: Any, limit: int) -> Storable | None:
    """An attribute value in a form that every MLflow store accepts; ``None`` for ``None``.

    Text that is a JSON document becomes `JsonText`, since MLflow's store and server both parse it.
    """
    if isinstance(value, str):
        # A subclass, such as an enumeration, may override methods of str.
        exact = value if type(value) in (str, JsonText) else str.__str__(value)
        return _storable_text(exact, limit)
    if isinstance(value, (bool, int, float)):
        return _number(value)
    if value is None:
        return None
    if isinstance(value, (bytes, bytearray)):
        return clean_text(_text_of_bytes(bytes(value)), limit)
    if isinstance(value, Sequence):
        return _storable_list(cast("Sequence[Any]", value), limit)
    if isinstance(value, Mapping):
        return json_text(value, limit)
    return clean_text(_repr(value), limit)


def json_text(value: Any, limit: int) -> JsonText:
    """Any Python value as a JSON document of at most ``limit`` bytes."""
    plain = _plain(value, _MAX_DEPTH)
    text = _dumps(plain)
    if not _longer_than(text, limit):
        return JsonText(text)
    # Shorten long strings and lists step by step, to keep the structure as long as possible.
    strings, items = limit // 2, limit // 4
    while strings > _NOTE_BYTES:
        text = _dumps(_pruned(plain, strings, items))
        if not _longer_than(text, limit):
            return JsonText(text)
        strings, items = strings // 2, max(items // 2, 4)
    return JsonText(_dumps(_shortened(_dumps(plain), limit // 4)))


def parsed_json(value: Any) -> Any:
    """The document in a JSON text; the value itself if it is not JSON."""
    if not isinstance(value, str):
        return value
    try:
        return json.loads(value)
    except ValueError:
        return _parsed_leniently(value)
    except RecursionError:
        return value


def _storable_text(text: str, limit: int) -> Storable:
    if text.lstrip()[:1] not in ("{", "[", '"'):
        return clean_text(text, limit)
    if isinstance(text, JsonText) and not _longer_than(text, limit):
        return text
    text = clean_text(text, len(text) * 4)
    try:
        document = json.loads(text)
    except json.JSONDecodeError:
        return clean_text(text, limit)
    except RecursionError:
        # MLflow's own parser would fail, too. With this prefix, MLflow does not parse the text.
        return clean_text(f"{_TOO_DEEP} {text}", limit)
    except ValueError:  # an integer with more digits than Python converts
        return json_text(_parsed_leniently(text), limit)
    too_deep = text.count("[") + text.count("{") > _MAX_DEPTH and _is_deeper(document, _MAX_DEPTH)
    if too_deep or _longer_than(text, limit) or _ESCAPE_IN_JSON.search(text):
        return json_text(document, limit)
    return JsonText(text)


def _is_deeper(document: Any, levels: int) -> bool:
    if isinstance(document, dict):
        items: Iterable[Any] = cast("dict[str, Any]", document).values()
    elif isinstance(document, list):
        items = cast("list[Any]", document)
    else:
        return False
    return levels <= 0 or any(_is_deeper(item, levels - 1) for item in items)


def _parsed_leniently(text: str) -> Any:
    """The document in a JSON text with long integers as text; the text itself if it is invalid."""
    try:
        return json.loads(text, parse_int=_int_or_digits)
    except (ValueError, RecursionError):
        return text


def _int_or_digits(digits: str) -> int | str:
    return int(digits) if len(digits) <= _MAX_DIGITS else digits


def _number(value: bool | int | float) -> Scalar:
    if isinstance(value, bool):
        return value
    if isinstance(value, int):
        # int(), since subclasses, such as enumerations, may have another text.
        return int(value) if -_INT64 <= value < _INT64 else _digits(value)
    return float(value) if math.isfinite(value) else _non_finite(value)


def _digits(value: int) -> str:
    # Longer integers are slow to convert, and Python refuses more than 4,300 digits.
    bits = value.bit_length()
    return str(value) if bits < _MAX_BITS else f"[integer of {bits} bits]"


def _non_finite(value: float) -> str:
    if math.isnan(value):
        return "NaN"
    return "Infinity" if value > 0 else "-Infinity"


def _text_of_bytes(value: bytes) -> str:
    try:
        return value.decode()
    except UnicodeDecodeError:
        return base64.b64encode(value).decode()


def _storable_list(values: Sequence[Any], limit: int) -> Storable:
    if not all(isinstance(value, (str, bool, int, float)) for value in values):
        return json_text(values, limit)
    cleaned: list[Scalar] = [
        clean_text(value, limit) if isinstance(value, str) else _number(value) for value in values
    ]
    size = sum(len(value) if isinstance(value, str) else 8 for value in cleaned)
    return cleaned if size <= limit // 4 else json_text(cleaned, limit)


def _plain(value: Any, depth: int) -> Any:
    """The value in storable types that JSON has."""
    if isinstance(value, str):
        return clean_text(value, len(value) * 4)
    if value is None or isinstance(value, (bool, int, float)):
        return value if value is None else _number(value)
    if depth <= 0:
        return _TOO_DEEP
    if isinstance(value, Mapping):
        entries = cast("Mapping[Any, Any]", value).items()
        return {_key(key): _plain(item, depth - 1) for key, item in entries}
    if isinstance(value, (bytes, bytearray)):
        return _plain(_text_of_bytes(bytes(value)), depth)
    if isinstance(value, Sequence):
        return [_plain(item, depth - 1) for item in cast("Sequence[Any]", value)]
    return _plain(_repr(value), depth)


def _key(key: Any) -> str:
    text = key if isinstance(key, str) else _repr(key)
    return clean_text(text, len(text) * 4)


def _repr(value: Any) -> str:
    try:
        return str(value)
    except Exception:
        return f"[unreadable {type(value).__name__}]"


def _pruned(value: Any, strings: int, items: int) -> Any:
    if isinstance(value, str):
        return _shortened(value, strings)
    if isinstance(value, dict):
        entries = list(cast("dict[str, Any]", value).items())
        kept = {
            _shortened(key, strings): _pruned(item, strings, items) for key, item in entries[:items]
        }
        if len(entries) > items:
            kept["..."] = f"[{len(entries) - items} more]"
        return kept
    if isinstance(value, list):
        elements = cast("list[Any]", value)
        kept_elements = [_pruned(element, strings, items) for element in elements[:items]]
        if len(elements) > items:
            kept_elements.append(f"[... {len(elements) - items} more]")
        return kept_elements
    return value


def _shortened(text: str, limit: int) -> str:
    if not _longer_than(text, limit):
        return text
    budget = max(limit - _NOTE_BYTES, 0)
    kept = text.encode()[:budget].decode("utf-8", "ignore")
    note = _CUT.format(len(text) - len(kept))
    # With a small limit, the text is more useful than the note.
    return kept + note if limit > 2 * _NOTE_BYTES else text.encode()[:limit].decode(errors="ignore")


def _without_lone_surrogates(text: str) -> str:
    # Through UTF-16, where the two halves of a surrogate pair become one character again.
    return text.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace")


def _longer_than(text: str, limit: int) -> bool:
    """Whether the text has more than ``limit`` bytes in UTF-8.

    Raises:
        UnicodeEncodeError: The text has lone surrogates.
    """
    return len(text if text.isascii() else text.encode()) > limit


def _dumps(plain: Any) -> str:
    # Without escapes, since MLflow's searches compare characters as the user types them.
    return json.dumps(plain, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
