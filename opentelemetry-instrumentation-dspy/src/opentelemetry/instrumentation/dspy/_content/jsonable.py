# Copyright The opentelemetry-instrumentation-dspy Authors
# SPDX-License-Identifier: Apache-2.0
"""Any Python value as JSON's own types, bounded and without secrets.

Values are read without changing them. The only code of theirs that runs is ``__repr__``, ``items``
and attribute access.
"""

from __future__ import annotations

import dataclasses
import datetime
import decimal
import enum
import pathlib
import sys
import types
import uuid
from collections.abc import Callable, Collection, Iterable, Mapping
from typing import Any, Final, cast

import orjson

from opentelemetry.instrumentation.dspy._content.redaction import (
    BASE64_MARK,
    MIN_DATA_URI,
    REDACTED,
    is_secret_key,
    redact_text,
    shorten_data_uris,
)
from opentelemetry.instrumentation.dspy._guarding import pass_by_value

Scalar = str | int | float | bool | None
Jsonable = Scalar | list[Any] | dict[str, Any]

# JSON's own types. Subclasses are not among them, and have to be copied.
_CONTAINERS = frozenset({dict, list, tuple})
_NUMBERS = frozenset({int, float, bool, type(None)})
JSON_TYPES: Final = _CONTAINERS | _NUMBERS | {str}

_MAX_DEPTH = 24
_MAX_NODES = 20_000
_MAX_REPR = 2_000
_MAX_ARRAY = 256
_MAX_SORTED = 1_000
_INT_LIMIT = 2**63
_MAX_INT_BITS = 1024
_UNREADABLE = "[unreadable {}]"


def dumps(jsonable: Jsonable, option: int = 0) -> bytes:
    """JSON text of JSON's own types; characters that UTF-8 cannot encode are replaced."""
    try:
        return orjson.dumps(jsonable, option=option)
    except (orjson.JSONEncodeError, RecursionError):
        # Lone surrogates are legal in a str and illegal in UTF-8.
        return orjson.dumps(_repaired(jsonable), option=option)


def valid_text(text: str) -> str:
    """``text`` with the characters replaced that UTF-8 cannot encode."""
    if text.isascii():
        return text
    return text.encode("utf-8", "surrogatepass").decode("utf-8", "replace")


def _repaired(jsonable: Jsonable) -> Jsonable:
    if isinstance(jsonable, str):
        return valid_text(jsonable)
    if isinstance(jsonable, list):
        return [_repaired(item) for item in jsonable]
    if isinstance(jsonable, dict):
        return {valid_text(key): _repaired(item) for key, item in jsonable.items()}
    return jsonable


# Keys seen before that are not secret: one set operation checks all keys of a mapping.
_harmless_keys: set[str] = set()
_MAX_HARMLESS_KEYS = 4_096


def _are_harmless(keys: Iterable[Any]) -> bool:
    for key in keys:
        if type(key) is not str or key == AUDIO_KEY or is_secret_key(key):
            return False
        if len(_harmless_keys) < _MAX_HARMLESS_KEYS:
            _harmless_keys.add(key)
    return True


def unchanged_size(value: Any, limit: int) -> int | None:
    """Number of characters in a value that may be written unchanged, else None.

    Such a value consists of JSON's own types, has no secret key, no data URI worth shortening, and
    at most about ``limit`` characters.
    """
    size = 0
    containers: list[Any] = [value if type(value) in _CONTAINERS else (value,)]
    nodes = len(containers[0])  # bounded, which also ends the walk through a cycle
    for container in containers:  # grows while it is walked
        if nodes > _MAX_NODES:
            return None
        items: Any = container
        kind: type[Any] = type(container)  # type: ignore[reportUnknownVariableType]
        if kind is dict:
            if not _harmless_keys.issuperset(items) and not _are_harmless(items):
                return None
            items = items.values()
        for item in items:
            kind = type(item)  # type: ignore[reportUnknownVariableType]
            if kind is str:
                size += len(item)
                if size >= MIN_DATA_URI and (
                    # Searching for one character is twenty times faster than for the mark.
                    size > limit or item[:5] == "data:" or (";" in item and BASE64_MARK in item)
                ):
                    return None
            elif kind in _CONTAINERS:
                if item:
                    containers.append(item)
                    nodes += len(item)
            elif kind not in _NUMBERS:
                return None
    return size if size <= limit else None


class JsonableCopier:
    """The copying of one value into JSON's own types, within a budget of characters.

    Attributes:
        cut: Whether something was left out.
    """

    __slots__ = ("_budget", "_left", "_nodes", "_path", "_shorten", "cut")

    def __init__(
        self,
        budget: int,
        nodes: int = _MAX_NODES,
        shorten: Callable[[str], str] = shorten_data_uris,
    ) -> None:
        self._budget = self._left = budget
        self._nodes = nodes
        self._shorten = shorten
        self._path: set[int] = set()
        self.cut = False

    @property
    def used(self) -> int:
        """Approximate number of characters in the copy."""
        return self._budget - self._left

    def copy(self, value: Any, depth: int = 0) -> Jsonable:
        """Copy the value. Never raises."""
        kind: type[Any] = type(value)  # type: ignore[reportUnknownVariableType]
        if kind is str:
            return self._text(value)
        if kind in _NUMBERS:
            if kind is int:
                self._left -= 8
                return value if -_INT_LIMIT < value < _INT_LIMIT else _big_int(value)
            self._left -= 5
            return value
        if depth >= _MAX_DEPTH or self._nodes <= 0 or self._left <= 0:
            self.cut = True
            return "[...]"
        if id(value) in self._path:
            return "[cycle]"
        self._path.add(id(value))
        try:
            return self._container(value, kind, depth)
        except BaseException as error:
            pass_by_value(error)
            return _UNREADABLE.format(kind.__name__)
        finally:
            self._path.discard(id(value))

    def _container(self, value: Any, kind: type, depth: int) -> Jsonable:
        if kind is dict:
            return self._mapping(value.items(), depth)
        if kind is list or kind is tuple:
            return self._sequence(value, depth)
        items = fields_of(value, kind)
        if items is not None:
            return self._mapping(items, depth)
        if isinstance(value, (list, tuple)):
            return self._sequence(list(cast("Iterable[Any]", value)), depth)
        if isinstance(value, (set, frozenset)):
            return self._sequence(_ordered(cast("Collection[Any]", value)), depth)
        other = _described(value, kind)
        return self._text(other) if type(other) is str else self.copy(other, depth + 1)

    def _mapping(self, items: Iterable[tuple[Any, Any]], depth: int) -> dict[str, Any]:
        result: dict[str, Any] = {}
        for key, item in items:
            if self._exhausted():
                result["..."] = "[truncated]"
                break
            name = key if type(key) is str else _key(key)
            self._left -= len(name) + 4
            given = as_data_uri(item, "format") if name == AUDIO_KEY else item
            result[name] = (
                schema_without_values(given) if is_secret_key(name) else self.copy(given, depth + 1)
            )
        return result

    def _sequence(self, items: Iterable[Any], depth: int) -> list[Any]:
        result: list[Any] = []
        for item in items:
            if self._exhausted():
                result.append("[truncated]")
                break
            self._left -= 1
            result.append(self.copy(item, depth + 1))
        return result

    def _exhausted(self) -> bool:
        self._nodes -= 1
        if self._nodes > 0 and self._left > 0:
            return False
        self.cut = True
        return True

    def _text(self, text: str) -> str:
        if text.startswith("data:") or BASE64_MARK in text:
            text = self._shorten(text)
        size = len(text)
        if size > self._left:
            kept = max(self._left, 0)
            self.cut = True
            text = f"{text[:kept]}[... {size - kept} more characters]"
        self._left -= size
        return text


AUDIO_KEY = "input_audio"
"""Key of audio in OpenAI's messages, the only media that is not a data URI."""


def as_data_uri(audio: Any, format_name: str) -> Any:
    """A record of base64 data and format, with a data URI as data; any other value itself."""
    if type(audio) is not dict:
        return audio
    fields = cast("dict[str, Any]", audio)
    data, kind = fields.get("data"), fields.get(format_name)
    if type(data) is not str or data.startswith("data:"):
        return fields
    return {**fields, "data": f"data:audio/{kind}{BASE64_MARK}{data}"}


_SCHEMA_TYPES = frozenset({"string", "integer", "number", "boolean", "object", "array", "null"})
_MAX_CHOICES = 16


def is_schema(value: Any) -> bool:
    """Whether a value is the JSON schema of a parameter, not the value of one."""
    if type(value) is not dict:
        return False
    schema = cast("dict[str, Any]", value)
    kind = schema.get("type")
    return (type(kind) is str and kind in _SCHEMA_TYPES) or type(schema.get("anyOf")) is list


def schema_without_values(value: Any) -> Jsonable:
    """The replacement for a value whose key names a secret.

    A JSON schema under such a key describes a parameter: its type is kept, its default is not.
    """
    if not is_schema(value):
        return REDACTED
    schema = cast("dict[str, Any]", value)
    kind, choices = schema.get("type"), schema.get("anyOf")
    if type(kind) is str and kind in _SCHEMA_TYPES:
        return {"type": kind}
    if type(choices) is list:
        return {
            "anyOf": [
                schema_without_values(choice)
                for choice in cast("list[Any]", choices)[:_MAX_CHOICES]
            ]
        }
    return REDACTED


def _ordered(members: Collection[Any]) -> Iterable[Any]:
    # The order of a set differs between processes.
    return sorted(members, key=_order) if len(members) <= _MAX_SORTED else list(members)


def _order(member: Any) -> str:
    try:
        return repr(member)[:_MAX_REPR]
    except BaseException as error:
        pass_by_value(error)
        return ""


def _big_int(value: int) -> str:
    # int -> str is refused beyond sys.get_int_max_str_digits(), and slow below it.
    return (
        str(value)
        if value.bit_length() < _MAX_INT_BITS
        else f"[integer of {value.bit_length()} bits]"
    )


def _key(key: Any) -> str:
    if key is None or isinstance(key, (int, float, bool, enum.Enum)):
        return str(key)
    try:
        return repr(key)[:200]
    except BaseException as error:
        pass_by_value(error)
        return _UNREADABLE.format(type(key).__name__)


def fields_of(value: Any, kind: type) -> Iterable[tuple[Any, Any]] | None:
    """The fields of an object that is a kind of record with their values, else None."""
    dspy = sys.modules.get("dspy")
    if dspy is not None:
        if isinstance(value, dspy.Example):  # Prediction is a subclass
            return value.items()
        if isinstance(value, dspy.Tool):
            return (("name", value.name), ("desc", value.desc), ("args", value.args))
    if isinstance(value, Mapping):
        return value.items()  # type: ignore[reportUnknownVariableType]
    if hasattr(kind, "__pydantic_root_model__"):
        # A pydantic model has its fields in its __dict__; model_dump() would run user code.
        fields: dict[str, Any] = value.__dict__
        if "audio_format" in fields:
            fields = as_data_uri(fields, "audio_format")  # dspy.Audio
        extra: dict[str, Any] | None = getattr(value, "__pydantic_extra__", None)
        return {**fields, **extra}.items() if extra else fields.items()
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return [(field.name, getattr(value, field.name)) for field in dataclasses.fields(value)]
    return None


def is_record(value: Any) -> bool:
    """Whether a value is a mapping, or an Example or Prediction of DSPy."""
    dspy = sys.modules.get("dspy")
    return isinstance(value, Mapping) or (dspy is not None and isinstance(value, dspy.Example))


def items_of(record: Any) -> list[tuple[Any, Any]]:
    """The fields of such a record with their values."""
    return list(record.items())


def record_as_dict(value: Any, kind: type) -> Any:
    """The fields of a record as a dict; any other value itself."""
    items = fields_of(value, kind)
    return value if items is None else dict(items)


_AS_STR = (datetime.date, datetime.time, datetime.timedelta, decimal.Decimal, uuid.UUID)
_CODE = (types.FunctionType, types.MethodType, types.BuiltinFunctionType, types.ModuleType, type)


def _described(value: Any, kind: type) -> Any:
    # Subclasses of JSON's own types: string enums, numpy's float64.
    if isinstance(value, str):
        return str.__str__(value)
    if isinstance(value, (int, float)):
        return int(value) if isinstance(value, int) else float(value)
    if isinstance(value, enum.Enum):
        return value.value
    if isinstance(value, (bytes, bytearray)):
        return f"[{len(value)} bytes]"
    if isinstance(value, (*_AS_STR, pathlib.PurePath)):
        return str(value)
    if isinstance(value, _CODE):
        return f"[{getattr(value, '__module__', '')}.{getattr(value, '__qualname__', value)}]"
    if hasattr(kind, "shape") and hasattr(kind, "dtype"):
        return _array(value, kind)
    if kind.__repr__ is object.__repr__:
        return f"[{kind.__module__}.{kind.__qualname__}]"  # the default repr contains an address
    return redact_text(repr(value)[:_MAX_REPR])


def _array(value: Any, kind: type) -> Any:
    if getattr(value, "size", _MAX_ARRAY + 1) <= _MAX_ARRAY and hasattr(value, "tolist"):
        return value.tolist()
    return f"[{kind.__name__} of shape {tuple(value.shape)}, {value.dtype}]"
