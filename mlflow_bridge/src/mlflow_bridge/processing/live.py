# Copyright The opentelemetry-instrumentation-dspy Authors
# SPDX-License-Identifier: Apache-2.0
"""The processors of this process, and what became of their spans."""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING, Final, Protocol
from weakref import WeakKeyDictionary

if TYPE_CHECKING:
    from mlflow_bridge.processing.status import DeliveryStatus


class Delivers(Protocol):
    """A processor that has something to report, and can be asked to hurry."""

    def status(self) -> DeliveryStatus:
        """What became of its spans so far."""
        ...

    def before_exit(self) -> None:
        """Deliver what waits, within the time that an exit may take."""
        ...

    def force_flush(self, timeout_millis: float | None = None) -> bool:
        """Deliver what waits, and go on."""
        ...


_MAX_RETIRED: Final = 16

_live: WeakKeyDictionary[Delivers, int] = WeakKeyDictionary()
_retired: deque[Delivers] = deque(maxlen=_MAX_RETIRED)
_made = 0


def register(processor: Delivers) -> str:
    """Have the processor be found by `status`, for as long as anybody has it.

    Returns:
        A name for it that no other one in this process has, and that is the same in every run.
    """
    global _made
    number, _made = _made, _made + 1
    _live[processor] = number
    return f"{_component_type(processor)}/{number}"


def retire(processor: Delivers) -> None:
    """Go on telling of a closed processor that nobody will have, if spans of it are missing.

    Only of the last few.
    """
    if processor.status().missing:
        _retired.append(processor)


def _component_type(processor: Delivers) -> str:
    return type(processor).__name__


def live_processors() -> list[Delivers]:
    """The processors of this process, in the order in which they were made."""
    return [processor for processor, _ in sorted(_live.items(), key=lambda item: item[1])]


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
    return tuple(processor.status() for processor in live_processors())
