# Copyright The opentelemetry-instrumentation-dspy Authors
# SPDX-License-Identifier: Apache-2.0
"""Many processes, one SQLite file, and everything that goes wrong at once: no span is lost."""

from __future__ import annotations

import os
import random
import shutil
import sqlite3
import textwrap
import time
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import pytest

from mlflow_bridge import MLflowDSPyConfig, deliver_spool
from tests import ROOT
from tests.support.children import MLFLOW, Child
from tests.support.mlflow_server import MLflowServer

pytestmark = pytest.mark.integration

WORKER = textwrap.dedent(
    """
    import errno, os, sys, time
    from pathlib import Path

    name, uri, directory = sys.argv[1], sys.argv[2], Path(sys.argv[3])
    full, stop = directory / "disk-is-full", directory / "stop"

    from mlflow_bridge import MLflowBatchSpanProcessor, MLflowDSPyConfig
    from mlflow_bridge._delivery.spool.segment import Segment
    from opentelemetry.sdk.trace import TracerProvider

    append = Segment.append

    def append_to_the_disk(segment, line, spans):
        if full.exists():
            raise OSError(errno.ENOSPC, "no space left on device")
        append(segment, line, spans)

    Segment.append = append_to_the_disk

    processor = MLflowBatchSpanProcessor(
        MLflowDSPyConfig(
            tracking_uri=uri,
            experiment_name="chaos",
            spool_directory=directory / "spool",
            write_ahead=True,
            schedule_delay_seconds=0.1,
            request_timeout_seconds=5.0,
        )
    )
    provider = TracerProvider()
    provider.add_span_processor(processor)
    tracer = provider.get_tracer("opentelemetry.instrumentation.dspy")
    ended = os.open(directory / f"{name}.ended", os.O_CREAT | os.O_WRONLY | os.O_APPEND)
    unsafe = []
    number = 0
    while not stop.exists():
        names = [f"{name}-{number}-{part}" for part in ("root", "module", "model")]
        number += 1
        was_full = full.exists()
        with tracer.start_as_current_span(names[0], attributes={"text": "x" * 2000}):
            with tracer.start_as_current_span(names[1]):
                tracer.start_span(names[2], attributes={"gen_ai.operation.name": "chat"}).end()
        if was_full or full.exists():
            unsafe += names  # They are in memory only.
            names = []
        elif unsafe and processor.force_flush(60_000):
            names, unsafe = [*names, *unsafe], []
        if names:
            os.write(ended, ("\\n".join(names) + "\\n").encode())
        time.sleep(0.2)
    """
)


@dataclass(frozen=True)
class Size:
    seconds: float
    workers: int
    seconds_between_restarts: float


SIZES = pytest.mark.parametrize(
    "size",
    [
        pytest.param(Size(8.0, 4, 4.0), id="small"),
        pytest.param(Size(600.0, 16, 45.0), id="large", marks=pytest.mark.scale),
    ],
)


class Chaos:
    """Processes that are killed and replaced, half of them with a server that is restarted."""

    def __init__(self, directory: Path, server: MLflowServer, chance: random.Random) -> None:
        self._directory = directory
        self._server = server
        self._chance = chance
        self._made = 0
        self._workers: list[Child] = []
        self.killed = self.restarts = self.times_full = 0

    def start_worker(self) -> None:
        uri = self._server.uri if self._made % 2 else self._server.store_uri
        path = os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])
        worker = MLFLOW.start(
            WORKER,
            f"worker{self._made}",
            uri,
            str(self._directory),
            env={**os.environ, "PYTHONPATH": path},
            cwd=self._directory,
            ignore_warnings=True,
        )
        self._made += 1
        self._workers.append(worker)

    def kill_one(self) -> None:
        worker = self._workers.pop(self._chance.randrange(len(self._workers)))
        assert worker.poll() is None, worker.stderr.read()
        worker.kill()
        worker.communicate()
        self.killed += 1
        self.start_worker()

    def restart_server(self) -> None:
        self._server.stop()
        time.sleep(self._chance.uniform(0.2, 3.0))
        self._server.start()
        self.restarts += 1

    def fill_disk(self) -> None:
        """No worker is killed meanwhile: its spans would be in memory only."""
        full = self._directory / "disk-is-full"
        full.touch()
        time.sleep(self._chance.uniform(1.0, 2.0))
        full.unlink()
        self.times_full += 1

    def stop(self) -> None:
        (self._directory / "stop").touch()
        for worker in self._workers:
            _, errors = worker.communicate(timeout=300)
            assert worker.returncode == 0, errors

    def run(self, size: Size) -> None:
        until = time.monotonic() + size.seconds
        restart_at = time.monotonic() + size.seconds_between_restarts
        for _ in range(size.workers):
            self.start_worker()
        while time.monotonic() < until:
            time.sleep(self._chance.uniform(0.2, 1.5))
            if time.monotonic() > restart_at:
                self.restart_server()
                self.fill_disk()
                restart_at = time.monotonic() + size.seconds_between_restarts
            else:
                self.kill_one()
        self.stop()


@SIZES
def test_every_span_is_accounted_for(size: Size, empty_store: Path, tmp_path: Path) -> None:
    shutil.copyfile(empty_store, tmp_path / "mlflow.db")
    with MLflowServer(tmp_path, start_timeout=300) as server:
        chaos = Chaos(tmp_path, server, random.Random(17))
        chaos.run(size)
        assert chaos.killed
        assert chaos.restarts
        assert chaos.times_full
        for uri in (server.uri, server.store_uri):
            config = MLflowDSPyConfig(
                tracking_uri=uri, experiment_name="chaos", spool_directory=tmp_path / "spool"
            )
            done = deliver_spool(config=config, timeout_seconds=600.0)
            assert done.complete, done
            assert done.lost == 0
    ended = [
        name for file in tmp_path.glob("*.ended") for name in file.read_text("utf-8").split("\n")
    ]
    stored = Counter(names_in(tmp_path / "mlflow.db"))
    assert {*ended} - {""} - stored.keys() == set()
    assert max(stored.values()) == 1


def names_in(store: Path) -> list[str]:
    with sqlite3.connect(store) as connection:
        return [name for (name,) in connection.execute("SELECT name FROM spans")]
