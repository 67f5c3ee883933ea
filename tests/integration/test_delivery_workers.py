# Copyright The opentelemetry-instrumentation-dspy Authors
# SPDX-License-Identifier: Apache-2.0
"""Prefork servers: gunicorn and Celery, recycling their workers, stopped by SIGTERM."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Mapping
from pathlib import Path

import pytest

from tests.integration.span_sink import PATIENCE, SpanSink, spooled, traces, wait_for
from tests.integration.traced_program import WORK, program_environment

pytestmark = pytest.mark.integration

SERVED = 24
WEB = (
    WORK
    + """
def app(environ, start_response):
    work(environ["PATH_INFO"].strip("/"))
    start_response("200 OK", [("Content-Length", "2")])
    return [b"ok"]
"""
)
TASKS = (
    WORK
    + """
import os
from celery import Celery

folder = os.environ["BROKER"]
celery = Celery("served", broker="filesystem://", broker_transport_options={
    "data_folder_in": folder, "data_folder_out": folder, "control_folder": folder + "/control",
})

@celery.task(name="task")
def task(name):
    work(name)
    with open(os.environ["DONE"], "a") as done:
        done.write(f"{name} {os.getpid()}\\n")
"""
)
AUTOLOG = "import mlflow_bridge\nmlflow_bridge.autolog()\n"


def settings(tmp_path: Path, sink: SpanSink) -> dict[str, str]:
    return {
        **program_environment(tmp_path),
        "MLFLOW_TRACKING_URI": sink.http.url,
        "MLFLOW_DSPY_SCHEDULE_DELAY_SECONDS": "3600",
        "XDG_STATE_HOME": str(tmp_path / "state"),
        "OTEL_TRACES_EXPORTER": "mlflow",
        "PYTHONPATH": os.pathsep.join([str(tmp_path), *sys.path]),
    }


class Started:
    """A server in a process of its own; what it prints goes to a file, so that no pipe fills."""

    def __init__(
        self, command: list[str], tmp_path: Path, environment: Mapping[str, str], *, zero_code: bool
    ) -> None:
        if zero_code:
            command = [str(Path(sys.executable).with_name("opentelemetry-instrument")), *command]
        self._log = tmp_path / "server.log"
        with self._log.open("wb") as log:
            self.process = subprocess.Popen(
                command,
                cwd=tmp_path,
                env=environment,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
            )

    @property
    def log(self) -> str:
        return self._log.read_text(errors="replace")

    def __enter__(self) -> Started:
        return self

    def __exit__(self, *error: object) -> None:
        self.process.kill()
        self.process.wait()

    def terminate(self) -> None:
        self.process.send_signal(signal.SIGTERM)
        assert self.process.wait(PATIENCE) == 0, self.log

    def ended_by_sigterm(self) -> bool:
        """Whether it ends at all, well, within half of the patience."""
        self.process.send_signal(signal.SIGTERM)
        try:
            assert self.process.wait(PATIENCE / 2) == 0, self.log
        except subprocess.TimeoutExpired:
            return False
        return True


@pytest.mark.parametrize("zero_code", [False, True], ids=["autolog", "opentelemetry-instrument"])
@pytest.mark.parametrize(
    "options",
    [
        pytest.param((), id="two workers"),
        pytest.param(("--preload", "--max-requests", "5"), id="preloaded and recycled"),
    ],
)
def test_gunicorn(options: tuple[str, ...], zero_code: bool, tmp_path: Path) -> None:
    pytest.importorskip("gunicorn")
    (tmp_path / "served.py").write_text(WEB if zero_code else AUTOLOG + WEB)
    port = free_port()
    bind = ("--bind", f"127.0.0.1:{port}", "--workers", "2")
    command = [sys.executable, "-m", "gunicorn", *bind, *options, "served:app"]
    names = [f"request {n}" for n in range(SERVED)]
    with SpanSink() as sink:
        with Started(command, tmp_path, settings(tmp_path, sink), zero_code=zero_code) as server:
            for name in names:
                wait_for(lambda name=name: answers(port, name), f"gunicorn: {server.log}")
            server.terminate()
        # A request is made again if its connection breaks.
        assert sink.stored().keys() == traces(*names).keys(), server.log
        assert sink.arrivals() == sink.stored().total()
    assert spooled(tmp_path / "state") == 0


def answers(port: int, name: str) -> bool:
    url = f"http://127.0.0.1:{port}/{name.replace(' ', '%20')}"
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    try:
        with opener.open(url, timeout=PATIENCE) as answer:
            return answer.status == 200
    except (urllib.error.URLError, ConnectionError):
        return False


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def test_celery(tmp_path: Path) -> None:
    """Its workers end by ``os._exit``, without a last word of Python's."""
    pytest.importorskip("celery")
    (tmp_path / "served.py").write_text(AUTOLOG + TASKS)
    broker, done = tmp_path / "broker", tmp_path / "done.txt"
    (broker / "control").mkdir(parents=True)
    done.touch()
    names = [f"task {n}" for n in range(SERVED)]
    with SpanSink() as sink:
        environment = {**settings(tmp_path, sink), "BROKER": str(broker), "DONE": str(done)}
        enqueue = f"import served\nfor name in {names!r}: served.task.delay(name)"
        subprocess.run([sys.executable, "-c", enqueue], env=environment, cwd=tmp_path, check=True)
        options = ("--pool", "prefork", "--concurrency", "2", "--max-tasks-per-child", "5")
        quiet = ("--without-mingle", "--without-gossip", "--without-heartbeat")
        command = [sys.executable, "-m", "celery", "-A", "served", "worker", *options, *quiet]
        with Started(command, tmp_path, environment, zero_code=False) as server:
            wait_for(lambda: len(done.read_text().splitlines()) >= SERVED, f"celery: {server.log}")
            if not server.ended_by_sigterm():
                # Its pool now and then waits at its end for a lock that a worker took away with it.
                # What that worker had is on disk then, as after any other end of the server.
                server.process.kill()
                deliver = [sys.executable, "-m", "mlflow_bridge.spool", "deliver"]
                subprocess.run(deliver, env=environment, cwd=tmp_path, check=True)
        workers = {line.split()[-1] for line in done.read_text().splitlines()}
        assert len(workers) > 2
        assert sink.stored() == traces(*names), server.log
    assert spooled(tmp_path / "state") == 0
