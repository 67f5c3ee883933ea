# Copyright The opentelemetry-instrumentation-dspy Authors
# SPDX-License-Identifier: Apache-2.0
"""Pauses of the whole bridge: by the setting ``enabled``, and by ``mlflow.tracing.disable()``.

While the bridge is paused, a trace that begins is left out with all of its spans, and a trace that
is open is completed. A process that is never paused does no step more for a span.
"""

from __future__ import annotations

import logging
import threading
from typing import Final
from weakref import WeakSet

from mlflow_bridge._process.forks import call_in_child
from mlflow_bridge._setup.switch import PauseDecisions, SwitchableSpanProcessor

_logger: Final = logging.getLogger(__name__)

BY_SETTING: Final = "enabled=False"
BY_MLFLOW: Final = "mlflow.tracing.disable()"


class _Pauses:
    """State of this process. Guarded by ``lock``."""

    def __init__(self) -> None:
        self.lock = threading.RLock()
        self.reasons: set[str] = set()
        self.switches: WeakSet[SwitchableSpanProcessor] = WeakSet()
        self.decisions: PauseDecisions | None = None
        """None before the first pause. It stays, since traces that were left out end later."""

    def open_traces(self) -> set[int]:
        """The traces that are open behind a switch."""
        return set[int]().union(*(switch.open_trace_ids() for switch in list(self.switches)))

    def make_decisions(self) -> PauseDecisions:
        """The decisions of all switches, which follow them from now on."""
        if self.decisions is None:
            self.decisions = PauseDecisions(self.open_traces)
            self.decisions.begin()
            for switch in list(self.switches):
                switch.decide_by(self.decisions)
        return self.decisions

    def renew_lock(self) -> None:
        """Replace the lock in a forked child, where the thread that held it does not exist."""
        self.lock = threading.RLock()


_pauses: Final = _Pauses()
call_in_child(_pauses.renew_lock)


def pausable_switch() -> SwitchableSpanProcessor:
    """A switch without a target, which is paused together with the bridge."""
    switch = SwitchableSpanProcessor()
    with _pauses.lock:
        _pauses.switches.add(switch)
        if _pauses.decisions is not None:
            switch.decide_by(_pauses.decisions)
    return switch


def retire_switch(switch: SwitchableSpanProcessor) -> None:
    """Let a switch complete its open traces, and pass no further trace on."""
    with _pauses.lock:
        _pauses.switches.discard(switch)
        # Apart from the others: a trace may go on in the tracer provider that comes next.
        alone = PauseDecisions(switch.open_trace_ids)
        alone.begin(_pauses.decisions)
        switch.decide_by(alone)
        alone.is_paused = True


def pause(reason: str) -> None:
    """Leave out the traces that begin from now on. May be repeated."""
    with _pauses.lock:
        if reason in _pauses.reasons:
            return
        _pauses.reasons.add(reason)
        # All switches at the same moment.
        _pauses.make_decisions().is_paused = True
        _logger.info("Traces that begin from now on do not go to MLflow: %s.", reason)


def resume(reason: str) -> None:
    """End a pause for this reason; does nothing if there is none."""
    with _pauses.lock:
        if reason not in _pauses.reasons:
            return
        _pauses.reasons.discard(reason)
        if _pauses.reasons:
            return
        _pauses.make_decisions().is_paused = False
        _logger.info("Traces that begin from now on go to MLflow again.")


def follow_mlflow(is_enabled: bool) -> None:
    """Pause or resume the bridge together with MLflow's own tracing."""
    if is_enabled:
        resume(BY_MLFLOW)
    else:
        pause(BY_MLFLOW)
