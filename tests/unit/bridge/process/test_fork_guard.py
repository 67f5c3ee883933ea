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
    """A thread that is inside of a guard until ``leave`` is set."""

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


def test_a_fork_waits_until_no_thread_is_inside() -> None:
    guard = ForkGuard(longest_wait=PATIENCE)
    with busy(guard) as thread:
        forking = threading.Thread(target=guard.before, daemon=True)
        forking.start()
        thread.leave.set()
        forking.join(PATIENCE)
        assert not forking.is_alive()
    guard.in_child()
    assert not guard.stranded


def test_no_thread_enters_while_a_fork_is_under_way() -> None:
    guard = ForkGuard()
    guard.before()
    late = Busy(guard)
    assert not late.entered.wait(0.05)
    guard.in_parent()
    assert late.entered.wait(PATIENCE)
    late.leave.set()


def test_a_child_knows_that_its_fork_did_not_wait_long_enough() -> None:
    guard = ForkGuard(longest_wait=0.01)
    with busy(guard):
        guard.before()
        guard.in_child()
    assert guard.stranded
    # The child may still fork, and its children are stranded, too.
    guard.before()
    guard.in_child()
    assert guard.stranded


def test_the_parent_goes_on_after_a_wait_that_timed_out() -> None:
    guard = ForkGuard(longest_wait=0.01)
    with busy(guard):
        guard.before()
        guard.in_parent()
        assert not guard.stranded
    with guard.inside():
        pass


def test_a_thread_inside_may_fork_and_enter_again() -> None:
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
