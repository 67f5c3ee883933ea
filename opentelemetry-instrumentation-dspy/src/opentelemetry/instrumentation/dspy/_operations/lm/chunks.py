# Copyright The opentelemetry-instrumentation-dspy Authors
# SPDX-License-Identifier: Apache-2.0
"""The chunks of a streamed LM call: their number, and the time to the first chunk.

DSPy forwards chunks in two places. The engines of 3.4 create them in a ``ListenerBridge``. Chunks
from LiteLLM (all chunks before 3.4) are sent to the stream in the settings.
"""

from __future__ import annotations

from typing import Any

import dspy
from opentelemetry.instrumentation.dspy._calls.call import Runtime
from opentelemetry.instrumentation.dspy._calls.frames import as_dspy_frame, hide_frame
from opentelemetry.instrumentation.dspy._operations.lm.capture import current_record
from opentelemetry.instrumentation.dspy._operations.lm.record import LMRecord
from opentelemetry.instrumentation.dspy._patching.points import FunctionPatch, PatchPoint
from opentelemetry.instrumentation.dspy._patching.replacements import observe_result


def patch_points() -> list[PatchPoint]:
    """The patch points of chunks, by release."""
    effect = "streamed LM calls have no chunk count and no time to the first chunk"
    return [
        FunctionPatch("dspy.clients.lm", "_get_stream_completion_fn", _counting_stream, effect),
        FunctionPatch(
            "dspy.clients.engines.streaming",
            "ListenerBridge.chunk",
            _observing_chunk,
            effect,
            since=(3, 4),
        ),
    ]


def _observing_chunk(original: Any, runtime: Runtime, owner: Any) -> Any:
    return observe_result(original, _record_chunk)


def _record_chunk(chunk: Any, *_arguments: Any) -> None:
    record = current_record()
    if chunk is not None and record is not None:
        record.add_chunk()


def _counting_stream(_original: Any, runtime: Runtime, owner: Any) -> Any:
    _context, _hide = _counting_context, hide_frame

    def get_stream_completion_fn(*args: Any, **kwargs: Any) -> Any:
        try:
            # The returned function keeps the stream that it finds in the settings now.
            with _context():
                return _original(*args, **kwargs)
        except BaseException as _error:
            _hide(_error)
            raise

    return as_dspy_frame(get_stream_completion_fn, _original)


class _Unchanged:
    """A context in which the settings are not changed."""

    def __enter__(self) -> None: ...

    def __exit__(self, *_: object) -> None: ...


def _counting_context() -> Any:
    """A context with settings whose stream counts the items sent to it."""
    stream = dspy.settings.send_stream
    record = current_record() if stream is not None else None
    if record is None:
        return _Unchanged()
    return dspy.settings.context(send_stream=_CountedStream(stream, record))


class _CountedStream:
    """A stream that counts the chunks sent to it; otherwise it behaves like the original."""

    def __init__(self, stream: Any, record: LMRecord) -> None:
        self._stream = stream
        self._record = record

    def send(self, item: Any) -> Any:
        """The original's result: an awaitable, so this frame is not on the stack when it runs."""
        self._record.add_chunk()
        return self._stream.send(item)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)
