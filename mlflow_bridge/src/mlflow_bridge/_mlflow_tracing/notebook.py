# Copyright The opentelemetry-instrumentation-dspy Authors
# SPDX-License-Identifier: Apache-2.0
"""The traces of a cell, shown below the cell as MLflow shows its own.

MLflow shows a trace in a notebook when its own exporter stores the trace, or when a program gets
the trace by ``MlflowClient.get_trace``. The bridge stores traces itself, so it gets them after the
cell. MLflow then shows them, unless ``mlflow.tracing.disable_notebook_display`` was called. It
shows traces of a tracking server only.
"""

from __future__ import annotations

import logging
import sys
import threading
from collections.abc import Callable
from typing import Any, Final, cast

_logger = logging.getLogger(__name__)

# IPython calls this event at the end of a cell, before the event at which MLflow shows traces.
_EVENT: Final = "post_execute"
_MAX_TRACES: Final = 10
"""MLflow's default for MLFLOW_MAX_TRACES_TO_DISPLAY_IN_NOTEBOOK."""
_LONGEST_WAIT_SECONDS: Final = 3.0
"""Longest time for which the end of a cell waits for the traces."""


class NotebookDisplay:
    """Passes the traces of each cell on to MLflow's display.

    Args:
        flush: Delivers waiting spans within some milliseconds.
    """

    def __init__(self, flush: Callable[[int], object]) -> None:
        self._flush = flush
        self._trace_ids: list[str] = []

    def note(self, trace_id: str) -> None:
        """Remember a trace that has ended, for the end of its cell. Called by any thread."""
        if len(self._trace_ids) < _MAX_TRACES:
            self._trace_ids.append(trace_id)

    def after_cell(self, *_: object) -> None:
        """Show the traces of the cell, after the program's code has run. Never raises."""
        trace_ids, self._trace_ids = self._trace_ids, []
        if not trace_ids:
            return
        worker = threading.Thread(
            target=self._show, args=(trace_ids,), name="mlflow-bridge-notebook", daemon=True
        )
        worker.start()
        # A trace that comes later is shown below the next cell.
        worker.join(_LONGEST_WAIT_SECONDS)

    def _show(self, trace_ids: list[str]) -> None:
        try:
            import mlflow
            from mlflow.tracing.display import get_display_handler, is_using_tracking_server

            if not is_using_tracking_server() or get_display_handler().disabled:
                return
            self._flush(int(_LONGEST_WAIT_SECONDS * 1000))
            client = mlflow.MlflowClient()
            for trace_id in trace_ids:
                client.get_trace(trace_id, display=True)
        # The display is not worth a message in the notebook.
        except Exception:
            _logger.debug("The traces of a cell could not be shown", exc_info=True)


def notebook_display(flush: Callable[[int], object]) -> NotebookDisplay | None:
    """The display of this notebook; None if the program does not run in IPython.

    Args:
        flush: Delivers waiting spans within some milliseconds.
    """
    # IPython is imported by the notebook, or not at all.
    get_shell: Any = getattr(sys.modules.get("IPython"), "get_ipython", None)
    shell = cast("Any", get_shell() if get_shell is not None else None)
    if shell is None:
        return None
    display = NotebookDisplay(flush)
    try:
        shell.events.register(_EVENT, display.after_cell)
    except Exception:  # another shell with other events
        _logger.debug("The notebook has no event for the end of a cell", exc_info=True)
        return None
    return display
