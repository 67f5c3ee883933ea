# Copyright The opentelemetry-instrumentation-dspy Authors
# SPDX-License-Identifier: Apache-2.0
"""Forks and exits, in real processes: each span is delivered once, by the process that ended it."""

from __future__ import annotations

import os
import subprocess
import sys
import textwrap
from collections import Counter
from pathlib import Path

import pytest

from tests import ROOT

SOURCES = (ROOT, ROOT / "mlflow_bridge/src", ROOT / "opentelemetry-instrumentation-dspy/src")

PREAMBLE = """
import multiprocessing, os, signal, sys
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from tests.support.fake_delivery import DeliveryProcessor
from opentelemetry import trace
from opentelemetry.sdk.trace import TracerProvider
from tests.support.fake_delivery import FileDelivery, PATIENCE

OUT = Path(os.environ["SPANS_FILE"])

def traced():
    provider = TracerProvider()
    # Longer than any of these programs live: what arrives was delivered by an exit.
    provider.add_span_processor(
        DeliveryProcessor(FileDelivery(OUT), schedule_delay_seconds=3600)
    )
    trace.set_tracer_provider(provider)

traced()

def work(name):
    with trace.get_tracer("test").start_as_current_span(f"{name} outer"):
        with trace.get_tracer("test").start_as_current_span(f"{name} inner"):
            return name
"""


def run(source: str, tmp_path: Path, returncode: int = 0) -> Counter[str]:
    """Names of the spans that the program delivered, and how often."""
    script, spans = tmp_path / "program.py", tmp_path / "spans.txt"
    script.write_text(PREAMBLE + textwrap.dedent(source))
    path = os.pathsep.join([*map(str, SOURCES), os.environ.get("PYTHONPATH", "")])
    environment = {**os.environ, "PYTHONPATH": path, "SPANS_FILE": str(spans)}
    done = subprocess.run(
        [sys.executable, "-W", "ignore", str(script)],
        env=environment,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == returncode, done.stderr
    return Counter(spans.read_text().splitlines() if spans.exists() else [])


def once(*names: str) -> Counter[str]:
    return Counter(f"{name} {part}" for name in names for part in ("outer", "inner"))


@pytest.mark.parametrize(
    ("ending", "returncode"),
    [
        ("", 0),
        ("sys.exit(3)", 3),
        ("raise RuntimeError('uncaught')", 1),
        (
            # A shell starts what it runs in the background with this signal ignored.
            "signal.signal(signal.SIGINT, signal.default_int_handler)\n"
            "os.kill(os.getpid(), signal.SIGINT)",
            -2,
        ),
    ],
)
def test_ways_to_exit(ending: str, returncode: int, tmp_path: Path) -> None:
    assert run(f"work('main')\n{ending}", tmp_path, returncode) == once("main")


def test_a_provider_that_nobody_shuts_down(tmp_path: Path) -> None:
    source = """
        provider = TracerProvider(shutdown_on_exit=False)
        provider.add_span_processor(
            DeliveryProcessor(FileDelivery(OUT), schedule_delay_seconds=3600)
        )
        provider.get_tracer("test").start_span("span").end()
    """
    assert run(source, tmp_path) == {"span": 1}


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_fork(tmp_path: Path) -> None:
    source = """
        work("before")
        child = os.fork()
        work("child" if child == 0 else "parent")
        if child:
            assert os.waitpid(child, 0)[1] == 0
    """
    assert run(source, tmp_path) == once("before", "child", "parent")


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_fork_in_the_middle_of_a_delivery(tmp_path: Path) -> None:
    source = """
        import threading
        forked, sending = threading.Event(), threading.Event()

        class Waiting(FileDelivery):
            def deliver(self, spans):
                sending.set()
                forked.wait(PATIENCE)
                return super().deliver(spans)

        provider = TracerProvider()
        processor = DeliveryProcessor(Waiting(OUT), max_batch_size=1)
        provider.add_span_processor(processor)
        tracer = provider.get_tracer("test")
        for index in range(5):
            tracer.start_span(f"before {index}").end()
        assert sending.wait(PATIENCE)
        child = os.fork()
        forked.set()
        if child == 0:
            assert processor.status().queued == 0
            tracer.start_span("child").end()
            assert processor.status().accepted == 1
        else:
            tracer.start_span("parent").end()
            assert os.waitpid(child, 0)[1] == 0
    """
    expected = {f"before {index}": 1 for index in range(5)} | {"child": 1, "parent": 1}
    assert run(source, tmp_path) == expected


@pytest.mark.parametrize("method", ["fork", "spawn", "forkserver"])
@pytest.mark.parametrize("ending", ["", "; sys.exit(0)"])
def test_multiprocessing_process(method: str, ending: str, tmp_path: Path) -> None:
    if method not in _start_methods():
        pytest.skip(f"no start method {method} here")
    source = f"""
        def child():
            work("child"){ending}

        if __name__ == "__main__":
            work("main")
            process = multiprocessing.get_context("{method}").Process(target=child)
            process.start()
            process.join()
            assert process.exitcode == 0
    """
    assert run(source, tmp_path) == once("main", "child")


@pytest.mark.parametrize("method", ["fork", "spawn", "forkserver"])
def test_process_pools(method: str, tmp_path: Path) -> None:
    if method not in _start_methods():
        pytest.skip(f"no start method {method} here")
    source = f"""
        if __name__ == "__main__":
            context = multiprocessing.get_context("{method}")
            with ProcessPoolExecutor(2, mp_context=context) as executor:
                list(executor.map(work, "abcd"))
            pool = context.Pool(2)
            pool.map(work, "efgh")
            pool.close()
            pool.join()
    """
    assert run(source, tmp_path) == once(*"abcdefgh")


def test_a_processor_that_is_made_in_a_multiprocessing_child(tmp_path: Path) -> None:
    source = """
        def child():
            provider = TracerProvider()
            provider.add_span_processor(
                DeliveryProcessor(FileDelivery(OUT), schedule_delay_seconds=3600)
            )
            provider.get_tracer("test").start_span("child").end()

        if __name__ == "__main__":
            process = multiprocessing.Process(target=child)
            process.start()
            process.join()
    """
    assert run(source, tmp_path) == {"child": 1}


def test_a_destination_that_hangs_does_not_hold_up_the_exit(tmp_path: Path) -> None:
    source = """
        import threading

        class Hanging(FileDelivery):
            def deliver(self, spans):
                threading.Event().wait()

        provider = TracerProvider()
        provider.add_span_processor(
            DeliveryProcessor(Hanging(OUT), exit_timeout_seconds=0.2)
        )
        provider.get_tracer("test").start_span("lost").end()
    """
    assert run(source, tmp_path) == {}


def _start_methods() -> list[str]:
    import multiprocessing

    return multiprocessing.get_all_start_methods()


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_a_span_that_is_open_at_a_fork_is_the_parents(tmp_path: Path) -> None:
    source = """
        span = trace.get_tracer("test").start_span("open")
        child = os.fork()
        if child == 0:
            trace.get_tracer("test").start_span("open in the child")
        else:
            assert os.waitpid(child, 0)[1] == 0
    """
    assert run(source, tmp_path) == {"open": 1, "open in the child": 1}


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_a_child_of_a_process_that_has_closed_the_processor_counts_its_own_spans(
    tmp_path: Path,
) -> None:
    source = """
        provider = TracerProvider()
        processor = DeliveryProcessor(FileDelivery(OUT))
        provider.add_span_processor(processor)
        tracer = provider.get_tracer("test")
        tracer.start_span("parent").end()
        processor.close()
        child = os.fork()
        if child == 0:
            assert processor.status().accepted == 0
            tracer.start_span("child").end()
            status = processor.status()
            assert (status.accepted, status.stored, status.dropped) == (1, 0, 1), status
        else:
            assert os.waitpid(child, 0)[1] == 0
    """
    assert run(source, tmp_path) == {"parent": 1}
