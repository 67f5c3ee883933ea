# Copyright The opentelemetry-instrumentation-dspy Authors
# SPDX-License-Identifier: Apache-2.0
"""The caller's OTel context in the threads that DSPy starts outside of ``ParallelExecutor``.

Only the OTel context is propagated. Other context variables, including DSPy's settings, reach
these threads only if DSPy passes them.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from typing import Any

import wrapt
from opentelemetry import context as context_api
from opentelemetry.context import Context
from opentelemetry.trace import get_current_span

from opentelemetry.instrumentation.dspy._calls.begin import current_call
from opentelemetry.instrumentation.dspy._calls.call import Runtime
from opentelemetry.instrumentation.dspy._calls.frames import as_dspy_frame, hide_frame
from opentelemetry.instrumentation.dspy._calls.propagation import bound_to_current_context
from opentelemetry.instrumentation.dspy._guarding import guarded, new_lock
from opentelemetry.instrumentation.dspy._operations.reading import instance_dict
from opentelemetry.instrumentation.dspy._patching.points import FunctionPatch, PatchPoint, Version
from opentelemetry.instrumentation.dspy.semconv import Operations

_POOL = "ThreadPoolExecutor"
_LOST = "calls in the threads of {} become separate traces"


def patch_points(runtime: Runtime) -> Sequence[PatchPoint]:
    """The patch points that propagate context."""
    rlm, avatar = "dspy.predict.rlm", "dspy.teleprompt.avatar_optimizer"
    return [
        UnbatchifyPatch(),
        FunctionPatch(avatar, _POOL, _carrying_pool, _LOST.format("AvatarOptimizer")),
        # Later releases propagate all context variables themselves.
        FunctionPatch(
            rlm, _POOL, _carrying_pool, _LOST.format("RLM"), since=(3, 1, 1), until=(3, 3)
        ),
    ]


def _carrying_pool(_pool: Any, runtime: Runtime, owner: Any) -> Any:
    _bound = bound_to_current_context

    def submit(self: Any, fn: Any, /, *args: Any, **kwargs: Any) -> Any:
        return _pool.submit(self, _bound(fn), *args, **kwargs)

    members = {"submit": as_dspy_frame(submit, _pool.submit), "__module__": _pool.__module__}
    return type(_pool.__name__, (_pool,), members)


class UnbatchifyPatch:
    """A patch that propagates context through ``Unbatchify``, which batches items of many callers.

    Neither the items in its queue nor its instances are changed, so instances and calls may be
    older than the patch and outlive it. The patch records which caller waits for which item. A
    descriptor on the class then gives the worker thread a ``batch_fn`` that runs in the context of
    a caller whose item is in the batch.
    """

    point = "dspy.utils.unbatchify:Unbatchify.__call__"

    def __init__(self) -> None:
        self.effect = _LOST.format("Unbatchify (under the Embeddings retriever)")
        self.since: Version = (0,)
        self.until: Version | None = None
        self._waiting = _WaitingCallers()
        self._batch_fn = _BatchFunction(self._waiting)
        self._call = FunctionPatch(
            "dspy.utils.unbatchify", "Unbatchify.__call__", self._carrying_call, self.effect
        )
        self._class: Any = None

    def install(self, runtime: Runtime) -> None:
        found: Any = wrapt.resolve_path("dspy.utils.unbatchify", "Unbatchify")[2]  # type: ignore[reportUnknownMemberType]
        if hasattr(found, "batch_fn"):
            raise AttributeError("Unbatchify.batch_fn is not an attribute of the instance")
        self._call.install(runtime)
        self._class = found
        found.batch_fn = self._batch_fn

    def remove(self) -> bool:
        owner, self._class = self._class, None
        if owner is None:
            return True
        ours = instance_dict(owner).get("batch_fn") is self._batch_fn
        if ours:
            del owner.batch_fn
        return self._call.remove() and ours

    def _carrying_call(self, _original: Any, runtime: Runtime, owner: Any) -> Any:
        _add, _remove, _hide = self._waiting.add, self._waiting.remove, hide_frame
        _guarded, _note = guarded, _note_search

        def __call__(self: Any, input_item: Any) -> Any:
            _key = _add(self, input_item)
            try:
                _result = _original(self, input_item)
                _guarded(_note, _result)
                return _result
            except BaseException as _error:
                _hide(_error)
                raise
            finally:
                _remove(_key)

        return as_dspy_frame(__call__, _original)


def _note_search(result: Any) -> None:
    """Give the search in progress the result of its batch: its own result lacks the scores."""
    search = current_call(Operations.RETRIEVAL)
    if search is not None and search.recording:
        search.state = result


class _WaitingCallers:
    """The contexts of the callers that wait for a batch, in order of arrival."""

    def __init__(self) -> None:
        self._lock = new_lock()
        self._entries: dict[object, tuple[int, int, Context]] = {}

    def add(self, unbatchify: Any, item: Any) -> object:
        key = object()
        # By id: the caller keeps both alive, and an item may not be hashable.
        entry = (id(unbatchify), id(item), context_api.get_current())
        with self._lock:
            self._entries[key] = entry
        return key

    def remove(self, key: object) -> None:
        with self._lock:
            self._entries.pop(key, None)

    def context_of(self, unbatchify: Any, items: Sequence[Any]) -> Context | None:
        """The context of the first recorded item; if no item is recorded, of the first item."""
        with self._lock:
            entries = list(self._entries.values())
        by_item: dict[int, Context] = {}
        for owner, item, context in entries:
            if owner == id(unbatchify):
                by_item.setdefault(item, context)
        contexts = [by_item[id(item)] for item in items if id(item) in by_item]
        recorded = (c for c in contexts if get_current_span(c).is_recording())
        return next(recorded, contexts[0] if contexts else None)


class _BatchFunction:
    """The descriptor of ``batch_fn``, whose value stays in the instance's ``__dict__``."""

    def __init__(self, waiting: _WaitingCallers) -> None:
        self._waiting = waiting

    def __get__(self, instance: Any, owner: type | None = None) -> Any:
        attributes = {} if instance is None else instance_dict(instance)
        if "batch_fn" not in attributes:
            raise AttributeError("batch_fn")
        batch_fn = attributes["batch_fn"]
        if threading.current_thread() is not attributes.get("worker_thread"):
            return batch_fn
        return self._carrying(instance, batch_fn)

    def __set__(self, instance: Any, batch_fn: Any) -> None:
        instance_dict(instance)["batch_fn"] = batch_fn

    def __delete__(self, instance: Any) -> None:
        if instance_dict(instance).pop("batch_fn", None) is None:
            raise AttributeError("batch_fn")

    def _carrying(self, _unbatchify: Any, _batch_fn: Callable[[Any], Any]) -> Any:
        _context_of, _current = self._waiting.context_of, context_api.get_current
        _attach, _detach, _hide = context_api.attach, context_api.detach, hide_frame

        def batch_fn(items: Any) -> Any:
            _token = _attach(_context_of(_unbatchify, items) or _current())
            try:
                return _batch_fn(items)
            except BaseException as _error:
                _hide(_error)
                raise
            finally:
                _detach(_token)

        return as_dspy_frame(batch_fn, _batch_fn)
