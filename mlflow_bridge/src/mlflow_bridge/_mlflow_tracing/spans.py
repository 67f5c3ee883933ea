# Copyright The opentelemetry-instrumentation-dspy Authors
# SPDX-License-Identifier: Apache-2.0
"""Lets MLflow's functions find the spans that are open, and leaves storing them to the bridge.

``mlflow.start_span``, ``mlflow.update_current_trace`` and the like look a span up in a register, in
which MLflow's span processor enters it. That processor stores traces as well. The one here is of
the same class, by which MLflow knows that it need not add its own, and stores nothing: the spans
reach MLflow by the bridge's processor, like all others. Class and register are no documented
interface, but have been the same from MLflow 3.15 to 3.17; no other file uses them.
"""

from __future__ import annotations

import json
import logging
import threading
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final
from weakref import WeakValueDictionary

from mlflow.entities import TraceInfo, TraceLocation, TraceState
from mlflow.entities.span import create_mlflow_span
from mlflow.tracing import fluent
from mlflow.tracing.constant import TraceTagKey
from mlflow.tracing.processor.mlflow_v3 import MlflowV3SpanProcessor
from mlflow.tracing.trace_manager import InMemoryTraceManager
from mlflow.version import VERSION
from opentelemetry.context import Context
from opentelemetry.sdk.trace import ReadableSpan, Span
from opentelemetry.sdk.trace.export import SpanExporter, SpanExportResult
from opentelemetry.trace import format_span_id, format_trace_id

from mlflow_bridge._process.forks import call_in_child
from mlflow_bridge._process.rate_limited_log import RateLimitedLogger
from mlflow_bridge._spans.names import (
    SOURCE_RUN,
    TRACE_ID,
    TRACE_NAME,
    TRACE_SESSION,
    TRACE_TAG_PREFIX,
    TRACE_USER,
)
from opentelemetry.instrumentation.dspy.semconv import SESSION_ID, USER_ID

_logger = logging.getLogger(__name__)

_METADATA: Final = {
    TRACE_SESSION: SESSION_ID,
    TRACE_USER: USER_ID,
    SOURCE_RUN: SOURCE_RUN,
}
"""Where MLflow reads from a span what its functions write to a trace."""


class MLflowSpansProcessor(MlflowV3SpanProcessor):
    """Enters every span in MLflow's register while it is open.

    Tags, session and user that ``mlflow.update_current_trace`` gives a trace are written on the
    first span of the trace in this process, from where MLflow will read them.

    Called by any thread; never raises into the program. The lock guards the open traces.

    Args:
        provider: Its ``force_flush`` is what ``mlflow.flush_trace_async_logging`` amounts to.
    """

    def __init__(self, provider: Any) -> None:
        self._bridge = _NoExport(provider)
        super().__init__(self._bridge, export_metrics=False)
        self.active = False
        """Whether MLflow makes its spans with the provider of this processor."""
        self._open: dict[int, _OpenTrace] = {}
        self._lock = threading.Lock()
        self._log = RateLimitedLogger(_logger)
        call_in_child(self._renew_in_child)

    def _renew_in_child(self) -> None:
        """In a forked child: the threads that held the locks are the parent's."""
        self._lock = threading.Lock()
        # Every span takes the register's lock now, which MLflow would leave locked for ever.
        register = InMemoryTraceManager.get_instance()
        if hasattr(register, "_lock"):
            setattr(register, "_lock", threading.RLock())  # noqa: B010

    def on_start(self, span: Span, parent_context: Context | None = None) -> None:
        if not self.active:
            return
        try:
            self._enter(span)
        except Exception:
            # MLflow's functions find no span then, as without tracing.
            _logger.debug("A span could not be entered in MLflow's register", exc_info=True)

    def on_end(self, span: ReadableSpan) -> None:
        try:
            self._leave(span)
        except Exception:
            _logger.debug("A span could not be taken out of MLflow's register", exc_info=True)

    def _enter(self, span: Span) -> None:
        context = span.get_span_context()
        with self._lock:
            trace = self._open.get(context.trace_id)
            if trace is None:
                trace = self._open[context.trace_id] = _OpenTrace(span)
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
        if span.parent is None:
            _note_last_trace(trace.trace_id)
        if trace.evaluation is not None and trace.is_root(context.span_id):
            self._have_ready(trace, trace.evaluation)

    def _have_ready(self, trace: _OpenTrace, evaluation: str) -> None:
        """Have ``mlflow.genai.evaluate`` find the trace, which it reads now, to have it scored.

        MLflow's own processor stores the traces of an evaluation on the thread of the program, too.
        """
        known = getattr(fluent, "_EVAL_REQUEST_ID_TO_TRACE_ID", None)
        if known is None:
            self._log.warning(
                "evaluation",
                "mlflow.genai.evaluate() cannot find the traces of what it evaluates: MLflow %s "
                "keeps them in another way. They are stored all the same.",
                VERSION,
            )
            return
        known[evaluation] = trace.trace_id
        self._bridge.flush()

    def _register(self, trace: _OpenTrace) -> None:
        root = trace.root
        tags = _WrittenThrough(lambda key, value: _write_tag(root, key, value))
        metadata = _WrittenThrough(lambda key, value: _write_metadata(root, key, value))
        # What mlflow.tracing.context() and the program's active run say about the trace.
        tags.update(self._get_basic_trace_tags(root))
        trace.evaluation = tags.get(TraceTagKey.EVAL_REQUEST_ID)
        known = self._get_basic_trace_metadata()
        metadata.update({key: known[key] for key in _METADATA if key in known})
        info = TraceInfo(
            trace_id=trace.trace_id,
            # Of no effect: the bridge decides, and does not ask the store on this thread.
            trace_location=TraceLocation.from_experiment_id("0"),
            request_time=(root.start_time or 0) // 1_000_000,
            state=TraceState.IN_PROGRESS,
            tags=tags,
            trace_metadata=metadata,
        )
        manager = InMemoryTraceManager.get_instance()
        manager.register_trace(root.get_span_context().trace_id, info)
        with manager.get_trace(trace.trace_id) as registered:
            if registered is not None:
                registered.span_dict = trace.live


class _OpenTrace:
    """A trace with a span that has not ended; guarded by the processor's lock."""

    def __init__(self, root: Span) -> None:
        self.root = root
        self.trace_id = f"tr-{format_trace_id(root.get_span_context().trace_id)}"
        self.encoded_id = json.dumps(self.trace_id)
        # Weak: a span that nobody ever ends must not stay for ever.
        self.spans: WeakValueDictionary[int, Span] = WeakValueDictionary()
        self.live = _LiveSpans(self)
        self.evaluation: str | None = None
        """The id by which an evaluation of MLflow's will look the trace up, if it is of one."""

    def is_root(self, span_id: int) -> bool:
        return self.root.get_span_context().span_id == span_id


class _LiveSpans(dict[str, Any]):
    """MLflow's objects for open spans by span id, made when MLflow asks for one."""

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
    """A dictionary that says what is put into it."""

    def __init__(self, write: Callable[[str, Any], None]) -> None:
        super().__init__()
        self._write = write

    def __setitem__(self, key: str, value: Any) -> None:
        super().__setitem__(key, value)
        self._write(key, value)

    def update(self, *args: Mapping[str, Any], **more: Any) -> None:  # pyright: ignore
        for key, value in dict(*args, **more).items():
            self[key] = value


def _write_tag(root: Span, key: str, value: Any) -> None:
    attribute = TRACE_TAG_PREFIX + key
    # The name of the trace is not that of the first MLflow span in it.
    if attribute != TRACE_NAME and root.is_recording():
        root.set_attribute(attribute, str(value))


def _write_metadata(root: Span, key: str, value: Any) -> None:
    # MLflow takes no other metadata from a span; as a tag it can be seen and searched for.
    attribute = _METADATA.get(key, TRACE_TAG_PREFIX + key)
    if root.is_recording():
        root.set_attribute(attribute, str(value))


def _note_last_trace(trace_id: str) -> None:
    """Have ``mlflow.get_last_active_trace_id`` know the trace."""
    note = getattr(fluent, "_set_last_active_trace_id", None)
    if note is not None:
        note(trace_id)


class _NoExport(SpanExporter):
    """What MLflow takes for the exporter of this processor."""

    def __init__(self, provider: Any) -> None:
        self._provider = provider
        # MLflow flushes an exporter by its queue of this name, if it has one.
        self._async_queue = self

    def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:
        """Nothing: the bridge's own processor gets the same spans."""
        return SpanExportResult.SUCCESS

    def flush(self, terminate: bool = False) -> None:
        """Deliver what waits: ``mlflow.flush_trace_async_logging`` ends up here, too."""
        self._provider.force_flush()
