# Copyright The opentelemetry-instrumentation-dspy Authors
# SPDX-License-Identifier: Apache-2.0
"""Protection of the global tracer provider from MLflow while both share it.

With ``MLFLOW_USE_DEFAULT_TRACER_PROVIDER=false`` MLflow treats OpenTelemetry's global provider as
its own. ``mlflow.set_experiment()`` resets it. ``mlflow.tracing.disable()``, and saving or loading
a model, replace it by a provider that makes no spans, so that the whole program would no longer be
traced. This module limits the effect of these calls to spans that MLflow makes.

``mlflow.genai.evaluate()`` calls the program once before it scores anything, to learn whether the
program is traced. This call has no trace without the bridge, so it has no trace with the bridge.

The bridge stops and resumes with ``mlflow.tracing.disable()`` and ``enable()``. MLflow has no event
for this, and a look at its state for every span would be expensive. Both functions call
``_initialize_tracer_provider``, which is replaced here in any case. MLflow does not call it while
it saves or loads a model.

The replaced names are not documented, but are the same from MLflow 3.15 to 3.17. No other file
replaces them.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from contextvars import Token
from typing import Any, Final, cast

from mlflow.environment_variables import MLFLOW_USE_DEFAULT_TRACER_PROVIDER
from mlflow.tracing import provider as mlflow_tracing
from opentelemetry import trace
from opentelemetry.context import Context, attach, detach
from opentelemetry.trace import NonRecordingSpan, SpanContext, set_span_in_context

from mlflow_bridge._process.rng import rng

_wrapper: Final = cast("Any", mlflow_tracing.provider)
_Wrapper: Final = cast("Any", type(_wrapper))
_initialize: Final[Any] = getattr(mlflow_tracing, "_initialize_tracer_provider")  # noqa: B009
_REPLACED: Final = ("get", "set", "reset", "_swap_raw", "once")


# MLflow replaces this method during the trial call, to count the spans that the program starts.
_start_span: Final = trace.NoOpTracer.start_span


class _TrialCall:
    """The context of MLflow's trial call, in which the program's thread makes no spans."""

    def __init__(self) -> None:
        self._thread = 0
        self._token: Token[Context] | None = None

    def begin(self) -> None:
        """Enter the context if MLflow is about to make its trial call."""
        if trace.NoOpTracer.start_span is _start_span or self._token is not None:
            return
        self._thread = threading.get_ident()
        # Children of an unsampled span are not recorded, whatever library makes them.
        unsampled = SpanContext(rng.getrandbits(128) or 1, rng.getrandbits(64) or 1, False)
        self._token = attach(set_span_in_context(NonRecordingSpan(unsampled)))

    def end(self) -> None:
        """Leave the context, if the thread has entered it."""
        token = self._token
        if token is not None and self._thread == threading.get_ident():
            self._token = None
            detach(token)


_trial_call: Final = _TrialCall()


def _is_apart() -> bool:
    return bool(MLFLOW_USE_DEFAULT_TRACER_PROVIDER.get())


class _Switch:
    """The function to call when a program switches MLflow's tracing off or on."""

    listener: Callable[[bool], None] | None = None

    def report(self, *, is_enabled: bool) -> None:
        if self.listener is not None:
            self.listener(is_enabled)


_switch: Final = _Switch()


class _SharedProvider(_Wrapper):
    """MLflow's access to its tracer provider. A shared, global provider is only read."""

    _instead: trace.TracerProvider | None = None
    """The provider for MLflow's spans instead of the global one, such as a no-op provider."""

    def get(self) -> Any:
        if _is_apart():
            return _Wrapper.get(self)
        return self._instead or trace.get_tracer_provider()

    def set(self, tracer_provider: Any) -> None:
        if _is_apart():
            _Wrapper.set(self, tracer_provider)
        else:
            self._instead = tracer_provider

    def reset(self) -> None:
        if _is_apart():
            _Wrapper.reset(self)
        else:
            self._instead = None
            _switch.report(is_enabled=True)

    def _swap_raw(self, tracer_provider: Any) -> Any:
        if _is_apart():
            return _Wrapper._swap_raw(self, tracer_provider)
        # MLflow calls this in pairs: the second call restores the value that the first returned.
        if isinstance(tracer_provider, trace.NoOpTracerProvider):
            _trial_call.begin()
        else:
            _trial_call.end()
        replaced, self._instead = self._instead, tracer_provider
        return replaced


def _initialize_shared(disabled: bool = False) -> None:
    """Replacement of the function by which MLflow prepares tracing and switches it off or on."""
    if _is_apart():
        _initialize(disabled=disabled)
    else:
        # MLflow's function would add a processor and open the store on this thread.
        _wrapper.set(trace.NoOpTracerProvider() if disabled else None)
    _switch.report(is_enabled=not disabled)


def watch_switch(listener: Callable[[bool], None]) -> None:
    """Call a function when MLflow's tracing is switched off or on, and once now.

    Args:
        listener: Gets whether MLflow's tracing is on. It must not raise.

    Raises:
        AttributeError: This version of MLflow does not have the names that this needs.
    """
    is_enabled = mlflow_tracing.is_tracing_enabled()
    _switch.listener = listener
    setattr(mlflow_tracing, "_initialize_tracer_provider", _initialize_shared)  # noqa: B010
    listener(is_enabled)


def leave_switch() -> None:
    """Undo `watch_switch`."""
    _switch.listener = None
    if _wrapper.__class__ is _Wrapper:
        setattr(mlflow_tracing, "_initialize_tracer_provider", _initialize)  # noqa: B010


def share_provider() -> None:
    """Make MLflow read the global provider without replacing it. May be repeated.

    Raises:
        AttributeError: This version of MLflow does not have the names to replace.
    """
    for name in _REPLACED:
        getattr(_Wrapper, name)
    is_off = not mlflow_tracing.is_tracing_enabled()
    _wrapper.__class__ = _SharedProvider
    if is_off:
        # Else enable() would find it on, and report nothing.
        _wrapper._instead = trace.NoOpTracerProvider()
    setattr(mlflow_tracing, "_initialize_tracer_provider", _initialize_shared)  # noqa: B010


def give_back_provider() -> None:
    """Undo `share_provider`."""
    _wrapper.__class__ = _Wrapper
    if _switch.listener is None:
        setattr(mlflow_tracing, "_initialize_tracer_provider", _initialize)  # noqa: B010
