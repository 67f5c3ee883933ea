# Copyright The opentelemetry-instrumentation-dspy Authors
# SPDX-License-Identifier: Apache-2.0
"""The span processor with which MLflow's functions find open spans, without a second delivery.

``mlflow.start_span``, ``mlflow.update_current_trace`` and similar functions look a span up in a
register, where MLflow's span processor enters it. That processor also stores traces. The processor
here has the same class, so that MLflow does not add its own, but stores no spans: the bridge's
processor delivers them. Class and register are not documented, but are the same from MLflow 3.15 to
3.17. No other file uses them.
"""

from __future__ import annotations

import json
import logging
import re
import threading
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final, cast
from weakref import WeakValueDictionary

from mlflow.entities import TraceInfo, TraceLocation, TraceState
from mlflow.entities.span import create_mlflow_span
from mlflow.tracing import fluent
from mlflow.tracing.constant import TRACE_SCHEMA_VERSION, TRACE_SCHEMA_VERSION_KEY, TraceTagKey
from mlflow.tracing.processor.mlflow_v3 import MlflowV3SpanProcessor
from mlflow.tracing.trace_manager import InMemoryTraceManager
from mlflow.version import VERSION
from opentelemetry.context import Context
from opentelemetry.sdk.trace import ReadableSpan, Span
from opentelemetry.sdk.trace.export import SpanExporter, SpanExportResult
from opentelemetry.trace import format_span_id, format_trace_id

from mlflow_bridge._mlflow_tracing.notebook import notebook_display
from mlflow_bridge._process.forks import call_in_child
from mlflow_bridge._process.interruption import belongs_to_program
from mlflow_bridge._process.rate_limited_log import RateLimitedLogger
from mlflow_bridge._spans.annotation import Annotation, deliver, in_order, traces_in_flight
from mlflow_bridge._spans.annotation_order import annotation_order
from mlflow_bridge._spans.names import (
    CLIENT_REQUEST_ID,
    MODEL_ID,
    REQUEST_PREVIEW,
    RESPONSE_PREVIEW,
    SOURCE_RUN,
    TRACE_ID,
    TRACE_METADATA_PREFIX,
    TRACE_NAME,
    TRACE_SESSION,
    TRACE_STATE,
    TRACE_TAG_PREFIX,
    TRACE_USER,
)
from opentelemetry.instrumentation.dspy.semconv import SESSION_ID, USER_ID

_logger = logging.getLogger(__name__)

_METADATA: Final = {
    TRACE_SESSION: SESSION_ID,
    TRACE_USER: USER_ID,
    SOURCE_RUN: SOURCE_RUN,
    MODEL_ID: MODEL_ID,
}
"""Trace metadata of MLflow's functions, and the span attribute from which each is read."""

_FIELDS: Final = {
    "client_request_id": CLIENT_REQUEST_ID,
    "request_preview": REQUEST_PREVIEW,
    "response_preview": RESPONSE_PREVIEW,
    "state": TRACE_STATE,
}
"""Fields that ``mlflow.update_current_trace`` sets, and the span attribute that carries each."""

_TRACE_ID: Final = re.compile("tr-([0-9a-f]{32})")


class MLflowSpansProcessor(MlflowV3SpanProcessor):
    """Span processor that keeps every open span in MLflow's register.

    ``mlflow.update_current_trace`` sets tags, metadata and previews of a trace. The processor
    writes them on the first span of the trace in this process, with which they are delivered.
    ``mlflow.log_feedback`` and ``mlflow.set_trace_tag`` may come after that span has ended, but
    before the trace is stored: the processor has them delivered behind the trace.

    Called by any thread; never raises into the program. The lock guards the open traces.

    Args:
        provider: The tracer provider that ``mlflow.flush_trace_async_logging`` flushes.
    """

    def __init__(self, provider: Any) -> None:
        self._bridge = _NoExport(provider)
        super().__init__(self._bridge, export_metrics=False)
        self.active = False
        """Whether MLflow uses the provider of this processor."""
        self._open: dict[int, _OpenTrace] = {}
        # A signal handler may make a span while its thread holds the lock.
        self._lock = threading.RLock()
        self._log = RateLimitedLogger(_logger)
        self._notebook = notebook_display(provider.force_flush)
        call_in_child(self._renew_in_child)

    def _renew_in_child(self) -> None:
        """Replace the locks in a forked child, where the threads that held them do not exist."""
        self._lock = threading.RLock()
        for trace in self._open.values():
            trace.lock = self._lock
        # MLflow does not replace its lock after a fork, and here every span needs that lock.
        register = InMemoryTraceManager.get_instance()
        if hasattr(register, "_lock"):
            setattr(register, "_lock", threading.RLock())  # noqa: B010

    def on_start(self, span: Span, parent_context: Context | None = None) -> None:
        if not self.active:
            return
        try:
            self._enter(span)
        except Exception as error:
            if belongs_to_program(error):
                raise
            # MLflow's functions then find no span, as without tracing.
            _logger.debug("A span could not be entered in MLflow's register", exc_info=True)

    def on_end(self, span: ReadableSpan) -> None:
        try:
            self._leave(span)
        except Exception as error:
            if belongs_to_program(error):
                raise
            _logger.debug("A span could not be taken out of MLflow's register", exc_info=True)

    def _enter(self, span: Span) -> None:
        context = span.get_span_context()
        with self._lock:
            trace = self._open.get(context.trace_id)
            if trace is None:
                trace = self._open[context.trace_id] = _OpenTrace(span, self._lock)
                if context.trace_flags.sampled:
                    traces_in_flight.begun(context.trace_id)
                self._register(trace)
            trace.spans[context.span_id] = span
        span.set_attribute(TRACE_ID, trace.encoded_id)

    def _leave(self, span: ReadableSpan) -> None:
        context = span.context
        if context is None:
            return
        with self._lock:
            trace = self._open.get(context.trace_id)
            if trace is None:
                return
            trace.spans.pop(context.span_id, None)
            if trace.live:
                trace.live.pop(format_span_id(context.span_id), None)
            if not trace.spans:
                del self._open[context.trace_id]
                InMemoryTraceManager.get_instance().pop_trace(context.trace_id)
        if trace.is_root(context.span_id):
            trace.deliver_annotations()
        if span.parent is None:
            _note_last_trace(trace.trace_id)
            if self._notebook is not None:
                self._notebook.note(trace.trace_id)
        if trace.evaluation is not None and trace.is_root(context.span_id):
            self._store_for_evaluation(trace, trace.evaluation)

    def _store_for_evaluation(self, trace: _OpenTrace, evaluation: str) -> None:
        """Store the trace at once, since ``mlflow.genai.evaluate`` reads it now to score it.

        MLflow's own processor also stores the traces of an evaluation on the program's thread.
        """
        known = getattr(fluent, "_EVAL_REQUEST_ID_TO_TRACE_ID", None)
        if known is None:
            self._log.warning(
                "evaluation",
                "mlflow.genai.evaluate() cannot find the traces of the evaluated program with "
                "MLflow %s, which looks them up in another way. The traces are stored.",
                VERSION,
            )
            return
        known[evaluation] = trace.trace_id
        self._bridge.flush()

    def takes_annotation(self, trace_id: str) -> bool:
        """Whether a trace is open in this process, or its root may not be stored yet."""
        number = _number_of(trace_id)
        if not self.active or number is None:
            return False
        # Also behind its root, so that no later annotation overtakes the ones on their way.
        return number in self._open or number in traces_in_flight or annotation_order.has(number)

    def annotate(self, annotation: Annotation) -> None:
        """Have an annotation delivered behind the first span of its trace in this process."""
        number = _number_of(annotation.trace_id)
        if number is None:
            return
        with self._lock:
            trace = self._open.get(number)
            span = in_order(annotation, number)
            waits = trace is not None and trace.keep(span)
        if not waits:
            deliver(span)

    def release_annotations(self) -> None:
        """Have all kept annotations delivered, since the roots may end without the bridge."""
        with self._lock:
            traces = list(self._open.values())
        for trace in traces:
            trace.deliver_annotations()

    def _register(self, trace: _OpenTrace) -> None:
        tags = _WrittenThrough(trace.write_tag, trace.delete_tag)
        metadata = _WrittenThrough(trace.write_metadata)
        # Tags and metadata of mlflow.tracing.context() and of the program's active run and model.
        tags.update(self._get_basic_trace_tags(trace.root))
        trace.evaluation = tags.get(TraceTagKey.EVAL_REQUEST_ID)
        known: dict[str, Any] = self._get_basic_trace_metadata()
        program: dict[str, Any] = getattr(self, "_env_metadata", {})
        everywhere = {**program, TRACE_SCHEMA_VERSION_KEY: str(TRACE_SCHEMA_VERSION)}
        metadata.update({key: known[key] for key in known if known[key] != everywhere.get(key)})
        info = _LiveTraceInfo(
            trace_id=trace.trace_id,
            # This location has no effect: the bridge chooses the experiment in its own thread.
            trace_location=TraceLocation.from_experiment_id("0"),
            request_time=(trace.root.start_time or 0) // 1_000_000,
            state=TraceState.IN_PROGRESS,
            tags=tags,
            trace_metadata=metadata,
        )
        info.write = trace.write_field
        manager = InMemoryTraceManager.get_instance()
        manager.register_trace(trace.root.get_span_context().trace_id, info)
        with manager.get_trace(trace.trace_id) as registered:
            if registered is not None:
                registered.span_dict = trace.live


class _OpenTrace:
    """A trace with a span that has not ended; guarded by the processor's lock.

    Args:
        root: The first span of the trace in this process.
        lock: The lock.
    """

    def __init__(self, root: Span, lock: threading.RLock) -> None:
        self.root = root
        self.lock = lock
        self.trace_id = f"tr-{format_trace_id(root.get_span_context().trace_id)}"
        self.encoded_id = json.dumps(self.trace_id)
        # Weak references, so that a span that is never ended does not stay in memory.
        self.spans: WeakValueDictionary[int, Span] = WeakValueDictionary()
        self.live = _LiveSpans(self)
        self.evaluation: str | None = None
        """The id by which ``mlflow.genai.evaluate`` looks the trace up; None without evaluation."""
        self._deleted_tags: set[str] = set()
        self._annotations: list[ReadableSpan] | None = []
        """Annotations that wait for the end of the root; None when it has ended."""

    def is_root(self, span_id: int) -> bool:
        return self.root.get_span_context().span_id == span_id

    def keep(self, annotation: ReadableSpan) -> bool:
        """Keep an annotation until the root has ended; False if it has."""
        with self.lock:
            if self._annotations is None:
                return False
            self._annotations.append(annotation)
            return True

    def deliver_annotations(self) -> None:
        """Have the kept annotations delivered, behind the root."""
        with self.lock:
            kept, self._annotations = self._annotations, None
        for annotation in kept or ():
            deliver(annotation)

    def write_tag(self, key: str, value: Any) -> None:
        attribute = TRACE_TAG_PREFIX + key
        # Without the name: MLflow names a trace after its first span, but the bridge sets the name.
        if attribute == TRACE_NAME:
            return
        # A tag that was deleted before is not one of the root's: the deletion is behind the root.
        if self.root.is_recording() and key not in self._deleted_tags:
            self.root.set_attribute(attribute, str(value))
            return
        self._annotate(Annotation(self.trace_id, tag=(key, str(value))))

    def delete_tag(self, key: str) -> None:
        # An attribute cannot be taken away from a span.
        self._deleted_tags.add(key)
        self._annotate(Annotation(self.trace_id, deleted_tag=key))

    def _annotate(self, annotation: Annotation) -> None:
        span = in_order(annotation, self.root.get_span_context().trace_id)
        if not self.keep(span):
            deliver(span)

    def write_metadata(self, key: str, value: Any) -> None:
        # The bridge and MLflow's store read some metadata from attributes of their own.
        attribute = _METADATA.get(key, TRACE_METADATA_PREFIX + key)
        if self.root.is_recording():
            self.root.set_attribute(attribute, str(value))

    def write_field(self, name: str, value: Any) -> None:
        text = value.value if isinstance(value, TraceState) else value
        if self.root.is_recording() and text is not None:
            self.root.set_attribute(_FIELDS[name], str(text))


class _LiveTraceInfo(TraceInfo):
    """MLflow's description of an open trace, which passes new values of some fields on."""

    write: Callable[[str, Any], None] | None = None

    def __setattr__(self, name: str, value: Any) -> None:
        super().__setattr__(name, value)
        if name in _FIELDS and self.write is not None:
            self.write(name, value)


class _LiveSpans(dict[str, Any]):
    """MLflow's objects for open spans by span id, each made at its first look-up."""

    def __init__(self, trace: _OpenTrace) -> None:
        super().__init__()
        self._trace = trace

    def get(self, key: str, default: Any = None) -> Any:
        known = super().get(key)
        if known is not None:
            return known
        span = self._trace.spans.get(int(key, 16))
        if span is None:
            return default
        made = self[key] = create_mlflow_span(span, self._trace.trace_id)
        return made


class _WrittenThrough(dict[str, Any]):
    """A dictionary that passes each new item on to a function."""

    def __init__(
        self, write: Callable[[str, Any], None], delete: Callable[[str], None] | None = None
    ) -> None:
        super().__init__()
        self._write = write
        self._delete = delete

    def __setitem__(self, key: str, value: Any) -> None:
        super().__setitem__(key, value)
        self._write(key, value)

    def pop(self, key: str, *default: Any) -> Any:
        known = key in self
        value = super().pop(key, *default)
        if known and self._delete is not None:
            self._delete(key)
        return value

    def update(self, *args: Mapping[str, Any], **more: Any) -> None:  # pyright: ignore
        for key, value in dict(*args, **more).items():
            self[key] = value


def _number_of(trace_id: str) -> int | None:
    """OpenTelemetry's id of a trace; None if this is not MLflow's form of such an id."""
    match = _TRACE_ID.fullmatch(trace_id) if isinstance(cast("object", trace_id), str) else None
    return None if match is None else int(match.group(1), 16)


def _note_last_trace(trace_id: str) -> None:
    """Make ``mlflow.get_last_active_trace_id`` return this trace."""
    note = getattr(fluent, "_set_last_active_trace_id", None)
    if note is not None:
        note(trace_id)


class _NoExport(SpanExporter):
    """Exporter that MLflow's processor class requires, and that stores no spans."""

    def __init__(self, provider: Any) -> None:
        self._provider = provider
        # MLflow flushes an exporter through an attribute of this name.
        self._async_queue = self

    def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:
        """Do nothing, since the bridge's own processor gets the same spans."""
        return SpanExportResult.SUCCESS

    def flush(self, terminate: bool = False) -> None:
        """Deliver waiting spans; ``mlflow.flush_trace_async_logging`` also calls this."""
        self._provider.force_flush()
