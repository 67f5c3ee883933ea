# Copyright The opentelemetry-instrumentation-dspy Authors
# SPDX-License-Identifier: Apache-2.0
"""Durations, token usage, cache look-ups and scores as OpenTelemetry metrics.

Measurements are read from the attributes that the span of a call has or would have. So metrics and
spans cannot disagree, and operations need no code for metrics. Only attributes of low cardinality
are passed on. ``gen_ai.*`` names and their bucket boundaries are those of the GenAI conventions.

Metrics do not depend on sampling: calls below an unsampled span are measured, too.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, Final

from opentelemetry.metrics import Histogram, Meter, MeterProvider, NoOpMeter, get_meter_provider

from opentelemetry.instrumentation.dspy._guarding import new_lock
from opentelemetry.instrumentation.dspy.semconv import (
    DSPY_EMBEDDER_CACHE_HIT,
    DSPY_LM_CACHE_HIT,
    DSPY_MODULE_TYPE,
    DSPY_OPERATION,
    DSPY_VERSION,
    ERROR_TYPE,
    GEN_AI_AGENT_NAME,
    GEN_AI_OPERATION_NAME,
    GEN_AI_PROVIDER_NAME,
    GEN_AI_REQUEST_MODEL,
    GEN_AI_RESPONSE_MODEL,
    GEN_AI_RESPONSE_TIME_TO_FIRST_CHUNK,
    GEN_AI_TOKEN_TYPE,
    GEN_AI_TOOL_NAME,
    GEN_AI_USAGE_INPUT_TOKENS,
    GEN_AI_USAGE_OUTPUT_TOKENS,
    GEN_AI_WORKFLOW_NAME,
    SCHEMA_URL,
    GenAIOperations,
    MetricNames,
    Operations,
    TokenTypes,
)
from opentelemetry.instrumentation.dspy.version import __version__

MEASURED: Final = frozenset(
    {
        Operations.LM,
        Operations.EMBEDDING,
        Operations.TOOL,
        Operations.MODULE,
        Operations.EVALUATE,  # the scores of its examples
    }
)
"""The operations (`Operation.name`) that are measured, whether or not their span is sampled."""

_SECONDS: Final = tuple(0.01 * 2**power for power in range(14))  # 10 ms to 82 s
_AGENT_SECONDS: Final = tuple(0.1 * 2**power for power in range(13))  # 100 ms to 7 min
_WORKFLOW_SECONDS: Final = (1, 5, 10, 30, 60, 120, 300, 600, 1800, 3600, 7200)
_TOKENS: Final = tuple(4**power for power in range(14))
# Most metrics return 0 to 1, and some 0 to 100.
_SCORES: Final = (*(number / 10 for number in range(11)), *range(10, 101, 10))

_CLIENT_CALLS: Final = frozenset({Operations.LM, Operations.EMBEDDING})
_CLIENT_ATTRIBUTES: Final = (GEN_AI_OPERATION_NAME, GEN_AI_PROVIDER_NAME, GEN_AI_REQUEST_MODEL)
_TOKEN_COUNTS: Final = (
    (GEN_AI_USAGE_INPUT_TOKENS, TokenTypes.INPUT),
    (GEN_AI_USAGE_OUTPUT_TOKENS, TokenTypes.OUTPUT),
)


class Metrics:
    """The instruments of one ``instrument()``. All methods may be called from any thread.

    Args:
        provider: The provider of the meter; None for the global provider, whenever it is set.
        dspy_version: An attribute of the instrumentation scope.

    Attributes:
        enabled: Whether anything is recorded. False until there is a provider other than the API's
            placeholder; no instruments are created until then.
    """

    def __init__(self, provider: MeterProvider | None, dspy_version: str) -> None:
        self.enabled = False
        self._provider = provider
        self._scope_attributes = {DSPY_VERSION: dspy_version}
        self._instruments: _Instruments | None = None
        self._settled = False
        self._lock = new_lock()
        self.look_for_provider()

    def look_for_provider(self) -> None:
        """Start recording if a provider has been set by now. Cheap; does nothing once started."""
        if self._settled:
            return
        provider = self._provider or get_meter_provider()
        if _is_placeholder(provider):
            self._settled = self._provider is not None
            return
        with self._lock:
            if self._settled:
                return
            self._settled = True
            meter = provider.get_meter(
                __package__ or "", __version__, SCHEMA_URL, self._scope_attributes
            )
            # A disabled SDK returns such a meter.
            if not isinstance(meter, NoOpMeter):
                self._instruments = _Instruments(meter)
                self.enabled = True

    def call_ended(
        self,
        started: Mapping[str, Any],
        ended: Mapping[str, Any],
        state: Any,
        seconds: float,
        error_type: str | None,
    ) -> None:
        """Record one call of a measured operation; does nothing for any other operation.

        Args:
            started: The attributes that the span started with, or would have.
            ended: The attributes known at the end; of a recorded call also the earlier ones.
            state: What the operation collected, `Call.state`.
            seconds: The duration of the call.
            error_type: ``error.type``; None if the call succeeded.
        """
        instruments = self._instruments
        if instruments is None:
            return
        operation = started.get(DSPY_OPERATION)
        if operation in _CLIENT_CALLS:
            _record_client_call(instruments, started, ended, state, seconds, error_type)
        elif operation == Operations.TOOL:
            attributes = _chosen(started, (GEN_AI_TOOL_NAME,), error_type)
            instruments.tool_duration.record(seconds, attributes)
        elif operation in (Operations.MODULE, Operations.PREDICT):
            _record_module_call(instruments, started, seconds, error_type)

    def record_score(self, score: float, attributes: Mapping[str, Any]) -> None:
        """Record the score of one example, with attributes of low cardinality."""
        if self._instruments is not None:
            self._instruments.score.record(score, dict(attributes))


class _Instruments:
    def __init__(self, meter: Meter) -> None:
        def histogram(
            name: str, unit: str, buckets: Iterable[float], description: str
        ) -> Histogram:
            return meter.create_histogram(
                name, unit, description, explicit_bucket_boundaries_advisory=list(buckets)
            )

        self.client_duration = histogram(
            MetricNames.CLIENT_OPERATION_DURATION,
            "s",
            _SECONDS,
            "Duration of calls of language models and embedders",
        )
        self.first_chunk = histogram(
            MetricNames.CLIENT_OPERATION_TIME_TO_FIRST_CHUNK,
            "s",
            _SECONDS,
            "Time from the request to the first chunk of a streamed response",
        )
        self.tokens = histogram(
            MetricNames.CLIENT_TOKEN_USAGE, "{token}", _TOKENS, "Tokens read and written by models"
        )
        self.tool_duration = histogram(
            MetricNames.EXECUTE_TOOL_DURATION, "s", _SECONDS, "Duration of tool calls"
        )
        self.agent_duration = histogram(
            MetricNames.INVOKE_AGENT_DURATION, "s", _AGENT_SECONDS, "Duration of agent calls"
        )
        self.workflow_duration = histogram(
            MetricNames.INVOKE_WORKFLOW_DURATION,
            "s",
            _WORKFLOW_SECONDS,
            "Duration of calls of outermost modules",
        )
        self.module_duration = histogram(
            MetricNames.MODULE_DURATION, "s", _SECONDS, "Duration of module calls of every kind"
        )
        self.cache_lookups = meter.create_counter(
            MetricNames.LM_CACHE_LOOKUPS,
            "{lookup}",
            "Number of look-ups of LM calls in DSPy's cache",
        )
        self.score = histogram(
            MetricNames.EVALUATE_SCORE, "1", _SCORES, "Scores that metrics gave to examples"
        )


def _record_client_call(
    instruments: _Instruments,
    started: Mapping[str, Any],
    ended: Mapping[str, Any],
    state: Any,
    seconds: float,
    error_type: str | None,
) -> None:
    common = _chosen(started, _CLIENT_ATTRIBUTES)
    hit = ended.get(DSPY_LM_CACHE_HIT)
    # The tier is recorded at a look-up, so it distinguishes a miss from a cache that is off.
    if hit or getattr(state, "cache_tier", None) is not None:
        instruments.cache_lookups.add(1, {**common, DSPY_LM_CACHE_HIT: bool(hit)})
    response_model = ended.get(GEN_AI_RESPONSE_MODEL)
    if response_model is not None:
        common[GEN_AI_RESPONSE_MODEL] = response_model
    duration = dict(common)
    if error_type is not None:
        duration[ERROR_TYPE] = error_type
    for name in (DSPY_LM_CACHE_HIT, DSPY_EMBEDDER_CACHE_HIT):
        if ended.get(name):
            # Separate from calls that reached a provider, whose distribution it would distort.
            duration[name] = True
    instruments.client_duration.record(seconds, duration)
    for name, kind in _TOKEN_COUNTS:
        count = ended.get(name)
        if count is not None:
            instruments.tokens.record(count, {**common, GEN_AI_TOKEN_TYPE: kind})
    first_chunk = ended.get(GEN_AI_RESPONSE_TIME_TO_FIRST_CHUNK)
    if first_chunk is not None:
        instruments.first_chunk.record(first_chunk, common)


def _record_module_call(
    instruments: _Instruments, started: Mapping[str, Any], seconds: float, error_type: str | None
) -> None:
    instruments.module_duration.record(seconds, _chosen(started, (DSPY_MODULE_TYPE,), error_type))
    operation = started.get(GEN_AI_OPERATION_NAME)
    if operation == GenAIOperations.INVOKE_AGENT:
        attributes = _chosen(started, (GEN_AI_AGENT_NAME,), error_type)
        instruments.agent_duration.record(seconds, attributes)
    elif operation == GenAIOperations.INVOKE_WORKFLOW:
        attributes = _chosen(started, (GEN_AI_WORKFLOW_NAME,), error_type)
        instruments.workflow_duration.record(seconds, attributes)


def _chosen(
    attributes: Mapping[str, Any], names: Iterable[str], error_type: str | None = None
) -> dict[str, Any]:
    chosen = {name: attributes[name] for name in names if name in attributes}
    if error_type is not None:
        chosen[ERROR_TYPE] = error_type
    return chosen


def _is_placeholder(provider: MeterProvider) -> bool:
    # The API cannot tell whether an instrument records. Its no-op provider, and what it returns
    # while no SDK is set up, are classes of its own package; any other provider may record.
    return type(provider).__module__.startswith("opentelemetry.metrics")
