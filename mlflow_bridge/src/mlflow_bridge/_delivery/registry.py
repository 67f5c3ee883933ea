# Copyright The opentelemetry-instrumentation-dspy Authors
# SPDX-License-Identifier: Apache-2.0
"""The processors of this process, and what became of their spans."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, Protocol
from weakref import WeakKeyDictionary, WeakMethod

if TYPE_CHECKING:
    from mlflow_bridge._delivery.status import DeliveryStatus


class ManagedProcessor(Protocol):
    """A processor that has something to report."""

    def status(self) -> DeliveryStatus:
        """What became of its spans so far."""
        ...

    def force_flush(self, timeout_millis: float | None = None) -> bool:
        """Deliver what waits, and go on."""
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
    """Have the processor be found by `status`, for as long as anybody has it.

    Args:
        processor: The processor.
        before_exit: Its method that delivers what waits, within the time that an exit may take.

    Returns:
        A name for it that no other one in this process has, and that is the same in every run.
    """
    global _made
    number, _made = _made, _made + 1
    _live[processor] = _Registration(number, WeakMethod(before_exit))
    return f"{type(processor).__name__}/{number}"


def keep_reporting(processor: ManagedProcessor) -> None:
    """Go on telling of a closed processor that nobody will have, if spans of it are missing.

    Only of the last few.
    """
    if processor.status().missing:
        _retired.append(processor)


def registered_processors() -> list[ManagedProcessor]:
    """The processors of this process, in the order in which they were made."""
    return [processor for processor, _ in _in_order()]


def deliveries_before_exit() -> list[Callable[[], object]]:
    """What delivers for each processor of this process as at its exit."""
    found = [registration.before_exit() for _, registration in _in_order()]
    return [before_exit for before_exit in found if before_exit is not None]


def _in_order() -> list[tuple[ManagedProcessor, _Registration]]:
    return sorted(_live.items(), key=lambda item: item[1].number)


def status() -> tuple[DeliveryStatus, ...]:
    """What became of the spans that went to MLflow, for each processor of this process.

    Reads the directory of the spool, and neither waits nor asks MLflow. Counters start from zero in
    a forked child. Processors that are closed are among them for as long as anybody, such as their
    tracer provider, refers to them; and the last 16 that `autolog` replaced, or `disable_autolog`
    closed, while not all of their spans were in MLflow.

    Example:
        >>> for one in mlflow_bridge.status():
        ...     print(one.destination, one.stored, one.missing)  # doctest: +SKIP
    """
    return tuple(processor.status() for processor in registered_processors())
