# Copyright The opentelemetry-instrumentation-dspy Authors
# SPDX-License-Identifier: Apache-2.0
"""Protection of the global tracer provider from MLflow while both share it.

With ``MLFLOW_USE_DEFAULT_TRACER_PROVIDER=false`` MLflow treats OpenTelemetry's global provider as
its own. ``mlflow.set_experiment()`` resets it. ``mlflow.tracing.disable()``, and saving or loading
a model, replace it by a provider that makes no spans, so that the whole program would no longer be
traced. This module limits the effect of these calls to spans that MLflow makes.

The replaced names are not documented, but are the same from MLflow 3.15 to 3.17. No other file
replaces them.
"""

from __future__ import annotations

from typing import Any, Final, cast

from mlflow.environment_variables import MLFLOW_USE_DEFAULT_TRACER_PROVIDER
from mlflow.tracing import provider as mlflow_tracing
from opentelemetry import trace

_wrapper: Final = cast("Any", mlflow_tracing.provider)
_Wrapper: Final = cast("Any", type(_wrapper))
_initialize: Final[Any] = getattr(mlflow_tracing, "_initialize_tracer_provider")  # noqa: B009
_REPLACED: Final = ("get", "set", "reset", "_swap_raw", "once")


def _is_apart() -> bool:
    return bool(MLFLOW_USE_DEFAULT_TRACER_PROVIDER.get())


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

    def _swap_raw(self, tracer_provider: Any) -> Any:
        if _is_apart():
            return _Wrapper._swap_raw(self, tracer_provider)
        # MLflow calls this in pairs: the second call restores the value that the first returned.
        replaced, self._instead = self._instead, tracer_provider
        return replaced


def _initialize_shared(disabled: bool = False) -> None:
    """Replacement of the function by which MLflow prepares tracing and switches it off or on."""
    if _is_apart():
        _initialize(disabled=disabled)
    else:
        # MLflow's function would add a processor and open the store on this thread.
        _wrapper.set(trace.NoOpTracerProvider() if disabled else None)


def share_provider() -> None:
    """Make MLflow read the global provider without replacing it. May be repeated.

    Raises:
        AttributeError: This version of MLflow does not have the names to replace.
    """
    for name in _REPLACED:
        getattr(_Wrapper, name)
    _wrapper.__class__ = _SharedProvider
    setattr(mlflow_tracing, "_initialize_tracer_provider", _initialize_shared)  # noqa: B010


def give_back_provider() -> None:
    """Undo `share_provider`."""
    _wrapper.__class__ = _Wrapper
    setattr(mlflow_tracing, "_initialize_tracer_provider", _initialize)  # noqa: B010
