# Copyright The opentelemetry-instrumentation-dspy Authors
# SPDX-License-Identifier: Apache-2.0
"""Result table and dataset of a run beside its figures, written on a thread of its own.

Artifacts may go to a slow store of objects. Spans do not wait for them.
"""

from __future__ import annotations

import atexit
import importlib
import logging
import threading
from collections import deque
from collections.abc import Callable
from typing import Any, Final
from weakref import ref

from opentelemetry.instrumentation.utils import suppress_instrumentation

from mlflow_bridge._export.store.destination import mlflow_guard
from mlflow_bridge._process.forks import call_in_child
from mlflow_bridge._process.outside_text import outside_text
from mlflow_bridge._process.rate_limited_log import RateLimitedLogger
from mlflow_bridge.tracking.evaluation_table import write_results

_logger = logging.getLogger(__name__)

_MAX_WAITING: Final = 1_000
_ATTEMPTS: Final = 4
_PAUSE_SECONDS: Final = 2.0

WriteResults = Callable[[str], None]
"""Writes what belongs to a run, by its id; raises if it cannot."""


class EvaluationArtifacts:
    """Writes the result table and the dataset of ended runs. Thread-safe.

    Nothing is started before the first run has ended.

    Args:
        write: Writes for one run.
        exit_timeout_seconds: The longest wait when the interpreter exits.
    """

    def __init__(self, write: WriteResults, exit_timeout_seconds: float) -> None:
        self._write = write
        self._exit_timeout = exit_timeout_seconds
        self._log = RateLimitedLogger(_logger)
        self._begin()
        call_in_child(self._begin)
        this = ref(self)
        self._at_exit = lambda: None if (it := this()) is None else it.flush(it._exit_timeout)
        atexit.register(self._at_exit)

    def _begin(self) -> None:
        """Start without runs, also in a forked child: the parent writes for its own runs."""
        self._changed = threading.Condition()
        self._waiting: deque[str] = deque()
        self._is_busy = False
        self._closed = False
        self._thread: threading.Thread | None = None

    def add(self, run_id: str) -> None:
        """Write for a run that has ended, soon. Never raises."""
        with self._changed:
            if self._closed or run_id in self._waiting:
                return
            if len(self._waiting) >= _MAX_WAITING or not self._has_thread():
                self._report(run_id, "more runs end at once than wait for their artifacts")
                return
            self._waiting.append(run_id)
            self._changed.notify_all()

    def flush(self, seconds: float) -> bool:
        """Wait until all ended runs have their artifacts, or have been given up.

        Args:
            seconds: The longest to wait.
        """
        with self._changed:
            return self._changed.wait_for(
                lambda: not self._waiting and not self._is_busy, max(seconds, 0.0)
            )

    def close(self, seconds: float) -> None:
        """Write for the ended runs, for at most this time, and end the thread."""
        self.flush(seconds)
        with self._changed:
            self._closed = True
            self._waiting.clear()
            self._changed.notify_all()
        atexit.unregister(self._at_exit)

    def _has_thread(self) -> bool:
        if self._thread is None:
            thread = threading.Thread(target=self._run, name="mlflow-bridge-runs", daemon=True)
            try:
                thread.start()
            except RuntimeError:  # The interpreter exits, or the machine has no thread left.
                return False
            self._thread = thread
        return True

    def _run(self) -> None:
        while (run_id := self._next()) is not None:
            try:
                with suppress_instrumentation():
                    self._write_for(run_id)
            finally:
                with self._changed:
                    self._is_busy = False
                    self._changed.notify_all()

    def _next(self) -> str | None:
        with self._changed:
            self._changed.wait_for(lambda: bool(self._waiting) or self._closed)
            if not self._waiting:
                return None
            self._is_busy = True
            return self._waiting.popleft()

    def _write_for(self, run_id: str) -> None:
        for attempt in range(1, _ATTEMPTS + 1):
            try:
                return self._write(run_id)
            except ImportError:
                return self._report(run_id, "MLflow is not installed: mlflow-bridge[mlflow]")
            except Exception as error:
                _logger.debug("Artifacts could not be written", exc_info=True)
                if attempt == _ATTEMPTS or self._is_closed_within(_PAUSE_SECONDS * attempt):
                    self._report(run_id, f"{type(error).__name__}: {error}")
                    return None

    def _is_closed_within(self, seconds: float) -> bool:
        with self._changed:
            return self._changed.wait_for(lambda: self._closed, seconds)

    def _report(self, run_id: str, reason: str) -> None:
        self._log.warning(
            "artifacts",
            "Run %s has its figures and traces, but not its result table: %s",
            run_id,
            outside_text(reason),
        )


def results_writer(tracking_uri: str) -> WriteResults:
    """A function that writes result tables by MLflow's client.

    Credentials are those of MLflow's environment variables.

    Args:
        tracking_uri: Where the runs are.
    """

    def write(run_id: str) -> None:
        with mlflow_guard.inside():
            mlflow: Any = importlib.import_module("mlflow")
            client = mlflow.MlflowClient(tracking_uri=tracking_uri)
        write_results(mlflow, _GuardedClient(client), run_id)

    return write


class _GuardedClient:
    """An ``mlflow.MlflowClient`` of which a fork waits for each call, and for no more.

    A child that is forked in a call would inherit the locks that MLflow holds.
    """

    def __init__(self, client: Any) -> None:
        self._client = client

    def __getattr__(self, name: str) -> Callable[..., Any]:
        method = getattr(self._client, name)

        def call(*args: Any, **kwargs: Any) -> Any:
            with mlflow_guard.inside():
                return method(*args, **kwargs)

        return call
