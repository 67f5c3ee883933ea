# Copyright The opentelemetry-instrumentation-dspy Authors
# SPDX-License-Identifier: Apache-2.0
"""Traces of a cell are passed on to MLflow's display. Without MLflow and without IPython."""

from __future__ import annotations

import sys
import threading
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest

from mlflow_bridge._mlflow_tracing import notebook
from mlflow_bridge._mlflow_tracing.notebook import NotebookDisplay, notebook_display


class Notebook:
    """IPython and MLflow as far as the display asks for them."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.events: dict[str, Callable[..., None]] = {}
        self.shown: list[tuple[str, bool]] = []
        self.flushed: list[int] = []
        self.threads: set[str] = set()
        self.disabled = False
        self.has_server = True
        shell = SimpleNamespace(events=SimpleNamespace(register=self.events.__setitem__))
        self.ipython = SimpleNamespace(get_ipython=lambda: shell)
        monkeypatch.setitem(sys.modules, "IPython", self.ipython)
        mlflow = SimpleNamespace(MlflowClient=lambda: SimpleNamespace(get_trace=self.get_trace))
        display = SimpleNamespace(
            get_display_handler=lambda: SimpleNamespace(disabled=self.disabled),
            is_using_tracking_server=lambda: self.has_server,
        )
        monkeypatch.setitem(sys.modules, "mlflow", mlflow)
        monkeypatch.setitem(sys.modules, "mlflow.tracing", SimpleNamespace(display=display))
        monkeypatch.setitem(sys.modules, "mlflow.tracing.display", display)

    def get_trace(self, trace_id: str, display: bool) -> None:
        self.threads.add(threading.current_thread().name)
        if trace_id == "missing":
            raise LookupError(trace_id)
        self.shown.append((trace_id, display))

    def display(self) -> NotebookDisplay:
        made = notebook_display(self.flushed.append)
        assert made is not None
        return made

    def end_of_cell(self) -> None:
        self.events["post_execute"]()


@pytest.fixture
def cell(monkeypatch: pytest.MonkeyPatch) -> Notebook:
    return Notebook(monkeypatch)


def test_the_traces_of_a_cell_are_shown_below_it(cell: Notebook) -> None:
    display = cell.display()
    display.note("tr-1")
    display.note("tr-2")
    cell.end_of_cell()
    assert cell.shown == [("tr-1", True), ("tr-2", True)]
    assert len(cell.flushed) == 1
    assert cell.threads == {"mlflow-bridge-notebook"}
    cell.end_of_cell()
    assert len(cell.shown) == 2


def test_as_many_traces_are_shown_as_mlflow_shows(cell: Notebook) -> None:
    display = cell.display()
    for number in range(50):
        display.note(f"tr-{number}")
    cell.end_of_cell()
    assert [trace_id for trace_id, _ in cell.shown] == [f"tr-{number}" for number in range(10)]


@pytest.mark.parametrize(("has_server", "disabled"), [(False, False), (True, True)])
def test_nothing_is_looked_up_if_mlflow_shows_nothing(
    cell: Notebook, has_server: bool, disabled: bool
) -> None:
    cell.has_server, cell.disabled = has_server, disabled
    cell.display().note("tr-1")
    cell.end_of_cell()
    assert (cell.shown, cell.flushed) == ([], [])


def test_a_trace_that_is_not_there_is_no_trouble(cell: Notebook) -> None:
    cell.display().note("missing")
    cell.end_of_cell()
    assert cell.shown == []


def test_a_cell_waits_a_short_time_only(cell: Notebook, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(notebook, "_LONGEST_WAIT_SECONDS", 0.01)
    arrived = threading.Event()
    display = notebook_display(lambda _: arrived.wait(60))
    assert display is not None
    display.note("tr-1")
    cell.end_of_cell()
    assert cell.shown == []
    arrived.set()


@pytest.mark.parametrize("ipython", [None, SimpleNamespace(get_ipython=lambda: None)])
def test_a_program_outside_of_a_notebook_has_no_display(
    cell: Notebook, monkeypatch: pytest.MonkeyPatch, ipython: Any
) -> None:
    monkeypatch.setitem(sys.modules, "IPython", ipython)
    assert notebook_display(cell.flushed.append) is None


def test_a_shell_with_other_events_has_no_display(cell: Notebook) -> None:
    cell.ipython.get_ipython = lambda: SimpleNamespace(events=None)
    assert notebook_display(cell.flushed.append) is None
