# Copyright The opentelemetry-instrumentation-dspy Authors
# SPDX-License-Identifier: Apache-2.0
"""Spans as lines of an OTLP file: as OpenTelemetry itself encodes them, and back without loss."""

from __future__ import annotations

import base64
import json
import math
from typing import Any

import pytest
from google.protobuf.json_format import MessageToDict, ParseDict
from opentelemetry.exporter.otlp.proto.common.trace_encoder import encode_spans
from opentelemetry.proto.trace.v1.trace_pb2 import TracesData
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import Event, ReadableSpan, TracerProvider
from opentelemetry.sdk.util.instrumentation import InstrumentationScope
from opentelemetry.trace import SpanKind, Status, StatusCode

from mlflow_bridge._spans.otlp_json.decoder import spans_in
from mlflow_bridge._spans.otlp_json.encoder import SPAN_MARK, first_line, line_of
from tests.support.spool_spans import (
    everything_in,
    names_of,
    span_that_dropped,
    span_with,
)

ORDINARY: dict[str, Any] = {
    "text": 'with "quotes", \\ and\nlines, ü, 😀',
    "true": True,
    "int": -(2**63),
    "large": 2**63 - 1,
    "float": 0.1,
    "empty": "",
    "texts": ("a", "b"),
    "numbers": (1, 2),
    "none": (),
    "mixed": ("a", 1, 2.5, None, (1, ("deep",))),
    "map": {"a": {"b": (1, 2)}, "empty": {}},
    "bytes": b"\x00\xff",
    "nothing": None,
}
IDS = ("traceId", "spanId", "parentSpanId")


def plain_span() -> ReadableSpan:
    span = TracerProvider(shutdown_on_exit=False).get_tracer("test").start_span("plain")
    span.end()
    assert isinstance(span, ReadableSpan)
    return span


@pytest.mark.parametrize(
    "span", [span_with(ORDINARY), span_with(), span_that_dropped(), plain_span()]
)
def test_every_field_comes_back(span: ReadableSpan) -> None:
    (back,) = spans_in(line_of([span]))
    assert everything_in(back) == everything_in(span)
    assert back.context is not None and span.context is not None
    assert back.context.trace_state == span.context.trace_state


@pytest.mark.parametrize("kind", SpanKind)
def test_every_kind_comes_back(kind: SpanKind) -> None:
    span = TracerProvider(shutdown_on_exit=False).get_tracer("test").start_span("x", kind=kind)
    span.end()
    assert isinstance(span, ReadableSpan)
    assert spans_in(line_of([span]))[0].kind == kind


def with_other_ids(message: Any, change: Any) -> Any:
    if isinstance(message, list):
        return [with_other_ids(item, change) for item in message]
    if not isinstance(message, dict):
        return message
    return {
        key: change(value)
        if key in IDS
        else without_trace_flags(key, with_other_ids(value, change))
        for key, value in message.items()
    }


def without_trace_flags(key: str, value: Any) -> Any:
    """Leave out the lower eight bits, which the official encoder does not write."""
    return value & ~0xFF if key == "flags" else value


@pytest.mark.parametrize("spans", [[span_with(ORDINARY)] * 2, [span_that_dropped()]])
def test_a_line_equals_the_official_encoding(spans: list[ReadableSpan]) -> None:
    official = MessageToDict(encode_spans(spans), use_integers_for_enums=True)
    hexadecimal = with_other_ids(official, lambda text: base64.b64decode(text).hex())
    assert with_other_ids(json.loads(line_of(spans)), str) == hexadecimal


def test_a_line_is_read_by_the_official_classes() -> None:
    span = span_with(ORDINARY)
    line = json.loads(line_of([span]))
    encoded = with_other_ids(line, lambda text: base64.b64encode(bytes.fromhex(text)).decode())
    data = ParseDict(encoded, TracesData())
    assert data.SerializeToString() == encode_spans([span]).SerializeToString()


@pytest.mark.parametrize("value", [math.inf, -math.inf])
def test_infinities_come_back(value: float) -> None:
    (back,) = spans_in(line_of([span_with({"x": value, "list": (value,)})]))
    assert back.attributes == {"x": value, "list": (value,)}


def test_nan_comes_back() -> None:
    (back,) = spans_in(line_of([span_with({"x": math.nan})]))
    assert str((back.attributes or {})["x"]) == "nan"


def test_lone_surrogates_come_back_beside_other_text() -> None:
    attributes = {"x": "a\ud800b", "y": "ü"}
    line = line_of([span_with(attributes), span_with(attributes, name="\udfff", span_id=8)])
    assert line.count(b"\n") == 1
    first, second = spans_in(line)
    assert (first.attributes, second.name) == (attributes, "\udfff")


@pytest.mark.parametrize(
    ("value", "text"),
    [(2**63, str(2**63)), (-(10**30), str(-(10**30))), (1 << 20_000, hex(1 << 20_000))],
    ids=["just beyond", "negative", "too long for decimal text"],
)
def test_integers_beyond_64_bits_become_text(value: int, text: str) -> None:
    (back,) = spans_in(line_of([span_with({"x": value})]))
    assert back.attributes == {"x": text}


def test_lists_become_tuples_and_objects_text() -> None:
    (back,) = spans_in(line_of([span_with({"list": [1, [2]], "object": 1j, 3: "key"})]))  # pyright: ignore
    assert back.attributes == {"list": (1, (2,)), "object": "1j", "3": "key"}


def test_an_object_whose_str_raises_does_not_cost_the_span() -> None:
    class Unprintable:
        def __str__(self) -> str:
            raise RuntimeError("never")

    (back,) = spans_in(line_of([span_with({"x": Unprintable()})]))
    assert back.attributes is not None
    assert "Unprintable object" in str(back.attributes["x"])


class OddlyNamed:
    def __str__(self) -> str:
        return "odd"


def test_fields_that_the_sdk_does_not_check_are_repaired_and_cost_no_other_span() -> None:
    odd: Any = OddlyNamed()
    number: Any = 1.7e18
    text: Any = "yesterday"
    span = ReadableSpan(
        name=odd,
        context=span_with().context,
        events=[Event(odd, {odd: 1}, number)],
        status=Status(StatusCode.ERROR),
        start_time=number,
        end_time=text,
    )
    back, other = spans_in(line_of([span, span_with()]))
    assert other.name == "predict"
    assert (back.name, back.start_time, back.end_time) == ("odd", 1_700_000_000_000_000_000, 0)
    [event] = back.events
    assert (event.name, event.timestamp) == ("odd", 1_700_000_000_000_000_000)
    assert event.attributes == {"odd": 1}


def test_a_line_holds_spans_of_many_scopes_and_counts_them() -> None:
    spans = [plain_span(), span_with({"x": SPAN_MARK.decode()}), plain_span()]
    line = line_of(spans)
    assert sorted(names_of(spans_in(line))) == ["plain", "plain", "predict"]
    assert (line.count(SPAN_MARK), line.count(b"\n")) == (3, 1)


@pytest.mark.parametrize("large", [False, True])
def test_a_line_of_a_bounded_size_has_the_first_spans(large: bool) -> None:
    spans = [span_with({"x": "x" * 1000}, name=str(n)) for n in range(10)]
    size = len(line_of(spans[:1]))
    line, count = first_line(spans, 1 if large else size * 3)
    assert line == line_of(spans[:count])
    assert count == (1 if large else 4)
    assert first_line(spans) == (line_of(spans), 10)


def test_the_same_names_may_have_values_of_other_types() -> None:
    values = ["1", 1, True, 1.0, None, (1,), b"1", {"a": 1}, math.inf, 2**63, "\udfff", "1"]
    for value in values:
        (back,) = spans_in(line_of([span_with({"50 % of": "%b", "x": value})]))
        found = dict(back.attributes or {})
        expected = str(2**63) if value == 2**63 else value
        assert found == {"50 % of": "%b", "x": expected}
        assert type(found["x"]) is type(expected)


def test_equal_names_of_different_types_are_written_differently() -> None:
    for key in (1, True, 1.0):
        names: Any = {key: "x"}
        (back,) = spans_in(line_of([span_with(names)]))
        assert back.attributes == {str(key): "x"}


def test_more_kinds_of_spans_than_are_cached_come_back() -> None:
    for number in range(600):
        attributes = {f"name {number}": number, "other": "text"}
        resource, scope = Resource({"number": number}), InstrumentationScope(str(number))
        span = ReadableSpan(
            "span",
            context=span_with().context,
            attributes=attributes,
            resource=resource,
            instrumentation_scope=scope,
        )
        (back,) = spans_in(line_of([span]))
        assert back.attributes == attributes
        assert back.resource.attributes == {"number": number}
        assert (back.instrumentation_scope or scope).name == str(number)
        # So that the next objects may get the same ids.
        del span, resource, scope


@pytest.mark.parametrize(
    "line", [b"", b"\n", b"{", b"[]\n", b"{}\n", b"null\n", b'{"resourceSpans":[{"scopeSpans":1}]}']
)
def test_other_lines_are_refused(line: bytes) -> None:
    with pytest.raises(ValueError):
        spans_in(line)


def test_every_torn_line_is_refused() -> None:
    line = line_of([span_with({"x": 1})])
    for length in range(len(line) - 1):
        with pytest.raises(ValueError):
            spans_in(line[:length])
