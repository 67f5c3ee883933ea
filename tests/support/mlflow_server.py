# Copyright The opentelemetry-instrumentation-dspy Authors
# SPDX-License-Identifier: Apache-2.0
"""A real MLflow: a tracking server in its own process, or a store in a file.

``mlflow server`` imports MLflow twice, in the process of the command and in that of the server.
Here both are a fork of a process that has imported it.
"""

from __future__ import annotations

import os
import signal
import socket
import time
import urllib.error
import urllib.request
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType

from tests.support.children import MLFLOW, Child

# litellm would fetch its price list, and can deadlock with mlflow's import hook while it fails.
_QUICK_AND_OFFLINE = {
    "LITELLM_LOCAL_MODEL_COST_MAP": "True",
    # Two more processes that no test of ours needs.
    "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "DO_NOT_TRACK": "true",
}

# The command as it is, and the server in the process of the command, where it can be had so.
_PROGRAM = """
import os, runpy, sys

os.setsid()
log = os.open("server.log", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
for stream in (1, 2):
    os.dup2(log, stream)

import mlflow.cli
import mlflow.server

def serve_here(command, *, extra_env, **_):
    os.environ.update(extra_env)
    # It reads its settings while it is imported.
    for name in [name for name in sys.modules if name.startswith("mlflow.server")]:
        del sys.modules[name]
    sys.argv = command[2:]
    runpy.run_module(sys.argv[0], run_name="__main__", alter_sys=True)

if hasattr(mlflow.server, "_exec_cmd"):
    mlflow.server._exec_cmd = serve_here
mlflow.cli.cli()
"""


def mlflow_store(directory: Path) -> str:
    """The tracking URI of a SQLite store in this directory; MLflow makes the file."""
    return f"sqlite:///{directory / 'mlflow.db'}"


class MLflowServer:
    """``mlflow server`` on 127.0.0.1 and a free port, with SQLite in ``directory``.

    Use it as a context manager. What the server prints goes to ``server.log`` in the directory.

    Args:
        directory: An existing directory of the test's own.
        start_timeout: Seconds to wait until the server is healthy.
        environment: More variables for the server, for example to switch on authentication.
        options: More command line options.
        store_uri: Its database, if that is not to be SQLite in ``directory``.
    """

    def __init__(
        self,
        directory: Path,
        *,
        start_timeout: float = 90.0,
        environment: Mapping[str, str] | None = None,
        options: tuple[str, ...] = (),
        store_uri: str | None = None,
    ) -> None:
        self._directory = directory
        self._start_timeout = start_timeout
        self._environment = dict(environment or {})
        self._options = options
        self._store_uri = store_uri or mlflow_store(directory)
        self._port = free_port()
        self._process: Child | None = None

    @property
    def uri(self) -> str:
        """The tracking URI, ``http://127.0.0.1:<port>``."""
        return f"http://127.0.0.1:{self._port}"

    @property
    def store_uri(self) -> str:
        """The URI of the server's own database."""
        return self._store_uri

    @property
    def process_id(self) -> int:
        """The running server's process id, which is also the id of its process group."""
        if self._process is None:
            raise RuntimeError("the server is not running")
        return self._process.pid

    @property
    def log(self) -> str:
        """What the server has printed so far."""
        path = self._directory / "server.log"
        return path.read_text(errors="replace") if path.exists() else ""

    def __enter__(self) -> MLflowServer:
        self.start()
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.stop()

    def start(self) -> None:
        """Start and wait until healthy; after ``stop()`` on the same port and database again.

        Raises:
            RuntimeError: when the server ends, or is not healthy in time; with the end of its log.
        """
        self._process = MLFLOW.start(
            _PROGRAM, *self._arguments(), env=self._server_environment(), cwd=self._directory
        )
        try:
            self._wait_until_healthy(self._process)
        except BaseException:
            self.stop()
            raise

    def stop(self) -> None:
        """End the server and everything that it started."""
        process, self._process = self._process, None
        if process is None:
            return
        _signal_group(process.pid, signal.SIGTERM)
        _wait_for_end(process, timeout=5)
        # What it has started may outlive it.
        _signal_group(process.pid, signal.SIGKILL)
        process.communicate()

    def _arguments(self) -> list[str]:
        return [
            "server",
            *("--host", "127.0.0.1", "--port", str(self._port), "--workers", "1"),
            *("--backend-store-uri", self.store_uri),
            *("--artifacts-destination", str(self._directory / "artifacts")),
            *self._options,
        ]

    def _server_environment(self) -> dict[str, str]:
        # The test's own settings would point the server at itself, or have it traced.
        inherited = {
            name: value
            for name, value in os.environ.items()
            if not name.startswith(("MLFLOW_", "OTEL_"))
        }
        return {**inherited, **_QUICK_AND_OFFLINE, **self._environment}

    def _wait_until_healthy(self, process: Child) -> None:
        deadline = time.monotonic() + self._start_timeout
        while time.monotonic() < deadline:
            if process.poll() is not None:
                raise RuntimeError(f"mlflow server ended\n{self._tail()}")
            if _is_healthy(self.uri):
                return
            time.sleep(0.1)
        raise RuntimeError(
            f"mlflow server was not healthy after {self._start_timeout:g} s\n{self._tail()}"
        )

    def _tail(self) -> str:
        return self.log[-4000:]


def _is_healthy(uri: str) -> bool:
    # A proxy from the environment must not come between.
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    try:
        with opener.open(f"{uri}/health", timeout=2) as response:
            return response.status == 200
    except (urllib.error.URLError, OSError):
        return False


def _signal_group(group: int, number: signal.Signals) -> None:
    try:
        os.killpg(group, number)
    except ProcessLookupError:
        return


def _wait_for_end(process: Child, timeout: float) -> None:
    deadline = time.monotonic() + timeout
    while process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.02)


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]
