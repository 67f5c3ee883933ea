# Copyright The opentelemetry-instrumentation-dspy Authors
# SPDX-License-Identifier: Apache-2.0
"""A real ``mlflow server`` on loopback, and the CPU time of a tree of processes (Linux)."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

_TICKS = os.sysconf("SC_CLK_TCK")
_START_SECONDS = 240.0
# Fields of /proc/<pid>/stat after the command's name, which may hold spaces: proc(5).
_PARENT, _FIRST_TIME, _LAST_TIME = 1, 11, 15


@contextmanager
def mlflow_server(store: str, workers: int) -> Iterator[tuple[str, int]]:
    """Run a tracking server on this store; it is gone afterwards.

    Yields:
        Its address and its process id.

    Raises:
        RuntimeError: It ended or did not become healthy.
    """
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    with tempfile.TemporaryDirectory() as directory:
        command = [sys.executable, "-m", "mlflow", "server", "--host", "127.0.0.1"]
        command += ["--port", str(port), "--workers", str(workers)]
        # By default, workers that import for long on a busy machine are replaced for ever.
        command += ["--uvicorn-opts", "--timeout-worker-healthcheck 60"]
        command += ["--backend-store-uri", store, "--artifacts-destination", directory]
        log = Path(directory) / "server.log"
        with log.open("wb") as output:
            process = subprocess.Popen(
                command,
                cwd=directory,
                env={**os.environ, "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"},
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        try:
            _wait_until_healthy(process, f"http://127.0.0.1:{port}/health", log)
            yield f"http://127.0.0.1:{port}", process.pid
        finally:
            with suppress(ProcessLookupError):  # it may have ended by itself
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()


def _wait_until_healthy(process: subprocess.Popen[bytes], url: str, log: Path) -> None:
    deadline = time.monotonic() + _START_SECONDS
    while time.monotonic() < deadline and process.poll() is None:
        with (
            suppress(urllib.error.URLError, ConnectionError, TimeoutError),  # not up yet
            urllib.request.urlopen(url, timeout=5),  # raises unless it is a success
        ):
            return
        time.sleep(0.2)
    raise RuntimeError(f"no healthy server: {log.read_text(errors='replace')[-2000:]}")


def cpu_seconds(root: int) -> float:
    """User and system time of a process, its living descendants, and those it has waited for."""
    stats = dict(_stats())
    tree, added = {root}, True
    while added:
        grown = tree | {pid for pid, fields in stats.items() if int(fields[_PARENT]) in tree}
        added, tree = grown != tree, grown
    ticks = (
        int(value) for pid in tree & stats.keys() for value in stats[pid][_FIRST_TIME:_LAST_TIME]
    )
    return sum(ticks) / _TICKS


def _stats() -> Iterator[tuple[int, list[str]]]:
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            with suppress(FileNotFoundError, ProcessLookupError):  # it has just ended
                text = (entry / "stat").read_text()
                yield int(entry.name), text.rpartition(")")[2].split()
