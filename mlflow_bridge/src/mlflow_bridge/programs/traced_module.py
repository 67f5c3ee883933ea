# Copyright The opentelemetry-instrumentation-dspy Authors
# SPDX-License-Identifier: Apache-2.0
"""A DSPy program together with the name, tags and metadata of its traces."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import partialmethod
from typing import Any, Final

import dspy

from mlflow_bridge._spans.enclosed_calls import continued
from mlflow_bridge._spans.trace_context import TraceContextBlock, texts_of, trace_context

_OWN: Final = frozenset(
    {
        "_acall",
        "_around",
        "_call",
        "_state",
        "acall",
        "aforward",
        "batch",
        "deepcopy",
        "forward",
        "map_named_predictors",
        "reset_copy",
        "set_metadata",
    }
)
"""Names that are not those of the wrapped module."""
_STATE: Final = "_traced_state"
_IDENTITY: Final = ("session_id", "user_id")


@dataclass(frozen=True)
class _State:
    module: dspy.Module
    name: str | None
    tags: Mapping[str, str]
    metadata: Mapping[str, str]
    identity: Mapping[str, Any] = field(default_factory=dict[str, Any])

    def block(self) -> TraceContextBlock:
        """A block around one call."""
        return trace_context(
            name=self.name, tags=self.tags, metadata=self.metadata, **self.identity
        )


class TracedModule(dspy.Module):
    """A module whose traces have a name, tags, metadata, session and user. It adds no span.

    One call is one trace, by ``traced(...)`` as by ``traced.forward(...)``; a call inside of a
    running trace gives the values to that trace. In all other respects it is the wrapped module:
    attributes are read from it and written to it, its predictors have their own names, and
    ``save`` writes its state, which ``load`` reads with the wrapper or without. Copies, also those
    that an optimizer compiles, are traced as well. The prompts are the same.

    The tracing itself is that of the process: see `autolog`.

    Args:
        module: The module to call.
        name: Name of the traces in MLflow, instead of the module's name.
        tags: Tags of the traces. Values that are not strings become strings.
        metadata: Metadata of the traces, as in `set_metadata`.

    Raises:
        TypeError: ``module`` is not a DSPy module.

    Example:
        >>> traced = TracedModule(dspy.Predict("question -> answer"), name="qa", tags={"team": "a"})
    """

    def __init__(
        self,
        module: dspy.Module,
        name: str | None = None,
        tags: Mapping[str, object] | None = None,
        metadata: Mapping[str, object] | None = None,
    ) -> None:
        if not isinstance(module, dspy.Module):
            raise TypeError(f"module is a {type(module).__name__}; accepted: a dspy.Module")
        # Without what DSPy has put there: the wrapped module has its own.
        self.__dict__.clear()
        self.__dict__[_STATE] = _State(module, name, texts_of(tags), {})
        if metadata is not None:
            self.set_metadata(metadata)

    def set_metadata(self, metadata: Mapping[str, object]) -> None:
        """Add metadata to the traces of later calls; the same keys are replaced.

        ``session_id`` and ``user_id`` become session and user of the traces. Calls that run at the
        same time with different values need `trace_context`, or a ``TracedModule`` each.

        Args:
            metadata: Metadata by key. Values that are not strings become strings.
        """
        state = self._state
        own = {key: value for key, value in metadata.items() if key not in _IDENTITY}
        identity = {key: metadata[key] for key in _IDENTITY if key in metadata}
        self.__dict__[_STATE] = replace(
            state,
            metadata={**state.metadata, **texts_of(own)},
            identity={**state.identity, **identity},
        )

    def _call(self, /, *args: Any, **kwargs: Any) -> Any:
        state = self._state
        with state.block():
            result = state.module(*args, **kwargs)
        return continued(result, state.block)

    async def _acall(self, /, *args: Any, **kwargs: Any) -> Any:
        state = self._state
        with state.block():
            result = await state.module.acall(*args, **kwargs)
        return continued(result, state.block)

    # Not as functions: the instrumentation traces the functions of these names in classes of
    # programs, and this class adds no span.
    __call__ = partialmethod(_call)
    acall = partialmethod(_acall)

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """Call the wrapped module, as ``__call__`` does."""
        return self(*args, **kwargs)

    async def aforward(self, *args: Any, **kwargs: Any) -> Any:
        """Call the wrapped module's ``acall``."""
        return await self.acall(*args, **kwargs)

    def deepcopy(self) -> TracedModule:
        """A traced copy of the wrapped module, by the module's own ``deepcopy``."""
        return self._around(self._state.module.deepcopy())

    def reset_copy(self) -> TracedModule:
        """A traced copy of the wrapped module without demos and other learned values."""
        return self._around(self._state.module.reset_copy())

    def map_named_predictors(self, func: Any) -> TracedModule:
        """Replace the predictors of the wrapped module; return this module."""
        self._state.module.map_named_predictors(func)
        return self

    def __getattribute__(self, name: str) -> Any:
        own = object.__getattribute__(self, "__dict__").get(_STATE)
        # Without a state, the object is just being made or unpickled.
        if own is None or name in _OWN or name.startswith("__"):
            return object.__getattribute__(self, name)
        return getattr(own.module, name)

    def __setattr__(self, name: str, value: Any) -> None:
        state = self.__dict__.get(_STATE)
        if state is None:
            object.__setattr__(self, name, value)
        else:
            setattr(state.module, name, value)

    def __delattr__(self, name: str) -> None:
        delattr(self._state.module, name)

    def __dir__(self) -> list[str]:
        return sorted({*object.__dir__(self), *dir(self._state.module)})

    def __repr__(self) -> str:
        return f"TracedModule({self._state.module!r})"

    def __getstate__(self) -> dict[str, Any]:
        return {_STATE: self._state}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)

    @property
    def _state(self) -> _State:
        try:
            return self.__dict__[_STATE]
        except KeyError:
            raise AttributeError(_STATE) from None

    def _around(self, module: dspy.Module) -> TracedModule:
        copied = object.__new__(type(self))
        copied.__dict__[_STATE] = replace(self._state, module=module)
        return copied
