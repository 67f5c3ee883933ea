# Copyright The opentelemetry-instrumentation-dspy Authors
# SPDX-License-Identifier: Apache-2.0
"""The traced call: one span around one DSPy operation.

A replacement function opens a `Call` with `begin_call` and runs the original outside of any handler
of ours that could change its outcome. It closes the call with the result or the exception. Errors
of telemetry are caught here, logged once per kind, and never reach the program.
"""

from __future__ import annotations

import inspect
import logging
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from contextvars import Token
from functools import partial
from typing import TYPE_CHECKING, Any
from weakref import ref

from opentelemetry import context as context_api
from opentelemetry.context import Context
from opentelemetry.metrics import NoOpMeterProvider
from opentelemetry.trace import (
    INVALID_SPAN,
    Link,
    Span,
    SpanKind,
    Tracer,
    get_current_span,
    set_span_in_context,
)

from opentelemetry.instrumentation.dspy._calls import generators, provider_clients
from opentelemetry.instrumentation.dspy._calls.failures import (
    error_type,
    identity_of,
    record_failure,
)
from opentelemetry.instrumentation.dspy._calls.generators import GENERATORS
from opentelemetry.instrumentation.dspy._calls.propagation import restore_context
from opentelemetry.instrumentation.dspy._content.encoder import ContentEncoder
from opentelemetry.instrumentation.dspy._content.known_values import KnownValues, using
from opentelemetry.instrumentation.dspy._events import EventLog
from opentelemetry.instrumentation.dspy._guarding import (
    contain,
    forget_our_frames,
    guarded,
    pass_on,
)
from opentelemetry.instrumentation.dspy._metrics import Metrics
from opentelemetry.instrumentation.dspy._settings import Settings
from opentelemetry.instrumentation.dspy.api import CALL_KEY
from opentelemetry.instrumentation.dspy.semconv import DSPY_OPERATION, DSPY_TRUNCATED

if TYPE_CHECKING:
    from opentelemetry.instrumentation.dspy._calls.selection import Selection
    from opentelemetry.instrumentation.dspy._content.redactor import Redactor

logger = logging.getLogger(__name__)

Attributes = dict[str, Any]

SpanStart = tuple[str, Attributes, SpanKind]
"""Name, attributes and kind: what a span starts with, so that samplers can decide on it."""

# Bound once: looking up an enum member is slow.
INTERNAL = SpanKind.INTERNAL
CLIENT = SpanKind.CLIENT

MAX_NAME = 128
"""Longest name of a span, in characters: backends refuse or cut longer names."""

_NOTHING: Attributes = {}  # for calls without attributes yet; never changed
# A Context is immutable; a new one that no other code has seen may still be completed.
_complete = dict[str, object].__setitem__
# What set_span_in_context() sets. It copies the context twice; one copy per call is enough.
_SPAN_KEYS = tuple(set_span_in_context(INVALID_SPAN, Context()))
_SPAN_KEY = _SPAN_KEYS[0] if len(_SPAN_KEYS) == 1 else None
# Up to this number, setting attributes one by one is faster.
_FEW_ATTRIBUTES = 4
_START_SPAN = Tracer.start_span.__name__


def shortened(name: str, longest: int = MAX_NAME) -> str:
    """A name within a limit of characters; the last one says that the name was cut."""
    return name if len(name) <= longest else f"{name[: longest - 1]}…"


class Operation(ABC):
    """How one kind of DSPy operation becomes a span. Methods may raise: the caller guards them.

    They add what they read to the ``attributes`` passed to them, which may already hold attributes
    of an earlier stage.
    """

    name: str
    keeps_values = False
    """Whether values of hidden fields in such a call are forgotten at its end."""
    begins_trace = False
    """Whether such a call begins a trace, with a link to the span that is current before."""
    is_module = False
    """Whether the setting ``module_filter`` decides about such calls."""

    @abstractmethod
    def start(self, call: Call) -> SpanStart | None:
        """Name, kind and the few cheap attributes that samplers need; None for no span.

        Metrics are grouped by these attributes. Called for unrecorded calls as well.
        """
        ...

    def arguments(self, call: Call) -> Mapping[str, Any]:
        """The arguments by name, as far as names are known."""
        return {**positional_arguments(call), **call.kwargs} if call.args else call.kwargs

    def inputs(self, call: Call, attributes: Attributes) -> None:
        """Read the arguments before the call runs; only for recording spans."""
        return

    def outputs(self, call: Call, result: Any, attributes: Attributes) -> None:
        """Read the result; only for recording spans."""
        return

    def ended(self, call: Call, error: BaseException | None, attributes: Attributes) -> None:
        """Add what is known at the end, on success or error; also called for unrecorded calls."""
        return

    def passed(self, call: Call) -> None:
        """Prepare a call that gets no span by ``module_filter``, in a call that has one."""
        return

    def passed_ended(self, call: Call, result: Any, error: BaseException | None) -> None:
        """Tell the calls around what they have to know of such a call at its end."""
        return


def _apart(context: Context) -> tuple[Context, list[Link]]:
    """The context without its span, and a link to that span."""
    around = get_current_span(context).get_span_context()
    return set_span_in_context(INVALID_SPAN, context), [Link(around)] if around.is_valid else []


def positional_arguments(call: Call) -> dict[str, Any]:
    """The positional arguments of a call by name; those without a name under ``args``."""
    # Read from the class: reading ``forward`` from a module makes DSPy log a warning.
    kind: type[Any] = type(call.instance)  # type: ignore[reportUnknownVariableType]
    function = getattr(kind, "forward", None)
    if call.asynchronous:
        # Without an aforward, the call fails; its arguments are those of forward.
        function = getattr(kind, "aforward", None) or function
    names: list[str] = []
    if function is not None:
        parameters = list(inspect.signature(function).parameters.values())[1:]
        names = [
            p.name for p in parameters if p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD)
        ]
    named = dict(zip(names, call.args, strict=False))
    rest = call.args[len(names) :]
    return {**named, "args": list(rest)} if rest else named


class Runtime:
    """The state that all operations of one ``instrument()`` share."""

    def __init__(
        self,
        tracer: Tracer,
        settings: Settings,
        metrics: Metrics | None = None,
        redactor: Redactor | None = None,
    ) -> None:
        self.tracer = tracer
        self.settings = settings
        self.metrics = metrics or Metrics(NoOpMeterProvider(), "")
        self.events: EventLog | None = None  # set if content goes to events
        self.log: EventLog | None = None  # for events that are no content
        # If a provider was given its own limits, only the SDK's tracer has them.
        limits = getattr(tracer, "_span_limits", None)
        max_length = getattr(limits, "max_span_attribute_length", None)
        self.redactor = redactor
        self.call_type: type[Call] = Call if redactor is None else RedactedCall
        self.content = ContentEncoder(settings, max_length, redactor)
        # Operations that several patch points share, by their names.
        self.operations: dict[str, Operation] = {}
        # Turned off by uninstrument(), for replacements that the program still references.
        self.active = True
        # By module_filter and trace_condition; None if all calls are recorded.
        self.selection: Selection | None = None
        # Whether a call needs no look at the two attributes above.
        self.direct = True
        self.request_hook = settings.request_hook
        self.response_hook = settings.response_hook

    def deactivate(self) -> None:
        """Record nothing from now on."""
        self.active = self.direct = False

    def select_by(self, selection: Selection | None) -> None:
        """Record the calls that are selected, from the next outermost call on; None for all."""
        # Traces that have begun keep their selection, so their calls have to look for it.
        self.selection, self.direct = selection, False


class Call:
    """One DSPy operation in progress; `DSPyCall` is its public part.

    Attributes:
        operation: The kind of operation.
        instance: The DSPy object that was called. After the call, None if it is gone.
        args: Positional arguments, without the instance. Emptied at the end of the call.
        kwargs: Keyword arguments, live objects of the program: read, never change.
        parent: The enclosing DSPy call, also across threads; None for the outermost.
        context: The OTel context that the call made current; None before and after it.
        before: The OTel context that was current before.
        span: The span; None until it is started. Below an unsampled call, that call's span.
        recording: Whether the span records.
        path: Dotted path of a module inside its program, if known.
        state: What the operation collects while the call runs.
        lm_calls: Number of LM calls that ended inside a module call so far.
        start_attributes: The attributes that the span started with.
        attributes: Attributes not yet set on the span: setting many at once is the cheapest.
        recorded_error: Identity of the last exception that an event of the span describes.
        settled: Whether the outcome is on the span although the call is still open.
        join: Begins a call of the same object that this call stands for; None for all others.
        selection: Which calls of the trace are recorded; None for all.
    """

    # Defaults on the class: most calls never set most of these.
    context: Context | None = None
    span: Span | None = None
    recording = False
    path: str | None = None
    state: Any = None
    before: Context | None = None
    lm_calls = 0
    start_attributes: Attributes = _NOTHING
    error_identity: tuple[int, ...] = ()
    recorded_error: tuple[int, ...] = ()
    settled = False
    join: Callable[[type, bool], Any] | None = None
    selection: Selection | None = None
    _started_ns = _ended_ns = 0
    _shared: tuple[Any, Attributes] | None = None
    _runtime: Runtime
    _token: Token[Context]

    def __init__(
        self,
        operation: Operation,
        instance: Any,
        args: tuple[Any, ...],
        kwargs: Mapping[str, Any],
        parent: Call | None,
        owner: type | None = None,
        asynchronous: bool = False,
    ) -> None:
        self.operation = operation
        self.instance: Any = instance
        self.args: tuple[Any, ...] = args
        self.kwargs: Mapping[str, Any] = kwargs
        self.parent = parent
        self.owner = owner
        self.asynchronous = asynchronous
        self.attributes: Attributes = {}

    @property
    def operation_name(self) -> str:
        """The value of ``dspy.operation``."""
        return self.start_attributes.get(DSPY_OPERATION, self.operation.name)

    def open(self, runtime: Runtime, context: Context, unrecorded: bool) -> bool:
        """Start the span and make it current; False if the operation gets no span.

        Below an ``unrecorded`` parent no span is started: the call then only serves metrics.
        """
        start = self.operation.start(self)
        if start is None:
            return False
        self._runtime = runtime
        name, self.start_attributes, kind = start
        if len(name) > MAX_NAME:
            name = shortened(name)
        current = start_context = Context(context)
        _complete(start_context, CALL_KEY, self)
        if unrecorded and self.parent is not None:
            self.span = self.parent.span
        else:
            is_apart = self.operation.begins_trace
            start_context, links = _apart(start_context) if is_apart else (start_context, None)
            try:
                self.span = span = runtime.tracer.start_span(
                    name,
                    start_context,
                    kind,
                    self.start_attributes,
                    links,
                    record_exception=False,
                    set_status_on_exception=False,
                )
            except BaseException as error:
                _end_interrupted(error, start_context)
                raise
            if _SPAN_KEY is None:
                current = set_span_in_context(span, start_context)
            else:
                current = Context(start_context)
                _complete(current, _SPAN_KEY, span)
            if span.is_recording():
                self.recording = True
                try:
                    self.operation.inputs(self, self.attributes)
                except Exception as error:
                    contain(error)
        if kind is CLIENT:
            current = self._announce(current)
        self.context = current
        self._token = context_api.attach(current)
        if self.recording and runtime.request_hook is not None:
            self._set_early()  # the hook may replace the inputs
            self._run_hook(runtime.request_hook)
        if runtime.metrics.enabled:
            self._started_ns = time.perf_counter_ns()
        return True

    def _announce(self, context: Context) -> Context:
        announcement = provider_clients.announcement(self.start_attributes)
        if announcement is None:
            return context
        key, data = announcement
        self._shared = (data, dict(self.attributes))
        return context_api.set_value(key, data, context)

    def _run_hook(self, hook: Callable[..., None], *result: Any) -> None:
        try:
            hook(self.span, self, *result)
        except Exception as error:
            contain(error)

    def leave(self) -> None:
        """Detach from the current context; the span stays open until `close`."""
        try:
            restore_context(self._token)
        except BaseException as error:
            abandon(self)
            forget_our_frames(error)
            raise

    def resume(self) -> None:
        """Make the span current again, in the caller's context."""
        if self.context is not None:
            self._token = context_api.attach(self.context)

    def settle(self, result: Any, error: BaseException | None) -> None:
        """Put the outcome of the operation on the span, which records; done once for each call."""
        self.settled = True
        if error is not None:
            guarded(self._set_error, error)
            return
        try:
            self.operation.outputs(self, result, self.attributes)
        except Exception as fault:
            contain(fault)
        hook = self._runtime.response_hook
        if hook is not None:
            self._set_early()  # the hook may replace the outputs
            self._run_hook(hook, result)

    def end_measuring(self) -> None:
        """Let the metrics count the call as ended now, although its span stays open."""
        self._ended_ns = time.perf_counter_ns()

    def record_handled(self, error: BaseException) -> None:
        """Put an exception on the span that does not end the operation."""
        self._record_exception(error, fails=False)

    # One function with more branches than elsewhere, since each frame costs every call.
    def close(self, result: Any, error: BaseException | None = None) -> None:
        """End the span, with the result of the operation or with the exception that it raised.

        A second call does nothing. Raises only exceptions that `is_programs` accepts.
        """
        if self.context is None:
            return
        ended_ns = (self._ended_ns or time.perf_counter_ns()) if self._started_ns else 0
        try:
            if self.recording and self.span is not None and not self.span.is_recording():
                # Ended by other code, such as the processor that ends open spans at exit. The SDK
                # would log a warning for each attribute set from now on.
                self.recording, self.span = False, None
            if self.recording and not self.settled:
                self.settle(result, error)
            attributes = self.attributes
            try:
                self.operation.ended(self, error, attributes)
                if self._shared is not None:
                    self._add_reported(*self._shared)
            except Exception as fault:
                contain(fault)
            if self.recording:
                self._set(attributes)
            if ended_ns:
                self._measure(ended_ns, error, attributes)
            restore_context(self._token)
            if type(result) in GENERATORS:
                guarded(generators.remember_generator, result, self.context)
            parent, span = self.parent, self.span
            if parent is None:
                self._runtime.content.clear_cache()
            if span is not None and (parent is None or span is not parent.span):
                guarded(span.end)
            # A context that outlives the call (a background task's) must keep nothing alive.
            self.args, self.kwargs, self.attributes = (), _NOTHING, {}
            self.state = self.context = self.before = self._shared = None
            self._release()
        except BaseException as fault:
            abandon(self)
            forget_our_frames(fault)
            raise

    def span_end(self) -> Callable[[], None]:
        """A function that ends the span, also after the call itself is gone."""
        span, parent = self.span, self.parent
        if span is None or (parent is not None and span is parent.span):
            span = INVALID_SPAN
        return partial(guarded, _end_if_open, span)

    def _release(self) -> None:
        try:
            self._instance, self._owner = ref(self.instance), ref(self.owner)
        except TypeError:
            return  # a class with __slots__, or no owner
        del self.instance, self.owner

    def __getattr__(self, name: str) -> Any:
        # Only for what is not an attribute any more: the instance and owner of a closed call.
        reference = self.__dict__.get(f"_{name}")
        if reference is None:
            raise AttributeError(name)
        return reference()

    def _measure(self, ended_ns: int, error: BaseException | None, attributes: Attributes) -> None:
        seconds = (ended_ns - self._started_ns) / 1e9
        kind = None if error is None else error_type(error)
        record = self._runtime.metrics.call_ended
        guarded(record, self.start_attributes, attributes, self.state, seconds, kind)

    def _add_reported(self, data: Any, inputs: Attributes) -> None:
        known = {**inputs, **self.attributes}
        self.attributes.update(provider_clients.reported(data, known))

    def _set_early(self) -> None:
        attributes = self.attributes
        self._set(attributes)
        # Kept, since the list of truncated attributes may still grow.
        cut = attributes.get(DSPY_TRUNCATED)
        self.attributes = {DSPY_TRUNCATED: cut} if cut else {}

    def _set(self, attributes: Attributes) -> None:
        span: Any = self.span
        try:
            if len(attributes) > _FEW_ATTRIBUTES:
                span.set_attributes(attributes)
            else:
                for name, value in attributes.items():
                    span.set_attribute(name, value)
        except Exception as error:
            contain(error)

    def _set_error(self, error: BaseException) -> None:
        self._record_exception(error, fails=True)

    def _record_exception(self, error: BaseException, *, fails: bool) -> None:
        assert self.span is not None
        identity = identity_of(error)
        innermost = self.error_identity != identity
        if self.parent is not None:
            self.parent.error_identity = identity
        runtime = self._runtime
        content = runtime.content if runtime.settings.content_mode.in_spans else None
        is_new, self.recorded_error = self.recorded_error != identity, identity
        # The innermost span has the stack; repeating it on each parent adds nothing.
        record_failure(
            self.span,
            error,
            content,
            self,
            with_status=fails,
            with_event=is_new,
            with_stack=innermost,
        )


class RedactedCall(Call):
    """A call with the setting ``redact``.

    Attributes:
        values: The values of hidden fields that its trace has shown so far.
    """

    values: KnownValues

    def open(self, runtime: Runtime, context: Context, unrecorded: bool) -> bool:
        redactor = runtime.redactor
        assert redactor is not None, "only then calls are of this class"
        values: KnownValues | None = getattr(self.parent, "values", None)
        is_new = False
        if values is None:
            around = get_current_span(context).get_span_context()
            is_new = not around.is_valid
            values = KnownValues() if is_new else redactor.traces.of(around.trace_id)
        self.values = KnownValues(values) if self.operation.keeps_values else values
        is_new = is_new or self.operation.begins_trace
        with using(self.values):
            opened = super().open(runtime, context, unrecorded)
            if opened and self.recording and self.span is not None:
                if is_new:
                    redactor.traces.add(self.span.get_span_context().trace_id, values)
                settings = runtime.settings
                if settings.records_content and not settings.records_inputs:
                    guarded(self._learn, redactor)
        return opened

    def _learn(self, redactor: Redactor) -> None:
        redactor.learn_inputs(self.operation.name, self.operation.arguments(self))

    def settle(self, result: Any, error: BaseException | None) -> None:
        with using(self.values):
            super().settle(result, error)

    def record_handled(self, error: BaseException) -> None:
        with using(self.values):
            super().record_handled(error)

    def close(self, result: Any, error: BaseException | None = None) -> None:
        with using(self.values):
            if self.recording and self.context is not None and error is None:
                settings, redactor = self._runtime.settings, self._runtime.redactor
                if settings.records_content and not settings.records_outputs and redactor:
                    guarded(redactor.learn_outputs, self.operation.name, result)
            super().close(result, error)


def _end_interrupted(error: BaseException, context: Context) -> None:
    """End a span whose start an exception of a signal handler has interrupted.

    Its processors may know it already. Only the frame of the interrupted function has it.
    """
    outer = get_current_span(context)
    step = error.__traceback__
    while step is not None:
        if step.tb_frame.f_code.co_name == _START_SPAN:
            span = step.tb_frame.f_locals.get("span")
            started = getattr(span, "start_time", None) is not None
            if isinstance(span, Span) and span is not outer and started:
                guarded(_end_if_open, span)
        step = step.tb_next


def _end_if_open(span: Span) -> None:
    if span.is_recording():
        span.end()


def abandon(call: Call | None) -> None:
    """Restore the context and end the span, at the stage where the call was interrupted.

    A call that stayed current would become the parent of everything the thread does next, such
    as the notebook cells after an interrupted one.
    """
    if call is None:
        return
    token = getattr(call, "_token", None)
    if token is not None:
        restore_context(token)
    context, call.context = call.context, None
    if context is not None and context_api.get_current() is context and call.before is not None:
        # Interrupted between attaching the context and keeping the token.
        context_api.attach(call.before)
    span, parent = call.span, call.parent
    if span is None or (parent is not None and span is parent.span) or not span.is_recording():
        return
    try:
        span.end()
    except Exception as error:
        pass_on(error)
        logger.debug("The span of an interrupted call could not be ended", exc_info=True)
