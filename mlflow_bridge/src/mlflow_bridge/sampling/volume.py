# Copyright The opentelemetry-instrumentation-dspy Authors
# SPDX-License-Identifier: Apache-2.0
"""Sampling inside of optimizers and evaluations, which call a program thousands of times."""

from __future__ import annotations

from typing import Final

from mlflow_bridge._config.settings import MLflowDSPyConfig, Volume
from mlflow_bridge._process.rng import rng
from opentelemetry.instrumentation.dspy import DSPyCall
from opentelemetry.instrumentation.dspy.semconv import Operations

_RUNS: Final = (Operations.COMPILE, Operations.EVALUATE)


class VolumePolicy:
    """Decides which calls inside of a sampled trace are recorded. Thread-safe."""

    def __init__(self, config: MLflowDSPyConfig) -> None:
        self._optimizers: Volume = config.sampling_optimizers
        self._evaluations: Volume = config.sampling_evaluations
        self._share = config.sampling_summary_rate
        self._is_full = self._optimizers == self._evaluations == "full"

    def records(self, call: DSPyCall) -> bool:
        """Whether to record the span that is being started for the call.

        This is not called below a span that is not recorded.
        """
        if self._is_full:
            return True
        if is_run(call):
            return self._volume_around(call) != "off"
        parent = call.parent
        if parent is None or not _is_frame(parent) or self._volume_around(parent) == "full":
            return True
        # Only a direct call of a frame is sampled. Calls inside it have another parent, and follow.
        return _is_frame(call) or rng.random() < self._share

    def _volume_around(self, call: DSPyCall) -> Volume:
        enclosing: DSPyCall | None = call
        while enclosing is not None:
            if enclosing.operation_name == Operations.COMPILE:
                return self._optimizers
            enclosing = enclosing.parent
        return self._evaluations


def is_run(call: DSPyCall) -> bool:
    """Whether the call is a run of an optimizer or an evaluation."""
    return call.operation_name in _RUNS


def is_example(call: DSPyCall) -> bool:
    """Whether the call is an example, which follows its evaluation also as a trace of its own."""
    return call.operation_name == Operations.EXAMPLE


def _is_frame(call: DSPyCall) -> bool:
    """Whether a summary always includes this call: a run, or a parallel call that divides it."""
    enclosing: DSPyCall | None = call
    while enclosing is not None and enclosing.operation_name == Operations.PARALLEL:
        enclosing = enclosing.parent
    return enclosing is not None and is_run(enclosing)
