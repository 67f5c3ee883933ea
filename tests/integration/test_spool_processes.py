# Copyright The opentelemetry-instrumentation-dspy Authors
# SPDX-License-Identifier: Apache-2.0
"""Processes that die, share a spool, and deliver what others left: spans in, spans stored."""

from __future__ import annotations

import os
import signal
import sqlite3
import textwrap
from collections import Counter
from pathlib import Path

import pytest

from tests import ROOT
from tests.support.children import MLFLOW, SDK, Child, Zygote

pytestmark = pytest.mark.integration

PREAMBLE = """
import os, signal, sys, threading, time
from pathlib import Path
from mlflow_bridge._export.contract import Retry
from tests.support.fake_delivery import DeliveryProcessor
from mlflow_bridge._delivery.spool.spool import Spool
from opentelemetry.sdk.trace import TracerProvider
from tests.support.fake_delivery import FAST, FileDelivery, wait_until

OUT, SPOOL = Path("spans.txt"), Path("spool")

class Down(FileDelivery):
    def deliver(self, spans):
        return Retry("connection refused")

class Hanging(FileDelivery):
    entered = threading.Event()
    def deliver(self, spans):
        self.entered.set()
        time.sleep(3600)

class Slow(FileDelivery):
    def deliver(self, spans):
        time.sleep(0.02)
        return super().deliver(spans)

def start(delivery, write_ahead=False, **options):
    global processor, tracer
    settings = {"backoff": FAST, "exit_timeout_seconds": 1.0, **options}
    spool = Spool(SPOOL, write_ahead=write_ahead)
    processor = DeliveryProcessor(delivery(OUT), spool=spool, **settings)
    provider = TracerProvider()
    provider.add_span_processor(processor)
    tracer = provider.get_tracer("test")

def end(prefix, count):
    for n in range(count):
        tracer.start_span(f"{prefix} {n}", attributes={"text": "x" * 500}).end()
"""

NEXT = """
start(FileDelivery)
processor.warm_up()
wait_until(lambda: not list(SPOOL.glob("*.jsonl")))
print(processor.status().redelivered, processor.status().spool_dropped)
"""


def start(source: str, tmp_path: Path, zygote: Zygote = SDK, **environment: str) -> Child:
    path = os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])
    return zygote.start(
        PREAMBLE + textwrap.dedent(source),
        env={**os.environ, "PYTHONPATH": path, **environment},
        cwd=tmp_path,
        ignore_warnings=True,
    )


def finish(process: Child, returncode: int = 0) -> tuple[str, str]:
    output, errors = process.communicate(timeout=300)
    assert process.returncode == returncode, errors
    return output, errors


def run(source: str, tmp_path: Path, returncode: int = 0) -> tuple[str, str]:
    return finish(start(source, tmp_path), returncode)


def stored(tmp_path: Path) -> Counter[str]:
    file = tmp_path / "spans.txt"
    return Counter(file.read_text().splitlines() if file.exists() else [])


def spans(count: int, *prefixes: str) -> Counter[str]:
    return Counter(f"{prefix} {n}" for prefix in prefixes for n in range(count))


@pytest.mark.parametrize(
    ("ending", "returncode"),
    [
        ("os.kill(os.getpid(), signal.SIGKILL)", -signal.SIGKILL),
        ("os.kill(os.getpid(), signal.SIGTERM)", -signal.SIGTERM),
        ("os._exit(3)", 3),
    ],
)
@pytest.mark.parametrize("delivery", ["Hanging", "Down"])
def test_write_ahead_survives_every_death(
    tmp_path: Path, ending: str, returncode: int, delivery: str
) -> None:
    program = f"start({delivery}, write_ahead=True, max_queue_size=700)\nend('span', 1000)\n"
    run(program + ending, tmp_path, returncode)
    assert stored(tmp_path) == Counter()
    output, _ = run(NEXT, tmp_path)
    assert stored(tmp_path) == spans(1000, "span")
    assert output.split() == ["1000", "0"]


def test_killed_from_outside_at_any_moment(tmp_path: Path) -> None:
    """Every span of which the program knew that it had ended is stored."""
    program = """
        start(Slow, write_ahead=True, schedule_delay_seconds=0.01)
        for n in range(1_000_000):
            end(f"round {n}", 5)
            print(n, flush=True)
    """
    process = start(program, tmp_path)
    last = 0
    for _ in range(400):
        last = int(process.stdout.readline())
    process.kill()
    rest, _ = finish(process, -signal.SIGKILL)
    last = max([last, *map(int, rest.split("\n")[:-1])])
    run(NEXT, tmp_path)
    ended = spans(5, *(f"round {n}" for n in range(last + 1)))
    assert ended.keys() - stored(tmp_path).keys() == set()


def test_destination_down_at_exit(tmp_path: Path) -> None:
    _, errors = run("start(Down, exit_timeout_seconds=5.0)\nend('span', 1000)", tmp_path)
    line = errors.strip().splitlines()[-1]
    assert "1000 of 1000 spans are not in the file: 0 lost, 0 refused, 1000 kept in" in line
    assert "delivered by the next process" in line
    output, errors = run(NEXT, tmp_path)
    assert (output.split(), errors) == (["1000", "0"], "")
    assert stored(tmp_path) == spans(1000, "span")


def test_exit_keeps_to_its_time_with_a_full_queue_and_a_hanging_destination(
    tmp_path: Path,
) -> None:
    program = """
        start(Hanging, exit_timeout_seconds=2.0)
        end("span", 4_000)
        Hanging.entered.wait()
        begun = time.monotonic()
        processor.shutdown()
        print(time.monotonic() - begun, processor.status().kept, processor.status().dropped)
    """
    output, _ = run(program, tmp_path)
    seconds, kept, dropped = output.split()
    assert float(seconds) < 60  # It would hang for an hour.
    # On a busy machine there is not time for all of them; then the rest is counted.
    assert int(kept) > 0
    assert int(kept) + int(dropped) == 4_000
    run(NEXT, tmp_path)
    assert stored(tmp_path) == spans(int(kept), "span")


def test_processes_share_one_spool(tmp_path: Path) -> None:
    program = """
        name = os.environ["NAME"]
        start(Slow, max_queue_size=50, max_batch_size=10, exit_timeout_seconds=30.0,
              write_ahead=name.endswith("1"))
        end(name, 500)
        assert processor.force_flush()
        assert processor.status().spilled > 0
    """
    names = [f"process {n}" for n in range(3)]
    processes = [start(program, tmp_path, NAME=name) for name in names]
    for process in processes:
        assert finish(process)[1] == ""
    assert stored(tmp_path) == spans(500, *names)
    run(NEXT, tmp_path)
    assert stored(tmp_path) == spans(500, *names)


def test_torn_line_of_a_killed_process(tmp_path: Path) -> None:
    kill = "os.kill(os.getpid(), signal.SIGKILL)"
    run(f"start(Down, write_ahead=True)\nend('span', 10)\n{kill}", tmp_path, -signal.SIGKILL)
    (file,) = (tmp_path / "spool").iterdir()
    file.write_bytes(file.read_bytes()[:-100])
    output, errors = run(NEXT, tmp_path)
    assert output.split() == ["9", "1"]
    assert "torn" in errors
    assert stored(tmp_path) == spans(9, "span")


def test_killed_in_the_middle_of_a_redelivery(tmp_path: Path) -> None:
    run("start(Down, exit_timeout_seconds=5.0)\nend('span', 1000)", tmp_path)
    program = """
        start(Slow, max_batch_size=10)
        processor.warm_up()
        wait_until(lambda: processor.status().redelivered >= 200)
        os.kill(os.getpid(), signal.SIGKILL)
    """
    run(program, tmp_path, -signal.SIGKILL)
    assert 200 <= len(stored(tmp_path)) < 1000
    run(NEXT, tmp_path)
    assert stored(tmp_path).keys() == spans(1000, "span").keys()


@pytest.mark.parametrize("write_ahead", [True, False])
def test_a_forked_child_has_a_spool_of_its_own(tmp_path: Path, write_ahead: bool) -> None:
    program = f"""
        start(Down, write_ahead={write_ahead}, max_queue_size=20, block_seconds=0)
        end("parent", 30)
        child = os.fork()
        end("child" if child == 0 else "parent after", 30)
        if child == 0:
            processor.close()
            os._exit(0)
        os.waitpid(child, 0)
        # A thread writes them to the disk.
        wait_until(lambda: processor.status().spilled == 40)
    """
    run(program, tmp_path)
    run(NEXT, tmp_path)
    assert stored(tmp_path) == spans(30, "parent", "parent after", "child")


def test_parent_still_owns_its_files_after_its_child_has_ended(tmp_path: Path) -> None:
    program = """
        start(Down, write_ahead=True)
        end("parent", 10)
        if os.fork() == 0:
            os._exit(0)
        os.wait()
        print("ready", flush=True)
        time.sleep(3600)
    """
    process = start(program, tmp_path)
    process.stdout.readline()
    look = "start(FileDelivery)\nprint(processor._spool.acquire())"
    try:
        assert run(look, tmp_path)[0].split() == ["None"]
    finally:
        process.kill()
        process.communicate()
    run(NEXT, tmp_path)
    assert stored(tmp_path) == spans(10, "parent")


def test_store_that_was_not_reached_in_time(tmp_path: Path, store_uri: str) -> None:
    """The whole of it: settings, SQL store, and a process that ends without any notice."""
    first = """
        import mlflow_bridge
        from opentelemetry import trace
        mlflow_bridge.autolog()
        tracer = trace.get_tracer("program")
        with tracer.start_as_current_span("root", attributes={"gen_ai.operation.name": "chat"}):
            for n in range(99):
                tracer.start_span(f"step {n}").end()
        os._exit(0)
    """
    second = """
        import mlflow_bridge
        from opentelemetry import trace
        mlflow_bridge.autolog()
        directory = Path(os.environ["MLFLOW_DSPY_SPOOL_DIRECTORY"])
        wait_until(lambda: not list(directory.glob("*/*.jsonl")))
        trace.get_tracer_provider().shutdown()
    """
    settings = {
        "MLFLOW_TRACKING_URI": store_uri,
        "MLFLOW_DSPY_WRITE_AHEAD": "true",
        "MLFLOW_DSPY_SPOOL_DIRECTORY": str(tmp_path / "spool"),
    }
    finish(start(first, tmp_path, MLFLOW, **settings))
    (file,) = (tmp_path / "spool").glob("*/*.jsonl")
    assert len(file.read_text().splitlines()) == 100
    finish(start(second, tmp_path, MLFLOW, **settings))
    with sqlite3.connect(store_uri.removeprefix("sqlite:///")) as store:
        assert store.execute("SELECT count(*) FROM spans").fetchall() == [(100,)]
        assert store.execute("SELECT status FROM trace_info").fetchall() == [("OK",)]
