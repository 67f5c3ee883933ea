# Copyright The opentelemetry-instrumentation-dspy Authors
# SPDX-License-Identifier: Apache-2.0
"""``dspy.streamify``: one span for a whole stream, from its first step to its end.

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
from opentelemetry.instrumentation.dspy._operations.modules.module import arguments_of
from opentelemetry.instrumentation.dspy._patching.points import FunctionPatch, PatchPoint

_EFFECT = "streams get no span of their own"


def patch_points(runtime: Runtime) -> Sequence[PatchPoint]:
    """The patch points of streams: the function, and the names that DSPy exports."""
    modules = ("dspy.streaming.streamify", "dspy.streaming", "dspy")
    return [FunctionPatch(module, "streamify", _traced_streamify, _EFFECT) for module in modules]


class StreamOperation(Operation):
    """One stream. ``Call.state`` counts its chunks.

    It has the inputs and outputs of the program below it, since it is the root of the trace, where
    backends look for both.
    """

    name = semconv.Operations.STREAM

    def __init__(self, runtime: Runtime) -> None:
        self._content = runtime.content
        self._settings = runtime.settings

    def start(self, call: Call) -> SpanStart:
        kind = type(call.instance).__name__
        call.state = 0
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

    def ended(self, call: Call, error: BaseException | None, attributes: Attributes) -> None:
        attributes[semconv.DSPY_STREAM_CHUNK_COUNT] = call.state


def _traced_streamify(_streamify: Callable[..., Any], runtime: Runtime, owner: Any) -> Any:
    _hide, _traced = hide_frame, partial(_traced_streamer, StreamOperation(runtime), runtime)

    def streamify(*args: Any, **kwargs: Any) -> Any:
        try:
            _streamer = _streamify(*args, **kwargs)
        except BaseException as _error:
            _hide(_error)
            raise
        return _traced(args[0] if args else kwargs["program"], _streamer)

    return as_dspy_frame(streamify, _streamify)


def _traced_streamer(
    operation: StreamOperation, runtime: Runtime, program: Any, streamer: Any
) -> Any:
    start = partial(_Stream, partial(begin_call, operation, runtime, object, False, program))
    if inspect.isasyncgenfunction(streamer):
        return as_dspy_frame(_async_streamer(streamer, start), streamer)
    return as_dspy_frame(_sync_streamer(streamer, start), streamer)


class _Stream:
    """The span of one stream, and the context of its steps.

    A signal handler may raise between any two steps, also between a call and its assignment.
    """

    def __init__(
        self, start: Callable[..., Call | None], args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> None:
        self._start = start
        self._arguments = args, kwargs
        self._call: Call | None = None
        self._context: Context | None = None
        self._outside: Context | None = None
        self._prediction: Any = None

    def begin(self) -> None:
        """Start the span, without making it current."""
        args, kwargs = self._arguments
        try:
            self._call = self._start(args, kwargs)
            if self._call is not None:
                self._context = self._call.context
                self._call.leave()
        except BaseException as error:
            call = self._call or opened_call(None, args, kwargs)
            if call is not None:
                call.close(None, error)
            raise

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
        self._call.state += 1
        if issubclass(type(chunk), dspy.Prediction):
            self._prediction = chunk

    def close(self, error: BaseException | None) -> None:
        """End the span; a second call does nothing."""
        if self._call is None:
            return
        if error is None:
            self._call.close(self._prediction)
        else:
            self._call.close(None, error)
        self._call = None


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
