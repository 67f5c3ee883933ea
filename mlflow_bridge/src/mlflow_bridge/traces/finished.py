# Copyright The opentelemetry-instrumentation-dspy Authors
# SPDX-License-Identifier: Apache-2.0
"""`FinishedTrace`, the form in which programs look at traces that have ended.

Only the standard library is imported before a trace is read.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Any, Literal

from mlflow_bridge.traces.read_only import read_only_mapping
from mlflow_bridge.traces.tree import SpanTree

if TYPE_CHECKING:
    from opentelemetry.sdk.trace import ReadableSpan

    from mlflow_bridge.traces.records import TraceRecord


class _Fields(Mapping[str, Any]):
    """The fields of a dataclass as a read-only mapping by their names."""

    __slots__ = ()

    def __getitem__(self, key: str) -> Any:
        if key not in self:
            raise KeyError(key)
        return getattr(self, key)

    def __contains__(self, key: object) -> bool:
        return any(key == name for name in self)

    def __iter__(self) -> Iterator[str]:
        return (field.name for field in fields(self))  # pyright: ignore[reportArgumentType]

    def __len__(self) -> int:
        return len(fields(self))  # pyright: ignore[reportArgumentType]


@dataclass(frozen=True, slots=True, eq=False, repr=False)
class FinishedSpan(_Fields):
    """A span of a `FinishedTrace`. Immutable, and a read-only mapping of its fields.

    Mappings and lists in it cannot be changed either. Two spans with equal fields are equal.
    """

    id: str
    """Id of the span, 16 hex digits."""
    name: str
    """Name in MLflow; of a tool, the tool's own name."""
    type: str
    """MLflow's type, such as CHAIN, AGENT, LLM, CHAT_MODEL or TOOL; UNKNOWN for other spans."""
    operation: str | None
    """``dspy.operation``, or else ``gen_ai.operation.name``."""
    module: str | None
    """Class of the DSPy module, if the span is a call of a module."""
    path: str | None
    """Path of the module in its program, such as ``generate.predict``."""
    parent: str | None
    """Id of the span above; None if no span of the trace is above."""
    start_time_ns: int
    """Start in nanoseconds since 1970."""
    duration_ms: float
    """Duration in milliseconds."""
    status: Literal["OK", "ERROR"]
    """ERROR if the operation failed."""
    error: str | None
    """What failed, as far as it was recorded; None without an error."""
    inputs: Mapping[str, Any] | None
    """Inputs by name; ``{"inputs": value}`` for another value; None if they were not recorded."""
    outputs: Mapping[str, Any] | None
    """Outputs by name; ``{"outputs": value}`` for another value; None if not recorded."""
    attributes: Mapping[str, Any]
    """The other attributes; a text that is JSON is read as JSON, as in MLflow. Of MLflow's own
    (``mlflow.``), only ``mlflow.chat.tools`` and ``mlflow.message.format`` are included."""
    events: tuple[Mapping[str, Any], ...]
    """Events, each with ``name``, ``time_ns`` and ``attributes``."""
    tokens: Mapping[str, int]
    """Counts of tokens that the span states, ``input``, ``output``, ``total`` and ``cache_read``; 0
    if it states no count."""
    cost: float | None
    """Cost in US dollars that the span states; None if it is not known."""
    model: str | None
    """Model without its provider, if the span is a call of a model."""

    def __hash__(self) -> int:
        return hash(self.id)

    def __repr__(self) -> str:
        # Without content, since it may come into a log.
        return f"FinishedSpan(name={self.name!r}, id={self.id!r}, status={self.status!r})"


@dataclass(frozen=True, slots=True, eq=False, repr=False)
class FinishedTrace(_Fields):
    """A trace that has ended. Immutable, picklable, and a read-only mapping of its fields.

    The same trace has equal fields whether it is read from its spans, from MLflow, or from a file
    in OTLP JSON. Only tags and metadata that were set in MLflow afterwards differ. Values longer
    than ``max_attribute_bytes`` are cut.

    Mappings and lists in it cannot be changed; they are a `dict` and a `list` in other respects.

    Example:
        >>> def report_slow(trace: FinishedTrace) -> None:
        ...     if trace.duration_ms > 5000:
        ...         print(trace.id, trace.module, trace["tokens"]["total"])
    """

    id: str
    """Id in MLflow, ``tr-`` and the 32 hex digits of the OpenTelemetry trace id."""
    name: str
    """Name of the trace in MLflow."""
    module: str | None
    """Class of the outermost DSPy module."""
    start_time_ns: int
    """Start of the root in nanoseconds since 1970."""
    duration_ms: float
    """Duration of the root in milliseconds."""
    status: Literal["OK", "ERROR"]
    """ERROR if the root failed."""
    error: str | None
    """What failed, as far as it was recorded; None without an error."""
    inputs: Mapping[str, Any] | None
    """Inputs of the root, or of the program below it; None if they were not recorded."""
    outputs: Mapping[str, Any] | None
    """Outputs of the root, or of the program below it; None if they were not recorded."""
    session_id: str | None
    """Session of the trace; without a session, its conversation."""
    user_id: str | None
    """User of the program."""
    tags: Mapping[str, str]
    """Tags, including attributes of the resource; without MLflow's own (``mlflow.``)."""
    metadata: Mapping[str, str]
    """Metadata without MLflow's own (``mlflow.``)."""
    tokens: Mapping[str, int]
    """Counts of tokens, ``input``, ``output``, ``total`` and ``cache_read``. A span that states
    tokens states those of the spans below it as well, so these are not added."""
    cost: float | None
    """Cost in US dollars, added up in the same way; None if no call has a known cost. Known is what
    DSPy or the provider reported; what MLflow estimates for a call of DSPy is not included."""
    program_hash: str | None
    """``dspy.program.hash`` of the outermost DSPy module."""
    root: FinishedSpan
    """The first span; of several without a span above, the earliest."""
    spans: tuple[FinishedSpan, ...]
    """All spans, depth first; spans with one parent in the order of their start."""
    complete: bool
    """Whether all spans are there. False if spans were still open 30 seconds after the root, or
    the trace in MLflow has not ended."""

    def find(self, path: str) -> FinishedSpan | None:
        """The first span, depth first, of a module with this path; else the first of this name.

        Args:
            path: Path of a module, such as ``generate.predict``, or name of a span, such as a tool.

        Returns:
            None if there is no such span.
        """
        of_path = (span for span in self.spans if span.path == path)
        of_name = (span for span in self.spans if span.name == path)
        return next(of_path, None) or next(of_name, None)

    @classmethod
    def from_spans(cls, spans: Sequence[ReadableSpan]) -> FinishedTrace:
        """The trace of ended spans of OpenTelemetry's SDK.

        Args:
            spans: The spans of one trace, in any order.

        Raises:
            ValueError: There is no span, or the spans belong to several traces.
        """
        from mlflow_bridge.traces.from_spans import record_of_spans

        return finished_trace(record_of_spans(spans))

    @classmethod
    def from_mlflow(cls, trace: Any) -> FinishedTrace:
        """A trace that was read from MLflow. MLflow need not be installed for its JSON.

        Args:
            trace: An ``mlflow.entities.Trace`` with its spans, or the mapping or JSON text that its
                ``to_dict()`` or ``to_json()`` returns, or the answer of a tracking server to
                ``GET /api/3.0/mlflow/traces/get``.

        Raises:
            ValueError: It is not a trace of MLflow, or has no span.
        """
        from mlflow_bridge.traces.from_mlflow import record_of_mlflow

        return finished_trace(record_of_mlflow(trace))

    @classmethod
    def from_otlp_json(cls, lines: bytes | str | Iterable[bytes | str]) -> FinishedTrace:
        """A trace from lines of OTLP JSON; `mlflow_bridge.traces.read_otlp_json` reads whole files.

        Args:
            lines: The line, or the lines, with the spans of one trace.

        Raises:
            ValueError: A line is not OTLP JSON of traces, or the spans belong to several traces.
        """
        from mlflow_bridge.traces.from_spans import record_of_spans, spans_of_lines

        return finished_trace(record_of_spans(list(spans_of_lines(lines))))

    def __hash__(self) -> int:
        return hash(self.id)

    def __repr__(self) -> str:
        # Without content, since it may come into a log.
        return (
            f"FinishedTrace(id={self.id!r}, name={self.name!r}, status={self.status!r}, "
            f"duration_ms={self.duration_ms:.1f}, spans={len(self.spans)})"
        )


def finished_trace(record: TraceRecord) -> FinishedTrace:
    """The trace of a record.

    Raises:
        ValueError: The record has no span.
    """
    tree = SpanTree(record)
    spans = tuple(FinishedSpan(**values) for values in tree.spans())
    root = spans[0]
    is_error = root.status == "ERROR" if record.is_error is None else record.is_error
    program = tree.outermost_module()
    return FinishedTrace(
        id=record.id,
        name=record.name or tree.trace_name(),
        module=program and program.module,
        start_time_ns=root.start_time_ns,
        duration_ms=root.duration_ms,
        status="ERROR" if is_error else "OK",
        error=root.error if is_error else None,
        inputs=root.inputs,
        outputs=root.outputs,
        session_id=tree.session_id() or record.session_id,
        user_id=tree.user_id() or record.user_id,
        tags=read_only_mapping(record.tags),
        metadata=read_only_mapping(record.metadata),
        tokens=tree.tokens(),
        cost=tree.cost(),
        program_hash=program and program.program_hash,
        root=root,
        spans=spans,
        complete=record.complete,
    )
