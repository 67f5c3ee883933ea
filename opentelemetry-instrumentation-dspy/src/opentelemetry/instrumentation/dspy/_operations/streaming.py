# Copyright The opentelemetry-instrumentation-dspy Authors
# SPDX-License-Identifier: Apache-2.0
"""``dspy.streamify``: one span for a whole stream, from its first step to its end.

The span of a streamed module is also the span of the module's call: it begins with the stream, the
call of the module joins it in the thread or task in which DSPy runs the program, and it ends with
the stream. A streamed function has a span of the stream alone.

The span is current only while the stream produces its next chunk, never while the consumer handles
one. A span left current across a ``yield`` would become the parent of the consumer's work, and
would be detached in another context if two tasks share the stream. The span ends once: when the
stream is exhausted, fails, is closed early, or is garbage-collected.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

from opentelemetry import context as context_api
from opentelemetry.context import Context

import dspy
from opentelemetry.instrumentation.dspy import semconv
from opentelemetry.instrumentation.dspy._calls.begin import begin_call, opened_call
from opentelemetry.instrumentation.dspy._calls.call import (
    INTERNAL,
    Attributes,
    Call,
    Operation,
    Runtime,
    SpanStart,
)
from opentelemetry.instrumentation.dspy._calls.frames import as_dspy_frame, hide_frame
from opentelemetry.instrumentation.dspy._calls.propagation import restore_context
from opentelemetry.instrumentation.dspy._calls.steps import CallPart
from opentelemetry.instrumentation.dspy._guarding import guarded
from opentelemetry.instrumentation.dspy._operations.modules.module import (
    ModuleOperation,
    arguments_of,
    module_operation,
)
from opentelemetry.instrumentation.dspy._patching.points import FunctionPatch, PatchPoint

_EFFECT = "streams get no span, and the spans of streamed modules end before the stream"
_PARAMETERS = (
    "program",
    "status_message_provider",
    "stream_listeners",
    "include_final_prediction_in_output_stream",
    "is_async_program",
)


def patch_points(runtime: Runtime) -> Sequence[PatchPoint]:
    """The patch points of streams: the function, and the names that DSPy exports."""
    modules = ("dspy.streaming.streamify", "dspy.streaming", "dspy")
    return [FunctionPatch(module, "streamify", _traced_streamify, _EFFECT) for module in modules]


class StreamOperation(Operation):
    """One stream of a function, with the inputs and outputs of the function."""

    name = semconv.Operations.STREAM

    def __init__(self, runtime: Runtime) -> None:
        self._content = runtime.content
        self._settings = runtime.settings

    def start(self, call: Call) -> SpanStart:
        kind = type(call.instance).__name__
        return (
            f"stream {kind}",
            {semconv.DSPY_OPERATION: self.name, semconv.DSPY_MODULE_TYPE: kind},
            INTERNAL,
        )

    def arguments(self, call: Call) -> Mapping[str, Any]:
        return arguments_of(call)

    def inputs(self, call: Call, attributes: Attributes) -> None:
        if self._settings.records_inputs:
            self._content.put(attributes, semconv.DSPY_MODULE_INPUT, self.name, arguments_of(call))

    def outputs(self, call: Call, result: Any, attributes: Attributes) -> None:
        if result is not None and self._settings.records_outputs:
            self._content.put(attributes, semconv.DSPY_MODULE_OUTPUT, self.name, result)


def _traced_streamify(_streamify: Callable[..., Any], runtime: Runtime, owner: Any) -> Any:
    _hide, _traced, _async = hide_frame, partial(_traced_streamer, runtime), _is_async_program

    def streamify(*args: Any, **kwargs: Any) -> Any:
        try:
            _streamer = _streamify(*args, **kwargs)
        except BaseException as _error:
            _hide(_error)
            raise
        return _traced(args[0] if args else kwargs["program"], _async(args, kwargs), _streamer)

    return as_dspy_frame(streamify, _streamify)


def _is_async_program(args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> bool:
    position = _PARAMETERS.index("is_async_program")
    return bool(args[position] if len(args) > position else kwargs.get("is_async_program"))


def _traced_streamer(runtime: Runtime, program: Any, asynchronous: bool, streamer: Any) -> Any:
    is_module = issubclass(type(program), dspy.Module)
    operation = module_operation(runtime) if is_module else StreamOperation(runtime)
    begin = partial(begin_call, operation, runtime, object, asynchronous, program)
    start = partial(_Stream, begin)
    if inspect.isasyncgenfunction(streamer):
        return as_dspy_frame(_async_streamer(streamer, start), streamer)
    return as_dspy_frame(_sync_streamer(streamer, start), streamer)


class _StreamedProgram(CallPart):
    """The call of the streamed module, whose span is that of the stream."""

    def __init__(self, stream: _Stream, call: Call) -> None:
        self._stream: _Stream | None = stream
        self._call = call

    def close(self, result: Any, error: BaseException | None = None) -> None:
        stream, self._stream = self._stream, None
        # If the stream has ended, so has its span.
        if stream is not None and self._call.context is not None:
            guarded(stream.program_ended, self._call, result, error)


class _Stream:
    """The span of one stream, and the context of its steps.

    A signal handler may raise between any two steps, also between a call and its assignment.
    """

    def __init__(
        self,
        start: Callable[..., Call | CallPart | None],
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
    ) -> None:
        self._start = start
        self._arguments = args, kwargs
        self._call: Call | None = None
        self._context: Context | None = None
        self._outside: Context | None = None
        self._prediction: Any = None
        self._chunks = 0
        self._returned = False

    def begin(self) -> None:
        """Start the span, without making it current."""
        args, kwargs = self._arguments
        try:
            call = self._start(args, kwargs)
            if isinstance(call, Call):
                self._call = call
                if isinstance(call.operation, ModuleOperation):
                    call.join = self._join
            if call is not None:
                self._context = call.context
                call.leave()
        except BaseException as error:
            call = self._call or opened_call(None, args, kwargs)
            if call is not None:
                call.close(None, error)
            raise

    def _join(self, owner: type, asynchronous: bool) -> _StreamedProgram | None:
        """Begin the call of the program; a call that the program makes of itself is another."""
        call = self._call
        if call is None:
            return None
        call.join, call.owner, call.asynchronous = None, owner, asynchronous
        if call.recording and isinstance(call.operation, ModuleOperation):
            guarded(call.operation.program_begins, call)
        return _StreamedProgram(self, call)

    def program_ended(self, call: Call, result: Any, error: BaseException | None) -> None:
        """Record the outcome of the program, whether the consumer has taken all chunks or not."""
        call.end_measuring()
        if error is None:
            self._prediction, self._returned = result, True
        if call.recording and call.span is not None and call.span.is_recording():
            if isinstance(call.operation, ModuleOperation):
                call.operation.program_ended(call)
            call.settle(result, error)

    def enter(self) -> Any:
        """Make the span current during a step; returns the argument of `leave`."""
        if self._context is None:
            return None
        self._outside = context_api.get_current()
        return context_api.attach(self._context)

    def leave(self, token: Any) -> None:
        """End a step; ``token`` is None if `enter` has not returned."""
        if token is not None:
            restore_context(token)
        elif self._outside is not None and context_api.get_current() is self._context:
            context_api.attach(self._outside)

    def record(self, chunk: Any) -> None:
        """Count one chunk; the last Prediction among the chunks is the program's result."""
        if self._call is None:
            return
        self._chunks += 1
        if issubclass(type(chunk), dspy.Prediction):
            self._prediction = chunk

    def close(self, error: BaseException | None) -> None:
        """End the span; a second call does nothing."""
        call, self._call = self._call, None
        if call is None:
            return
        call.join = None
        call.attributes[semconv.DSPY_STREAM_CHUNK_COUNT] = self._chunks
        if error is None or (self._returned and isinstance(error, GeneratorExit)):
            # A consumer may leave once the program has returned.
            call.close(self._prediction)
            return
        if self._returned:
            call.settled = False
        call.close(None, error)


def _async_streamer(_streamer: Callable[..., Any], _start: Callable[..., _Stream]) -> Any:
    _hide = hide_frame

    async def async_streamer(*args: Any, **kwargs: Any) -> Any:
        _chunks = _streamer(*args, **kwargs)
        _stream = _start(args, kwargs)
        _failure = None
        try:
            _stream.begin()
            while True:
                _token = None
                try:
                    _token = _stream.enter()
                    _chunk = await _chunks.__anext__()
                except StopAsyncIteration:
                    break
                finally:
                    _stream.leave(_token)
                _stream.record(_chunk)
                yield _chunk
            _stream.close(None)
        except BaseException as _error:
            _hide(_error)
            _stream.leave(None)
            _failure = _error
            raise
        finally:
            try:
                await _chunks.aclose()
            finally:
                _stream.close(_failure)
                _failure = None

    return async_streamer


def _sync_streamer(_streamer: Callable[..., Any], _start: Callable[..., _Stream]) -> Any:
    _steps, _current, _attach, _restore = (
        _sync_steps,
        context_api.get_current,
        context_api.attach,
        restore_context,
    )

    def sync_streamer(*args: Any, **kwargs: Any) -> Any:
        _created_in = _current()

        def _start_where_created() -> None:
            # The first step may come after the span has ended in which the stream was created.
            _token = _attach(_created_in)
            try:
                _stream.begin()
            finally:
                _restore(_token)

        _stream = _start(args, kwargs)
        return _steps(_streamer(*args, **kwargs), _stream, _start_where_created)

    return sync_streamer


def _sync_steps(chunks: Any, stream: _Stream, begin: Callable[[], None]) -> Any:
    failure = None
    try:
        begin()
        while True:
            token = None
            try:
                token = stream.enter()
                chunk = next(chunks)
            except StopIteration:
                break
            finally:
                stream.leave(token)
            stream.record(chunk)
            yield chunk
        stream.close(None)
    except BaseException as error:
        hide_frame(error)
        stream.leave(None)
        failure = error
        raise
    finally:
        try:
            chunks.close()
        finally:
            stream.close(failure)
            failure = None
