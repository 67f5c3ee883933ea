# Copyright The opentelemetry-instrumentation-dspy Authors
# SPDX-License-Identifier: Apache-2.0
"""Forks and exits, in real processes: each span is delivered once, by the process that ended it."""

from __future__ import annotations

import multiprocessing
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.process.bridge.programs import once, run

METHODS = multiprocessing.get_all_start_methods()


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
    source = f"work('main')\n{ending}"
    assert run(source, tmp_path, returncode, new_interpreter=True) == once("main")


def test_a_provider_that_nobody_shuts_down(tmp_path: Path) -> None:
    source = """
        provider = TracerProvider(shutdown_on_exit=False)
        provider.add_span_processor(
            patient(FileDelivery(OUT), schedule_delay_seconds=3600)
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
        processor = patient(Waiting(OUT), max_batch_size=1)
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


@pytest.mark.parametrize("method", METHODS)
def test_multiprocessing_processes(method: str, tmp_path: Path) -> None:
    source = f"""
        def returns():
            work("returns")

        def exits():
            work("exits")
            sys.exit(0)

        if __name__ == "__main__":
            work("main")
            context = multiprocessing.get_context("{method}")
            processes = [context.Process(target=target) for target in (returns, exits)]
            for process in processes:
                process.start()
            for process in processes:
                process.join()
                assert process.exitcode == 0
    """
    assert run(source, tmp_path) == once("main", "returns", "exits")


@pytest.mark.parametrize("method", METHODS)
def test_process_pools(method: str, tmp_path: Path) -> None:
    # Each worker that is not forked imports the SDK.
    workers = 2 if method == "fork" else 1
    source = f"""
        if __name__ == "__main__":
            context = multiprocessing.get_context("{method}")
            with ProcessPoolExecutor({workers}, mp_context=context) as executor:
                list(executor.map(work, "abcd"))
            pool = context.Pool({workers})
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
                patient(FileDelivery(OUT), schedule_delay_seconds=3600)
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


def test_the_objects_of_modules_print_nothing_at_the_end() -> None:
    source = "from mlflow_bridge import MLflowBatchSpanProcessor, autolog"
    done = subprocess.run(
        [sys.executable, "-c", source], capture_output=True, text=True, check=True, timeout=300
    )
    assert done.stderr == ""
