# Copyright The opentelemetry-instrumentation-dspy Authors
# SPDX-License-Identifier: Apache-2.0
"""Detection of other active instrumentations of DSPy, which would trace and count every call twice.

They are not changed; one warning says how to switch one of them off."""

from __future__ import annotations

import logging
import sys
from collections.abc import Callable, Iterator
from typing import Any

logger = logging.getLogger(__name__)

_INSTRUMENTORS = {
    "openinference.instrumentation.dspy": "openinference-instrumentation-dspy",
    "opentelemetry.instrumentation.genai.dspy": "opentelemetry-instrumentation-genai-dspy",
}
_MLFLOW_CALLBACK = "mlflow.dspy.callback"
_MODULES = frozenset({*_INSTRUMENTORS, _MLFLOW_CALLBACK})


class PeerCheck:
    """A check for peers, repeated until it finds one, since they may be activated after us.

    Called for the outermost calls of programs, so it only does look-ups and imports nothing.
    """

    def __init__(self) -> None:
        self._warned = False

    def __call__(self) -> None:
        if self._warned or sys.modules.keys().isdisjoint(_MODULES):
            return
        found = list(_active_peers())
        if not found:
            return
        self._warned = True
        logger.warning(
            "DSPy is also traced by %s: every call is traced twice. Switch one of them off: "
            "uninstrument() it, mlflow.dspy.autolog(disable=True), or under "
            "opentelemetry-instrument OTEL_PYTHON_DISABLED_INSTRUMENTATIONS=dspy "
            "(this one is called dspy_otel).",
            " and ".join(found),
        )


def _active_peers() -> Iterator[str]:
    for module_name, distribution in _INSTRUMENTORS.items():
        instrumentor = getattr(sys.modules.get(module_name), "DSPyInstrumentor", None)
        if instrumentor is not None and _is_active(instrumentor):
            yield distribution
    if _MLFLOW_CALLBACK in sys.modules and any(map(_is_mlflows, _callbacks())):
        yield "mlflow.dspy.autolog()"


def _is_active(instrumentor: Callable[[], Any]) -> bool:
    # A singleton: if an instance exists, calling the class returns it.
    return bool(getattr(instrumentor(), "is_instrumented_by_opentelemetry", False))


def _callbacks() -> list[Any]:
    dspy = sys.modules["dspy"]
    return list(dspy.settings.get("callbacks") or ())


def _is_mlflows(callback: Any) -> bool:
    return type(callback).__module__ == _MLFLOW_CALLBACK
