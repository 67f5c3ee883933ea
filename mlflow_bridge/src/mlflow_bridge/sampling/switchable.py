# Copyright The opentelemetry-instrumentation-dspy Authors
# SPDX-License-Identifier: Apache-2.0
"""Samplers that follow settings at run time, in the tracer providers of a program."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final, cast
from weakref import WeakSet

from opentelemetry.context import Context
from opentelemetry.sdk.trace.sampling import Sampler, SamplingResult
from opentelemetry.trace import Link, SpanKind, Tracer, TracerProvider, TraceState
from opentelemetry.util.types import Attributes

from mlflow_bridge._config.settings import SAMPLING_FIELDS, MLflowDSPyConfig
from mlflow_bridge.sampling.sampler import DSPyCallsSampler, DSPySampler


class SwitchableSampler(Sampler):
    """A sampler that decides as another one does, which can be exchanged. Thread-safe.

    The children of a span follow its decision, so that an exchange divides no trace.

    Args:
        sampler: Decides at first.
    """

    def __init__(self, sampler: Sampler) -> None:
        self.original: Final = sampler
        self.switch(sampler)

    @property
    def current(self) -> Sampler:
        """The sampler that decides."""
        return self._current

    def switch(self, sampler: Sampler) -> None:
        """Let another sampler decide from now on."""
        self._current = sampler
        # In front of the method, so that a span costs a look-up more, and no call.
        vars(self)["should_sample"] = sampler.should_sample

    def should_sample(
        self,
        parent_context: Context | None,
        trace_id: int,
        name: str,
        kind: SpanKind | None = None,
        attributes: Attributes = None,
        links: Sequence[Link] | None = None,
        trace_state: TraceState | None = None,
    ) -> SamplingResult:
        """Decide whether a span is recorded."""
        return self._current.should_sample(
            parent_context, trace_id, name, kind, attributes, links, trace_state
        )

    def get_description(self) -> str:
        """The description of the sampler that decides."""
        return self._current.get_description()


class SampledTracerProvider(TracerProvider):
    """A program's tracer provider for DSPy alone: its tracers also follow the sampling settings.

    The sampler of the provider stays. Only the tracer of the instrumentation of DSPy asks the
    settings first, so that they decide about DSPy's outermost calls.

    Args:
        provider: The tracer provider, for which `can_be_sampled` holds.
        config: The settings.
    """

    def __init__(self, provider: Any, config: MLflowDSPyConfig) -> None:
        self._provider = provider
        self._config = config
        self._samplers: list[SwitchableSampler] = []
        _sampled.add(provider)

    @property
    def provider(self) -> object:
        """The tracer provider of the program."""
        return self._provider

    def get_tracer(
        self,
        instrumenting_module_name: str,
        instrumenting_library_version: str | None = None,
        schema_url: str | None = None,
        attributes: Attributes = None,
    ) -> Tracer:
        """A tracer of the provider, with a sampler of its own."""
        tracer: Any = self._provider.get_tracer(
            instrumenting_module_name, instrumenting_library_version, schema_url, attributes
        )
        found = getattr(tracer, "sampler", None)
        if isinstance(found, Sampler):
            # The SDK returns the same tracer again, which may have this sampler already.
            sampler = found if isinstance(found, SwitchableSampler) else SwitchableSampler(found)
            self._apply(sampler)
            tracer.sampler = sampler
            self._samplers.append(sampler)
        return cast("Tracer", tracer)

    def use(self, config: MLflowDSPyConfig) -> None:
        """Follow other settings from the next outermost call on."""
        self._config = config
        for sampler in self._samplers:
            self._apply(sampler)

    def close(self) -> None:
        """Let the sampler of the provider decide alone again."""
        _sampled.discard(self._provider)
        for sampler in self._samplers:
            sampler.switch(sampler.original)

    def _apply(self, sampler: SwitchableSampler) -> None:
        own = sampler.original
        is_needed = bool(given_settings(self._config))
        sampler.switch(DSPyCallsSampler(own, self._config) if is_needed else own)


_sampled: Final[WeakSet[Any]] = WeakSet()


def can_be_sampled(provider: object) -> bool:
    """Whether the settings can decide together with the sampler of a provider like the SDK's.

    A program that has given the provider a `DSPySampler` has given that sampler its settings.
    """
    sampler: object = getattr(provider, "sampler", None)
    return isinstance(sampler, Sampler) and DSPySampler.__name__ not in sampler.get_description()


def is_sampled(provider: object) -> bool:
    """Whether there is a `SampledTracerProvider` for this provider."""
    return provider in _sampled


def given_settings(config: MLflowDSPyConfig) -> list[str]:
    """Names of the sampling settings that code or the environment has given."""
    return [name for name in SAMPLING_FIELDS if name in config.model_fields_set]
