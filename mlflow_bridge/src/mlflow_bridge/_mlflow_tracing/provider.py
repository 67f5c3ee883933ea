# Copyright The opentelemetry-instrumentation-dspy Authors
# SPDX-License-Identifier: Apache-2.0
"""Keeps MLflow from taking the program's tracer provider away while both share it.

With ``MLFLOW_USE_DEFAULT_TRACER_PROVIDER=false`` MLflow regards OpenTelemetry's global provider as
its own: ``mlflow.set_experiment()`` forgets it, and ``mlflow.tracing.disable()``, as well as saving
or loading a model, puts one in its place that makes no spans. From then on nothing in the program
would be traced. Here such steps have effect on the spans that MLflow makes, and on no others.

What is replaced is no documented interface, but the same from MLflow 3.15 to 3.17; this is the only
file that replaces it.
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
    """MLflow's way to its tracer provider. Where that is shared, the global one is only read."""

    _instead: trace.TracerProvider | None = None
    """What makes MLflow's spans in place of the global provider: one that makes none, or None."""

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
        # The first and the last call of a pair: what MLflow puts back is what it was given.
        replaced, self._instead = self._instead, tracer_provider
        return replaced


def _initialize_shared(disabled: bool = False) -> None:
    """What MLflow calls before its first span, and to switch its tracing off or on."""
    if _is_apart():
        _initialize(disabled=disabled)
    else:
        # The processor is there already, and MLflow's store need not be opened on this thread.
        _wrapper.set(trace.NoOpTracerProvider() if disabled else None)


def share_provider() -> None:
    """Have MLflow read the global provider, and never replace it. May be repeated.

    Raises:
        AttributeError: This MLflow does not have what is to be replaced.
    """
    for name in _REPLACED:
        getattr(_Wrapper, name)
    _wrapper.__class__ = _SharedProvider
    setattr(mlflow_tracing, "_initialize_tracer_provider", _initialize_shared)  # noqa: B010


def give_back_provider() -> None:
    """Undo `share_provider`."""
    _wrapper.__class__ = _Wrapper
    setattr(mlflow_tracing, "_initialize_tracer_provider", _initialize)  # noqa: B010
