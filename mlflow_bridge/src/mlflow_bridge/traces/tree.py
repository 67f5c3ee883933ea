# Copyright The opentelemetry-instrumentation-dspy Authors
# SPDX-License-Identifier: Apache-2.0
"""The spans of a trace as a tree, and the values that a whole trace has."""

from __future__ import annotations

import json
import math
from collections import defaultdict
from collections.abc import Iterator, Mapping
from typing import Any, Final, NamedTuple, cast

from mlflow_bridge._spans.names import (
    CHAT_TOOLS,
    COST,
    INPUTS,
    MESSAGE_FORMAT,
    MODEL,
    OUTPUTS,
    SPAN_TYPE,
    TOKEN_USAGE,
    TRACE_NAME,
)
from mlflow_bridge.traces.read_only import ReadOnlyDict, read_only, read_only_mapping
from mlflow_bridge.traces.records import EventRecord, SpanRecord, TraceRecord
from opentelemetry.instrumentation.dspy import semconv

_MODULES: Final = (semconv.Operations.MODULE, semconv.Operations.PREDICT)
_SHOWN_OF_MLFLOW: Final = (CHAT_TOOLS, MESSAGE_FORMAT)
_INTERNAL: Final = ("mlflow.", "mlflow_bridge.")
_REPORTED_COSTS: Final = (semconv.DSPY_LM_COST_TOTAL, semconv.DSPY_LM_INNER_COST_TOTAL)
_COUNTS: Final = {
    "input": ("input_tokens", "llm.token_count.prompt"),
    "output": ("output_tokens", "llm.token_count.completion"),
    "total": ("total_tokens", "llm.token_count.total"),
    "cache_read": ("cache_read_input_tokens", "llm.token_count.prompt_details.cache_read"),
}
"""Each count under MLflow's name, and as OpenInference's attribute, which MLflow translates."""

_Attributes = Mapping[str, Any]


class Program(NamedTuple):
    """The outermost module of a trace."""

    module: str
    program_hash: str | None


class SpanTree:
    """The spans of one trace, depth first.

    Raises:
        ValueError: The trace has no span.
    """

    def __init__(self, record: TraceRecord) -> None:
        if not record.spans:
            raise ValueError(f"the trace {record.id} has no span")
        self._known = {span.id: span for span in record.spans}
        self._below: dict[str | None, list[SpanRecord]] = defaultdict(list)
        for span in sorted(self._known.values(), key=lambda span: (span.start_time_ns, span.id)):
            self._below[self._parent(span)].append(span)
        self._ordered = list(self._depth_first())

    def _parent(self, span: SpanRecord) -> str | None:
        return span.parent if span.parent in self._known and span.parent != span.id else None

    def _depth_first(self) -> Iterator[SpanRecord]:
        # Without recursion: a trace may be deeper than Python's stack.
        seen: set[str] = set()
        # After the tops: spans that damaged data has made each other's parents.
        waiting = [*reversed(self._known.values()), *reversed(self._below[None])]
        while waiting:
            span = waiting.pop()
            if span.id not in seen:
                seen.add(span.id)
                yield span
                waiting += reversed(self._below[span.id])

    def spans(self) -> Iterator[dict[str, Any]]:
        """The fields of each span, as `FinishedSpan` has them."""
        for span in self._ordered:
            attributes = span.attributes
            yield {
                "id": span.id,
                "name": span.name,
                "type": str(attributes.get(SPAN_TYPE) or "UNKNOWN"),
                "operation": _text(attributes, semconv.DSPY_OPERATION)
                or _text(attributes, semconv.GEN_AI_OPERATION_NAME),
                "module": _text(attributes, semconv.DSPY_MODULE_TYPE),
                "path": _text(attributes, semconv.DSPY_MODULE_PATH),
                "parent": self._parent(span),
                "start_time_ns": span.start_time_ns,
                "duration_ms": (span.end_time_ns - span.start_time_ns) / 1e6,
                "status": "ERROR" if span.is_error else "OK",
                "error": _error(span) if span.is_error else None,
                "inputs": _named(attributes.get(INPUTS), "inputs"),
                "outputs": _named(attributes.get(OUTPUTS), "outputs"),
                "attributes": _shown(attributes),
                "events": tuple(map(_event, span.events)),
                "tokens": _tokens(_usage(attributes) or {}),
                "cost": _cost(attributes),
                "model": _text(attributes, MODEL),
            }

    def trace_name(self) -> str:
        """The name of the trace, which the mapping writes on the root."""
        root = self._ordered[0]
        return _text(root.attributes, TRACE_NAME) or root.name

    def outermost_module(self) -> Program | None:
        """The first module, depth first, with its hash."""
        for span in self._ordered:
            module = _text(span.attributes, semconv.DSPY_MODULE_TYPE)
            if module and span.attributes.get(semconv.DSPY_OPERATION) in _MODULES:
                return Program(module, _text(span.attributes, semconv.DSPY_PROGRAM_HASH))
        return None

    def session_id(self) -> str | None:
        """The session as MLflow finds it: of any span, or else its conversation."""
        return self._first(semconv.SESSION_ID, semconv.GEN_AI_CONVERSATION_ID)

    def user_id(self) -> str | None:
        """The user, of any span."""
        return self._first(semconv.USER_ID)

    def tokens(self) -> Mapping[str, int]:
        """The tokens of the trace. The usage of a span includes that of the spans below it."""
        found = self._outermost(_usage)
        total: dict[str, int] = dict.fromkeys(_COUNTS, 0)
        for usage in found:
            for name, count in usage.items():
                total[name] += count
        return ReadOnlyDict(total)

    def cost(self) -> float | None:
        """The cost of the trace; a span's cost includes that of the spans below it."""
        found = self._outermost(_cost)
        return math.fsum(found) if found else None

    def _first(self, *keys: str) -> str | None:
        found = (_text(span.attributes, key) for key in keys for span in self._ordered)
        return next((text for text in found if text), None)

    def _outermost(self, value_of: Any) -> list[Any]:
        """The values of the spans that have one, without those of the spans below such spans."""
        found: list[Any] = []
        covered: set[str | None] = set()
        for span in self._ordered:  # a parent comes before its children
            if self._parent(span) in covered:
                covered.add(span.id)
            elif (value := value_of(span.attributes)) is not None:
                found.append(value)
                covered.add(span.id)
        return found


def _text(attributes: _Attributes, key: str) -> str | None:
    value = attributes.get(key)
    if value is None or isinstance(value, str):
        return value or None
    # A session may be a list of ids.
    return json.dumps(value, ensure_ascii=False)


def _error(span: SpanRecord) -> str | None:
    if span.description:
        return span.description
    for event in span.events:
        known = (
            event.attributes.get(semconv.EXCEPTION_TYPE),
            event.attributes.get(semconv.EXCEPTION_MESSAGE),
        )
        if texts := [str(text) for text in known if text]:
            return ": ".join(texts)
    return _text(span.attributes, semconv.ERROR_TYPE)


def _named(value: Any, name: str) -> Mapping[str, Any] | None:
    if value is None:
        return None
    if isinstance(value, Mapping):
        return read_only_mapping(cast("Mapping[Any, Any]", value))
    return ReadOnlyDict({name: read_only(value)})


def _shown(attributes: _Attributes) -> Mapping[str, Any]:
    """The attributes without those of MLflow and the bridge, for which there are fields."""
    return ReadOnlyDict(
        {
            key: read_only(value)
            for key, value in sorted(attributes.items())
            if key in _SHOWN_OF_MLFLOW or not key.startswith(_INTERNAL)
        }
    )


def _event(event: EventRecord) -> Mapping[str, Any]:
    return read_only_mapping(
        {"name": event.name, "time_ns": event.time_ns, "attributes": event.attributes}
    )


def _usage(attributes: _Attributes) -> Mapping[str, int] | None:
    """The counts that a span states; None if it states no usage."""
    stated = attributes.get(TOKEN_USAGE)
    usage: _Attributes = cast("_Attributes", stated) if isinstance(stated, Mapping) else {}
    counts = {
        name: _count(usage[key] if key in usage else attributes.get(other))
        for name, (key, other) in _COUNTS.items()
        if key in usage or (not usage and other in attributes)
    }
    return counts or None


def _tokens(counts: Mapping[str, int]) -> Mapping[str, int]:
    return ReadOnlyDict({name: counts.get(name, 0) for name in _COUNTS})


def _count(value: Any) -> int:
    is_count = isinstance(value, (int, float)) and math.isfinite(value) and value > 0
    return int(value) if is_count else 0


def _cost(attributes: _Attributes) -> float | None:
    is_dspys = semconv.DSPY_OPERATION in attributes
    if is_dspys and not any(key in attributes for key in _REPORTED_COSTS):
        return None  # MLflow may have estimated one; only a trace in MLflow would have it.
    stated = attributes.get(COST)
    total = cast("_Attributes", stated).get("total_cost") if isinstance(stated, Mapping) else None
    if isinstance(total, bool) or not isinstance(total, (int, float)) or not math.isfinite(total):
        return None
    return float(total)
