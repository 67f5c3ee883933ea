# Copyright The opentelemetry-instrumentation-dspy Authors
# SPDX-License-Identifier: Apache-2.0
"""The delivery status as OpenTelemetry metrics.

Names, units and meanings are in the registry in ``semconv/registry`` of this distribution. Metrics
that the semantic conventions for the self-observation of an SDK define have their names from there.
Nothing
is computed before a metric reader collects.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Final
from weakref import WeakSet, ref

from opentelemetry import metrics
from opentelemetry.metrics import CallbackOptions, Meter, MeterProvider, Observation

from mlflow_bridge._delivery.registry import ManagedProcessor
from mlflow_bridge._delivery.status import DeliveryStatus
from mlflow_bridge._process.forks import call_in_child
from mlflow_bridge.version import __version__

SCOPE: Final = "mlflow_bridge"
COMPONENT_NAME: Final = "otel.component.name"
COMPONENT_TYPE: Final = "otel.component.type"
ERROR_TYPE: Final = "error.type"

_SAME_COLLECTION_SECONDS: Final = 0.5

Values = Iterable[tuple[float, str | None]]
"""Numbers, each with its ``error.type`` or None."""


@dataclass(frozen=True)
class _Measure:
    name: str
    kind: str
    unit: str
    values: Callable[[DeliveryStatus], Values]


def _one(read: Callable[[DeliveryStatus], float]) -> Callable[[DeliveryStatus], Values]:
    return lambda status: ((read(status), None),)


_MEASURES: Final = (
    _Measure(
        "otel.sdk.processor.span.processed",
        "counter",
        "{span}",
        lambda it: ((it.processed, None), *((n, reason) for reason, n in it.dropped_by.items())),
    ),
    _Measure(
        "otel.sdk.exporter.span.exported",
        "counter",
        "{span}",
        lambda it: ((it.stored, None), (it.rejected, "rejected")),
    ),
    _Measure("otel.sdk.processor.span.queue.size", "up_down", "{span}", _one(lambda it: it.queued)),
    _Measure(
        "otel.sdk.processor.span.queue.capacity",
        "up_down",
        "{span}",
        _one(lambda it: it.queue_capacity),
    ),
    _Measure("mlflow_bridge.span.accepted", "counter", "{span}", _one(lambda it: it.accepted)),
    _Measure("mlflow_bridge.span.spilled", "counter", "{span}", _one(lambda it: it.spilled)),
    _Measure(
        "mlflow_bridge.span.redelivered", "counter", "{span}", _one(lambda it: it.redelivered)
    ),
    _Measure("mlflow_bridge.span.filtered", "counter", "{span}", _one(lambda it: it.filtered)),
    _Measure("mlflow_bridge.span.missing", "up_down", "{span}", _one(lambda it: it.missing)),
    _Measure("mlflow_bridge.attempt.failed", "counter", "{attempt}", _one(lambda it: it.retried)),
    _Measure("mlflow_bridge.spool.dropped", "counter", "{span}", _one(lambda it: it.spool_dropped)),
    _Measure("mlflow_bridge.spool.size", "up_down", "By", _one(lambda it: it.spool_bytes)),
    _Measure("mlflow_bridge.spool.age", "gauge", "s", _one(lambda it: it.spool_oldest_seconds)),
)


class Observed:
    """The observed values of one processor. Holds only a weak reference to it."""

    def __init__(self, processor: ManagedProcessor, name: str) -> None:
        self._attributes = {COMPONENT_NAME: name, COMPONENT_TYPE: name.partition("/")[0]}
        self._processor = ref(processor)
        self._known: DeliveryStatus | None = None
        self._known_until = 0.0

    def observations(self, measure: Callable[[DeliveryStatus], Values]) -> Iterable[Observation]:
        """The values of one metric now."""
        now = time.monotonic()
        # A collection asks for every metric in turn, and each status() reads the spool directory.
        if now >= self._known_until:
            processor = self._processor()
            self._known = None if processor is None else processor.status()
            self._known_until = now + _SAME_COLLECTION_SECONDS
        if self._known is None:
            return
        for value, error in measure(self._known):
            yield Observation(value, self._attributes_with(error))

    def _attributes_with(self, error: str | None) -> Mapping[str, str]:
        return self._attributes if error is None else {**self._attributes, ERROR_TYPE: error}


@dataclass
class _Instruments:
    """The instruments of one meter provider, which all processors share."""

    observed: WeakSet[Observed] = field(default_factory=WeakSet[Observed])

    def add_to(self, meter: Meter) -> None:
        makers = {
            "counter": meter.create_observable_counter,
            "up_down": meter.create_observable_up_down_counter,
            "gauge": meter.create_observable_gauge,
        }
        for measure in _MEASURES:
            makers[measure.kind](measure.name, [self._callback(measure)], unit=measure.unit)

    def _callback(self, measure: _Measure) -> Callable[[CallbackOptions], Iterable[Observation]]:
        def observe(_options: CallbackOptions) -> Iterable[Observation]:
            for one in list(self.observed):
                yield from one.observations(measure.values)

        return observe


_lock = threading.Lock()


def _renew_lock() -> None:
    """Replace the lock in a forked child, where the thread that held it does not exist."""
    global _lock  # noqa: PLW0603
    _lock = threading.Lock()


call_in_child(_renew_lock)

# By the id of the meter provider. The reference to the provider keeps its id from being reused.
_instruments: dict[int, tuple[MeterProvider | None, _Instruments]] = {}


def observe(
    processor: ManagedProcessor, name: str, meter_provider: MeterProvider | None = None
) -> Observed:
    """Report the status of a processor as metrics, for as long as it keeps the returned object.

    Args:
        processor: The processor.
        name: Its name, unique in the process: type, slash, number.
        meter_provider: Makes the instruments. None is the global provider, even if it is set later.
    """
    observed = Observed(processor, name)
    with _lock:
        if id(meter_provider) not in _instruments:
            made = _Instruments()
            made.add_to(metrics.get_meter(SCOPE, __version__, meter_provider))
            _instruments[id(meter_provider)] = (meter_provider, made)
        _instruments[id(meter_provider)][1].observed.add(observed)
    return observed
