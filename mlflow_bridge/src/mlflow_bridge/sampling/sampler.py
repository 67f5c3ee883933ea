# Copyright The opentelemetry-instrumentation-dspy Authors
# SPDX-License-Identifier: Apache-2.0
"""A head sampler for traces of DSPy programs and other traces."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final

from opentelemetry.context import Context
from opentelemetry.sdk.trace.sampling import Decision, Sampler, SamplingResult
from opentelemetry.trace import Link, SpanContext, SpanKind, TraceState, get_current_span
from opentelemetry.util.types import Attributes

from mlflow_bridge._config.resolved import resolve_config
from mlflow_bridge._config.settings import SAMPLING_FIELDS, ConfigurationError, MLflowDSPyConfig
from mlflow_bridge._process.interruption import belongs_to_program
from mlflow_bridge._process.rate_limited_log import RateLimitedLogger
from mlflow_bridge._spans.names import SAMPLING_PROBABILITY, SAMPLING_RANDOMNESS
from mlflow_bridge.sampling.keys import is_in_share, key_in, number_of
from mlflow_bridge.sampling.volume import VolumePolicy, is_example, is_run
from opentelemetry.instrumentation.dspy import DSPyCall, current_dspy_call
from opentelemetry.instrumentation.dspy.semconv import DSPY_MODULE_TYPE, DSPY_OPERATION

_logger = logging.getLogger(__name__)

_NOTHING: Final[Mapping[str, Any]] = {}


class DSPySampler(Sampler):
    """Head sampler that records a share of traces, each with all of its spans.

    The first span of a trace decides, by its program, session or arguments, before values are
    serialised. Spans below it follow their parent's decision, also in other processes.

    Each run of an optimizer or evaluation is recorded at any share, unless a setting excludes it.
    Settings can also exclude spans below such a run.

    The decision holds for all exporters of the tracer provider. Metrics also count calls that are
    not recorded.

    Args:
        config: The settings, of which those with the prefix ``sampling_`` are used. Default: the
            environment; a wrong value there is logged, not raised.
        rate_of: A function of the DSPy call that begins a trace; it must not change the call.
            It returns the share of such calls to record, 0 to 1, or None to use the settings.
            Default: ``sampling_rate_of``.
        key_of: A function of the same call that replaces ``sampling_key``. Traces whose keys have
            the same text are recorded together or not at all. Default: ``sampling_key_of``.

    Raises:
        ConfigurationError: ``config`` is not an `MLflowDSPyConfig`.

    Example:
        >>> def rate_of(call):
        ...     return 1.0 if call.kwargs.get("tenant") == "new" else None
        >>> TracerProvider(sampler=DSPySampler(rate_of=rate_of))  # doctest: +SKIP
    """

    def __init__(
        self,
        config: MLflowDSPyConfig | None = None,
        *,
        rate_of: Callable[[DSPyCall], float | None] | None = None,
        key_of: Callable[[DSPyCall], object] | None = None,
    ) -> None:
        self._config = resolve_config({}).config if config is None else config
        if not isinstance(self._config, MLflowDSPyConfig):  # pyright: ignore[reportUnnecessaryIsInstance]
            raise ConfigurationError(
                f"config is a {type(config).__name__}; accepted: an MLflowDSPyConfig, or None"
            )
        self._rate_of: Callable[[DSPyCall], float | None] | None = (
            self._config.sampling_rate_of if rate_of is None else rate_of
        )
        self._key_of: Callable[[DSPyCall], object] | None = (
            self._config.sampling_key_of if key_of is None else key_of
        )
        self._volume = VolumePolicy(self._config)
        self._log = RateLimitedLogger(_logger)

    @property
    def config(self) -> MLflowDSPyConfig:
        """The settings in use."""
        return self._config

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
        """Decide whether a span is recorded. Never raises; after an error the span is recorded."""
        parent = get_current_span(parent_context).get_span_context()
        known = attributes or _NOTHING
        drawn: dict[str, Any] = {}
        if parent.is_valid and not parent.trace_flags.sampled:
            records = False
        else:
            records = self._decided(parent, parent_context, trace_id, known, drawn)
        if drawn:
            attributes = {**known, **drawn}
        return SamplingResult(
            Decision.RECORD_AND_SAMPLE if records else Decision.DROP,
            # The SDK takes the attributes of the span from this result, not from the caller.
            attributes if records else None,
            parent.trace_state if parent.is_valid else trace_state,
        )

    def get_description(self) -> str:
        """A description with the sampling settings that differ from their defaults."""
        fields = type(self._config).model_fields
        shown = [
            f"{name.removeprefix('sampling_')}={_shown(value)}"
            for name in SAMPLING_FIELDS
            if (value := getattr(self._config, name)) != fields[name].default
        ]
        return f"DSPySampler{{{','.join(shown)}}}"

    def _decided(
        self,
        parent: SpanContext,
        context: Context | None,
        trace_id: int,
        attributes: Mapping[str, Any],
        drawn: dict[str, Any],
    ) -> bool:
        try:
            # For a span of another library, current_dspy_call() is the call around that span.
            call = current_dspy_call(context) if DSPY_OPERATION in attributes else None
            if call is not None and not self._volume.records(call):
                return False
            if parent.is_valid or (call is not None and (is_run(call) or is_example(call))):
                return True
            return self._draw(context, call, trace_id, attributes, drawn)
        except Exception as error:
            if belongs_to_program(error):
                raise
            self._warn("DSPySampler", error)
            return True

    def _draw(
        self,
        context: Context | None,
        call: DSPyCall | None,
        trace_id: int,
        attributes: Mapping[str, Any],
        drawn: dict[str, Any],
    ) -> bool:
        """Whether a trace that begins here is recorded; adds what is to be known of it later."""
        number = self._number(context, call, trace_id, attributes)
        share = self._share(call, attributes)
        if 0 < share < 1:
            drawn[SAMPLING_PROBABILITY] = share
            if number != trace_id:
                drawn[SAMPLING_RANDOMNESS] = f"{number:016x}"
        return is_in_share(number, share)

    def _share(self, call: DSPyCall | None, attributes: Mapping[str, Any]) -> float:
        if self._rate_of is not None and call is not None:
            try:
                share = self._rate_of(call)
                if share is not None:
                    return min(max(float(share), 0.0), 1.0)
            except Exception as error:
                if belongs_to_program(error):
                    raise
                self._warn("rate_of", error)
        config = self._config
        module_type = str(attributes.get(DSPY_MODULE_TYPE))
        return config.sampling_modules.get(module_type, config.sampling_rate)

    def _number(
        self,
        context: Context | None,
        call: DSPyCall | None,
        trace_id: int,
        attributes: Mapping[str, Any],
    ) -> int:
        key: object = None
        try:
            if self._key_of is not None:
                key = self._key_of(call) if call is not None else None
            else:
                key = key_in(self._config.sampling_key, context, call, attributes)
            return trace_id if key is None else number_of(key)
        except Exception as error:
            if belongs_to_program(error):
                raise
            self._warn("the key of a trace", error)
            return trace_id

    def _warn(self, what: str, error: Exception) -> None:
        # Without the message of the error, which may repeat the arguments of a call.
        self._log.warning(
            what, "Sampling: %s raised %s and is ignored.", what, type(error).__name__
        )


def _shown(value: object) -> object:
    return getattr(value, "__qualname__", type(value).__name__) if callable(value) else value


class DSPyCallsSampler(DSPySampler):
    """Sampler for the tracer of DSPy alone, in a provider that has a sampler of its own.

    A span is recorded if both samplers say so. The settings decide about outermost calls of DSPy,
    whether or not a span of another library is around them; calls below follow. By the same number,
    a `DSPySampler` as the provider's sampler would choose the same traces.

    Args:
        other: The provider's sampler.
        config: The settings.
    """

    def __init__(self, other: Sampler, config: MLflowDSPyConfig) -> None:
        super().__init__(config)
        self._other = other

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
        """Decide whether a span is recorded. Raises only what the provider's sampler raises."""
        drawn: dict[str, Any] = {}
        if self._accepts(parent_context, trace_id, attributes or _NOTHING, drawn):
            if drawn:
                attributes = {**(attributes or _NOTHING), **drawn}
            return self._other.should_sample(
                parent_context, trace_id, name, kind, attributes, links, trace_state
            )
        parent = get_current_span(parent_context).get_span_context()
        return SamplingResult(
            Decision.DROP, None, parent.trace_state if parent.is_valid else trace_state
        )

    def get_description(self) -> str:
        """A description with both samplers."""
        return f"{super().get_description()} and {self._other.get_description()}"

    def _accepts(
        self,
        context: Context | None,
        trace_id: int,
        attributes: Mapping[str, Any],
        drawn: dict[str, Any],
    ) -> bool:
        try:
            call = current_dspy_call(context) if DSPY_OPERATION in attributes else None
            if call is None:
                return True
            if not self._volume.records(call):
                return False
            if call.parent is not None or is_run(call):
                return True
            return self._draw(context, call, trace_id, attributes, drawn)
        except Exception as error:
            if belongs_to_program(error):
                raise
            self._warn("DSPySampler", error)
            return True
