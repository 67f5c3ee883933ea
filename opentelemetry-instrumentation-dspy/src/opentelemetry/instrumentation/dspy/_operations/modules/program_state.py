# Copyright The opentelemetry-instrumentation-dspy Authors
# SPDX-License-Identifier: Apache-2.0
"""Descriptions of programs, from which the program that made a trace can be built again."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from functools import partial
from typing import Any, Final, cast

import dspy
from opentelemetry.instrumentation.dspy._calls.call import Attributes, Call, Runtime
from opentelemetry.instrumentation.dspy._content.encoder import ContentEncoder
from opentelemetry.instrumentation.dspy.api import ProgramHook
from opentelemetry.instrumentation.dspy.semconv import DSPY_PROGRAM_HASH, DSPY_TRUNCATED

_OPERATION: Final = "program"
_STATE: Final = "program.state"
# A state is not cut: a part of it is of no use.
_MAX_CHARACTERS: Final = 2**26


class ShownPrograms:
    """Calls the hook of the setting ``program_hook``.

    Args:
        runtime: The state of the instrumentation.
        hook: The hook.
    """

    def __init__(self, runtime: Runtime, hook: ProgramHook) -> None:
        self._hook = hook
        settings = replace(runtime.settings, max_content_length=_MAX_CHARACTERS)
        self._encoder = ContentEncoder(settings, None, runtime.redactor)

    def show(self, call: Call, attributes: Attributes) -> None:
        """Call the hook with the module of a call, if the module has a hash."""
        digest = attributes.get(DSPY_PROGRAM_HASH)
        if digest is not None and call.span is not None:
            self._hook(call.span, digest, partial(self._described, call.instance))

    def _described(self, program: Any) -> str | None:
        found: Attributes = {}
        self._encoder.put(found, _STATE, _OPERATION, _description(program))
        return None if DSPY_TRUNCATED in found else found.get(_STATE)


def shown_programs(runtime: Runtime) -> ShownPrograms | None:
    """The caller of the hook of the settings; None without a hook."""
    hook = runtime.settings.program_hook
    return None if hook is None else ShownPrograms(runtime, hook)


def _description(program: Any) -> dict[str, Any]:
    kind: type[Any] = type(program)  # type: ignore[reportUnknownVariableType]
    return {
        "class": f"{kind.__module__}:{kind.__qualname__}",
        "dspy_version": dspy.__version__,
        "state": _kept(program.dump_state()),
        "predictors": {
            path: _predictor(predictor) for path, predictor in program.named_predictors()
        },
    }


def _kept(state: Mapping[str, Any]) -> dict[str, Any]:
    """The state of a program, or of a predictor, without what a loaded program does not need.

    A program that is loaded is given its language models again.
    """
    if "signature" in state:
        return {**state, "lm": None, "traces": [], "train": []}
    return {
        name: _kept(cast("Mapping[str, Any]", item)) if isinstance(item, Mapping) else item
        for name, item in state.items()
    }


def _predictor(predictor: Any) -> dict[str, Any]:
    signature = predictor.signature
    sides = (signature.input_fields, signature.output_fields)
    texts = [", ".join(f"{name}: {_type(field)}" for name, field in side.items()) for side in sides]
    kind: type[Any] = type(predictor)  # type: ignore[reportUnknownVariableType]
    return {
        "class": f"{kind.__module__}:{kind.__qualname__}",
        "signature": " -> ".join(texts),
        "instructions": signature.instructions,
    }


def _type(field: Any) -> str:
    annotation = field.annotation
    if isinstance(annotation, type) and not getattr(annotation, "__args__", None):
        return annotation.__name__
    return str(annotation).replace("typing.", "")
