# Copyright The opentelemetry-instrumentation-dspy Authors
# SPDX-License-Identifier: Apache-2.0
"""The processors of this process, and the delivery status of their spans."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, Protocol
from weakref import WeakKeyDictionary, WeakMethod

if TYPE_CHECKING:
    from mlflow_bridge._delivery.status import DeliveryStatus


class ManagedProcessor(Protocol):
    """A processor that reports a delivery status."""

    @property
    def has_ended(self) -> bool:
        """Whether the processor is closed, and delivers nothing any more."""
        ...

    def status(self) -> DeliveryStatus:
        """The counters of its spans so far."""
        ...

    def force_flush(self, timeout_millis: float | None = None) -> bool:
        """Deliver the waiting spans, and go on."""
        ...


@dataclass(frozen=True)
class _Registration:
    number: int
    before_exit: WeakMethod[Callable[[], object]]


_MAX_RETIRED: Final = 16

_live: WeakKeyDictionary[ManagedProcessor, _Registration] = WeakKeyDictionary()
_retired: deque[ManagedProcessor] = deque(maxlen=_MAX_RETIRED)
_made = 0


def register(processor: ManagedProcessor, before_exit: Callable[[], object]) -> str:
    """Include the processor in `status` for as long as the program refers to it.

    Args:
        processor: The processor.
        before_exit: The method of the processor that delivers its waiting spans within the time
            limit of an exit.

    Returns:
        A name of the processor that is unique in this process, and the same in every run.
    """
    global _made
    number, _made = _made, _made + 1
    _live[processor] = _Registration(number, WeakMethod(before_exit))
    return f"{type(processor).__name__}/{number}"


def keep_reporting(processor: ManagedProcessor) -> None:
    """Keep reporting a closed processor that has no other references, if it has missing spans.

    Only the last 16 such processors are reported.
    """
    if processor.status().missing:
        _retired.append(processor)


def registered_processors() -> list[ManagedProcessor]:
    """The processors of this process, in the order in which they were made."""
    return [processor for processor, _ in _in_order()]


def delivering_processors() -> list[ManagedProcessor]:
    """The processors of this process that may still deliver.

    What a processor misses after its end was reported then, and does not arrive any more.
    """
    return [processor for processor in registered_processors() if not processor.has_ended]


def deliveries_before_exit() -> list[Callable[[], object]]:
    """The ``before_exit`` method of each processor of this process."""
    found = [registration.before_exit() for _, registration in _in_order()]
    return [before_exit for before_exit in found if before_exit is not None]


def _in_order() -> list[tuple[ManagedProcessor, _Registration]]:
    return sorted(_live.items(), key=lambda item: item[1].number)


def status() -> tuple[DeliveryStatus, ...]:
    """Delivery status of the spans that go to MLflow, for each processor of this process.

    Reads the directory of the spool, and neither waits nor asks MLflow. Counters start from zero in
    a forked child. A closed processor is included while the program refers to it, for example
    through its tracer provider. Also included are the last 16 processors that `autolog` replaced,
    or `disable_autolog` closed, if they had missing spans then.

    Example:
        >>> for delivery in mlflow_bridge.status():
        ...     print(delivery.destination, delivery.stored, delivery.missing)  # doctest: +SKIP
    """
    return tuple(processor.status() for processor in registered_processors())
