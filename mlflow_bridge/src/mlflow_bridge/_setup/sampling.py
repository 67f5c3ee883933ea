# Copyright The opentelemetry-instrumentation-dspy Authors
# SPDX-License-Identifier: Apache-2.0
"""The settings of sampling in the tracer provider of `autolog`."""

from __future__ import annotations

import logging
from typing import Any

from mlflow_bridge._config.base import report_once
from mlflow_bridge._config.settings import MLflowDSPyConfig
from mlflow_bridge.sampling.entry_point import use_sampling, warn_of_unused_settings
from mlflow_bridge.sampling.switchable import (
    SampledTracerProvider,
    can_be_sampled,
    given_settings,
)


class SamplingInUse:
    """Lets a tracer provider follow the settings of sampling. Guarded by the caller's lock.

    A provider of the bridge has a sampler that is exchanged. The sampler of another provider stays,
    and the settings decide about DSPy's outermost calls.
    """

    def __init__(self) -> None:
        self._sampled: SampledTracerProvider | None = None

    def tracers(self, provider: Any) -> Any:
        """The tracer provider for the instrumentation of DSPy."""
        return provider if self._sampled is None else self._sampled

    def use(self, provider: object, config: MLflowDSPyConfig, *, instruments: bool) -> None:
        """Sample by these settings from now on.

        Args:
            provider: The provider that has the delivery.
            config: The settings.
            instruments: Whether DSPy is, or will be, instrumented with `tracers`.
        """
        if use_sampling(provider, config):
            return
        if self._sampled is not None:
            self._sampled.use(config)
        elif instruments and can_be_sampled(provider):
            self._sampled = SampledTracerProvider(provider, config)
        if self._sampled is None:
            warn_of_unused_settings(provider, config)
        else:
            _report_other_sampler(provider, config)

    def leave(self) -> None:
        """Let the sampler of the provider decide alone again."""
        if self._sampled is not None:
            self._sampled.close()
            self._sampled = None


def _report_other_sampler(provider: Any, config: MLflowDSPyConfig) -> None:
    given = given_settings(config)
    if given:
        report_once(
            f"{', '.join(given)}: decide about outermost calls of DSPy, since the tracer provider "
            f"keeps its own sampler ({provider.sampler.get_description()}).",
            level=logging.INFO,
        )
