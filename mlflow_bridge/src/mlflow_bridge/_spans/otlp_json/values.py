# Copyright The opentelemetry-instrumentation-dspy Authors
# SPDX-License-Identifier: Apache-2.0
"""Encoding of attributes and their values in OTLP JSON.

It is most of the work of encoding a span. Spans of one kind have the same attributes, with values
of the same types. So the constant text is built once for each such shape, and only the values are
filled in.
"""

from __future__ import annotations

import base64
import json
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final, cast

import orjson

from mlflow_bridge._process.interruption import belongs_to_program
from mlflow_bridge._spans.attributes import as_dict

_INT64: Final = 2**63
_MAX_SHAPES: Final = 256

_Writer = Callable[[Any], bytes]
# The text with a place for each value, and the writer of each value.
_Shape = tuple[bytes, tuple[_Writer, ...]]


def attributes_json(attributes: Mapping[str, Any] | None) -> bytes:
    """The field ``attributes`` of an object, after a comma; empty if there are no attributes.

    Raises:
        RecursionError: A value is nested too deep.
    """
    found = as_dict(attributes)
    if not found:
        return b""
    values = found.values()
    key = (*found, *map(type, values))
    shape = _shapes.get(key)
    if shape is None:
        shape = _shape_of(found)
        # Names of other types may be equal and still have different text.
        if all(type(name) is str for name in found):
            _remember(key, shape)
    return _filled(shape, values)


_shapes: dict[tuple[Any, ...], _Shape] = {}


def _remember(key: tuple[Any, ...], shape: _Shape) -> None:
    if len(_shapes) >= _MAX_SHAPES:
        _shapes.clear()
    _shapes[key] = shape


def _shape_of(attributes: Mapping[str, object]) -> _Shape:
    places = [_place(key, type(value)) for key, value in attributes.items()]
    text = b",".join(text for text, _ in places)
    return b',"attributes":[' + text + b"]", tuple(writer for _, writer in places)


def _place(key: object, kind: type[object]) -> tuple[bytes, _Writer]:
    before, writer, after = _PLACES.get(kind, _ANY_PLACE)
    name = text_json(key).replace(b"%", b"%%")
    return b'{"key":' + name + b',"value":' + before + b"%b" + after + b"}", writer


def _filled(shape: _Shape, values: Any) -> bytes:
    text, writers = shape
    try:
        return text % tuple([write(value) for write, value in zip(writers, values)])  # noqa: B905
    except TypeError:  # Lone surrogates in a text.
        safe = [as_json if write is orjson.dumps else write for write in writers]
        return text % tuple([write(value) for write, value in zip(safe, values)])  # noqa: B905


def as_json(data: Any) -> bytes:
    """Encode data as JSON text; lone surrogates, which UTF-8 cannot hold, become escapes."""
    try:
        return orjson.dumps(data)
    except TypeError:
        return json.dumps(data, separators=(",", ":")).encode("ascii")


def text_json(value: Any) -> bytes:
    """Encode a value of any type as a JSON string."""
    return as_json(value if type(value) is str else _text_of(value))


def _value_json(value: Any) -> bytes:
    return as_json(_value(value))


def _int_json(value: int) -> bytes:
    if -_INT64 <= value < _INT64:
        return b'{"intValue":"%d"}' % value
    return as_json(_big(value))


def _float_json(value: float) -> bytes:
    return orjson.dumps(value if math.isfinite(value) else _unreal(value))


# By the exact type: a subclass may override methods.
_PLACES: Final[dict[type, tuple[bytes, _Writer, bytes]]] = {
    str: (b'{"stringValue":', orjson.dumps, b"}"),
    bool: (b'{"boolValue":', orjson.dumps, b"}"),
    int: (b"", _int_json, b""),
    float: (b'{"doubleValue":', _float_json, b"}"),
}
_ANY_PLACE: Final = (b"", _value_json, b"")


def _value(value: Any) -> dict[str, Any]:
    if isinstance(value, str):
        return {"stringValue": _text_of(value)}
    if isinstance(value, bool):
        return {"boolValue": value}
    if isinstance(value, int):
        return {"intValue": str(int(value))} if -_INT64 <= value < _INT64 else _big(value)
    if isinstance(value, float):
        return {"doubleValue": float(value) if math.isfinite(value) else _unreal(value)}
    if value is None:
        return {}
    if isinstance(value, (bytes, bytearray)):
        return {"bytesValue": base64.b64encode(value).decode("ascii")}
    # The type first: a check against an abstract class takes far longer.
    if type(value) is not tuple and isinstance(value, Mapping):
        items = _key_values(cast("Mapping[Any, Any]", value))
        return {"kvlistValue": {"values": items} if items else {}}
    if isinstance(value, (tuple, Sequence)):
        values = [_value(item) for item in cast("Sequence[Any]", value)]
        return {"arrayValue": {"values": values} if values else {}}
    return {"stringValue": _text_of(value)}


def _key_values(found: Mapping[Any, Any]) -> list[dict[str, Any]]:
    return [{"key": _text_of(key), "value": _value(value)} for key, value in found.items()]


def _text_of(value: Any) -> str:
    if isinstance(value, str):
        # A subclass may override __str__.
        return value if type(value) is str else str.__str__(value)
    try:
        return str(value)
    except Exception as error:  # Raised by an object of the program, which must not cost the span.
        if belongs_to_program(error):
            raise
        return object.__repr__(value)


def _big(value: int) -> dict[str, Any]:
    # Python limits the number of decimal digits; hex has no limit.
    try:
        return {"stringValue": str(value)}
    except ValueError:
        return {"stringValue": hex(value)}


def _unreal(value: float) -> str:
    if math.isnan(value):
        return "NaN"
    return "Infinity" if value > 0 else "-Infinity"
