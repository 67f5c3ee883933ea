# Copyright The opentelemetry-instrumentation-dspy Authors
# SPDX-License-Identifier: Apache-2.0
"""A fork waits for threads that are busy in MLflow, but not for ever."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from mlflow_bridge._config.settings import MLflowDSPyConfig
from mlflow_bridge._export.contract import Retry
from mlflow_bridge._export.exporter import MLflowSpanExporter
from mlflow_bridge._export.store.destination import mlflow_guard
from mlflow_bridge._process.fork_guard import ForkGuard

PATIENCE = 60.0


class Busy(threading.Thread):
    """Is inside of a guard until it is told to leave."""

    def __init__(self, guard: ForkGuard) -> None:
        super().__init__(daemon=True)
        self._guard = guard
        self.entered = threading.Event()
        self.leave = threading.Event()
        self.start()

    def run(self) -> None:
        with self._guard.inside():
            self.entered.set()
            self.leave.wait(PATIENCE)


@contextmanager
def busy(guard: ForkGuard) -> Iterator[Busy]:
    thread = Busy(guard)
    assert thread.entered.wait(PATIENCE)
    try:
        yield thread
    finally:
        thread.leave.set()
        thread.join(PATIENCE)


def test_a_fork_waits_until_nobody_is_inside() -> None:
    guard = ForkGuard(longest_wait=PATIENCE)
    with busy(guard) as thread:
        forking = threading.Thread(target=guard.before, daemon=True)
        forking.start()
        thread.leave.set()
        forking.join(PATIENCE)
        assert not forking.is_alive()
    guard.in_child()
    assert not guard.stranded


def test_nobody_enters_while_a_fork_is_under_way() -> None:
    guard = ForkGuard()
    guard.before()
    late = Busy(guard)
    assert not late.entered.wait(0.05)
    guard.in_parent()
    assert late.entered.wait(PATIENCE)
    late.leave.set()


def test_a_child_that_could_not_be_waited_for_knows_it() -> None:
    guard = ForkGuard(longest_wait=0.01)
    with busy(guard):
        guard.before()
        guard.in_child()
    assert guard.stranded
    # It may still fork, and its children are no better off.
    guard.before()
    guard.in_child()
    assert guard.stranded


def test_the_parent_goes_on_after_waiting_in_vain() -> None:
    guard = ForkGuard(longest_wait=0.01)
    with busy(guard):
        guard.before()
        guard.in_parent()
        assert not guard.stranded
    with guard.inside():
        pass


def test_who_is_inside_may_fork_and_enter_again() -> None:
    guard = ForkGuard(longest_wait=PATIENCE)
    with guard.inside():
        guard.before()
        with guard.inside():
            pass
        guard.in_child()
        assert not guard.stranded
    with guard.inside():
        pass


def test_a_stranded_process_leaves_mlflow_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("mlflow")
    monkeypatch.setattr(mlflow_guard, "_stranded", True)
    config = MLflowDSPyConfig(tracking_uri="sqlite:////proc/nothing.db")
    outcome = MLflowSpanExporter(config=config).warm_up()
    assert isinstance(outcome, Retry)
    assert "forked" in outcome.reason
