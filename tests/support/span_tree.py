# Copyright The opentelemetry-instrumentation-dspy Authors
# SPDX-License-Identifier: Apache-2.0
"""Spans as one readable text tree, so that a test can assert a whole trace at a glance.

Takes ended OTel SDK spans, the stub collector's spans, and MLflow's Trace or Span objects, and
imports none of their packages.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

SpanT = TypeVar("SpanT")


@dataclass(frozen=True)
class SpanNode:
    """The fields of a span that a tree needs, from any source. Times are in nanoseconds."""

    trace_id: str
    span_id: str
    parent_id: str | None
    name: str
    kind: str
    """The OTel kind (``CLIENT``); for MLflow's spans the span type (``CHAT_MODEL``)."""
    start_time: int
    end_time: int | None
    attributes: Mapping[str, Any]
    failed: bool
    error_type: str


Children = Mapping[str, Sequence[SpanNode]]


def span_nodes(spans: Any) -> list[SpanNode]:
    """Spans of any supported kind, or a whole MLflow trace, as nodes ordered by start time."""
    found = spans.data.spans if hasattr(spans, "data") else spans
    return sorted((_node(span) for span in found), key=lambda node: node.start_time)


def span_tree(
    spans: Any,
    *,
    attributes: Sequence[str] = (),
    describe: Callable[[SpanNode], str] | None = None,
) -> str:
    """The spans as text: one line each, children below their parent in order of their start.

    ``Predict generate [INTERNAL] {dspy.operation=predict} ERROR(ValueError)``

    A span whose parent is missing stands on the left with ``orphan:`` before it, and one that has
    not ended has ``NOT ENDED`` behind it.

    Args:
        spans: Ended OTel spans, collected spans, MLflow spans, or one MLflow trace.
        attributes: The attributes to show, in this order, on the spans that have them.
        describe: More text for the end of a span's line; empty for none.
    """
    nodes = span_nodes(spans)
    children = _children(nodes)
    known = {node.span_id for node in nodes}
    lines: list[str] = []
    for top in (node for node in nodes if node.parent_id not in known):
        mark = "orphan: " if top.parent_id is not None else ""
        lines.append(mark + _line(top, attributes, describe))
        lines.extend(_lines_below(top, children, attributes, describe, indent=""))
    return "\n".join(lines)


def assert_one_tree(spans: Any) -> SpanNode:
    """The root, if the spans are one whole trace; else the forest is shown.

    Raises:
        AssertionError: when there is no span, more than one trace, more than one root, a span
            whose parent is missing, two spans of one id, or one that has not ended.
    """
    nodes = span_nodes(spans)
    faults = list(_faults(nodes))
    if faults:
        raise AssertionError("; ".join(faults) + "\n" + span_tree(spans))
    return next(node for node in nodes if node.parent_id is None)


def spans_named(spans: Iterable[SpanT], name: str) -> list[SpanT]:
    """The spans of this name, in the order given.

    If there are none, the spans whose name goes on after this one, with a signature for example.
    """
    given = list(spans)
    found = [span for span in given if _name(span) == name]
    return found or [span for span in given if _name(span).startswith(f"{name} ")]


def only_span(spans: Iterable[SpanT], name: str) -> SpanT:
    """The one span of this name.

    Raises:
        AssertionError: when there is none or more than one; the tree is shown.
    """
    given = list(spans)
    found = spans_named(given, name)
    if len(found) != 1:
        raise AssertionError(f"{len(found)} spans are named {name!r}\n{span_tree(given)}")
    return found[0]


def _faults(nodes: Sequence[SpanNode]) -> Iterable[str]:
    known = {node.span_id for node in nodes}
    traces = {node.trace_id for node in nodes}
    roots = [node.name for node in nodes if node.parent_id is None]
    orphans = [node.name for node in nodes if node.parent_id not in {None, *known}]
    unended = [node.name for node in nodes if node.end_time is None]
    if len(traces) != 1:
        yield f"{len(traces)} traces"
    if len(roots) != 1:
        yield f"{len(roots)} roots ({', '.join(roots)})"
    if len(known) != len(nodes):
        yield f"{len(nodes) - len(known)} spans come twice"
    if orphans:
        yield f"orphans: {', '.join(orphans)}"
    if unended:
        yield f"not ended: {', '.join(unended)}"


def _children(nodes: Sequence[SpanNode]) -> Children:
    children: defaultdict[str, list[SpanNode]] = defaultdict(list)
    for node in nodes:
        if node.parent_id is not None:
            children[node.parent_id].append(node)
    return children


def _lines_below(
    parent: SpanNode,
    children: Children,
    attributes: Sequence[str],
    describe: Callable[[SpanNode], str] | None,
    indent: str,
) -> Iterable[str]:
    below = children.get(parent.span_id, ())
    for number, node in enumerate(below, start=1):
        last = number == len(below)
        yield indent + ("└─ " if last else "├─ ") + _line(node, attributes, describe)
        deeper = indent + ("   " if last else "│  ")
        yield from _lines_below(node, children, attributes, describe, deeper)


def _line(
    node: SpanNode, attributes: Sequence[str], describe: Callable[[SpanNode], str] | None
) -> str:
    shown = [f"{key}={node.attributes[key]}" for key in attributes if key in node.attributes]
    parts = [
        node.name,
        f"[{node.kind}]",
        "{" + ", ".join(shown) + "}" if shown else "",
        (f"ERROR({node.error_type})" if node.error_type else "ERROR") if node.failed else "",
        "NOT ENDED" if node.end_time is None else "",
        describe(node) if describe else "",
    ]
    return " ".join(part for part in parts if part)


def _node(span: Any) -> SpanNode:
    if hasattr(span, "scope_name"):
        return _node_of_collected(span)
    return _node_of_mlflow(span) if hasattr(span, "span_type") else _node_of_otel(span)


def _node_of_otel(span: Any) -> SpanNode:
    context = span.get_span_context()
    return SpanNode(
        trace_id=f"{context.trace_id:032x}",
        span_id=f"{context.span_id:016x}",
        parent_id=f"{span.parent.span_id:016x}" if span.parent else None,
        name=span.name,
        kind=span.kind.name,
        start_time=span.start_time,
        end_time=span.end_time,
        attributes=span.attributes or {},
        failed=span.status.status_code.name == "ERROR",
        error_type=_error_type(span),
    )


def _node_of_collected(span: Any) -> SpanNode:
    return SpanNode(
        trace_id=span.trace_id,
        span_id=span.span_id,
        parent_id=span.parent_id,
        name=span.name,
        kind=span.kind,
        start_time=span.start_time_ns,
        end_time=span.end_time_ns or None,
        attributes=span.attributes,
        failed=span.status_code == "ERROR",
        error_type=_error_type(span),
    )


def _node_of_mlflow(span: Any) -> SpanNode:
    return SpanNode(
        trace_id=span.trace_id,
        span_id=span.span_id,
        parent_id=span.parent_id,
        name=span.name,
        kind=span.span_type or "UNKNOWN",
        start_time=span.start_time_ns,
        end_time=span.end_time_ns,
        attributes=span.attributes,
        failed=span.status.status_code.name == "ERROR",
        error_type=_error_type(span),
    )


def _error_type(span: Any) -> str:
    """``error.type``, else the type in the newest exception event."""
    named = _attribute(span, "error.type")
    exceptions = [event for event in span.events if event.name == "exception"]
    if named is None and exceptions:
        named = _attribute(exceptions[-1], "exception.type")
    return str(named or "").rsplit(".", 1)[-1]


def _attribute(owner: Any, key: str) -> Any:
    attributes: Mapping[str, Any] | None = owner.attributes
    return attributes.get(key) if attributes else None


def _name(span: Any) -> str:
    return span.name
