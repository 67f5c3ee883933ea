# Copyright The opentelemetry-instrumentation-dspy Authors
# SPDX-License-Identifier: Apache-2.0
"""SIGTERM, in real processes."""

from __future__ import annotations

import os
import signal
from collections import Counter
from pathlib import Path

import pytest

from tests.process.bridge.programs import once, run

pytestmark = pytest.mark.skipif(os.name != "posix", reason="needs signals")

HANDLE = """
from mlflow_bridge._setup.sigterm import handle_sigterm
import threading
assert handle_sigterm(threading.main_thread(), 100.0)
"""
TERMINATE = "os.kill(os.getpid(), signal.SIGTERM)\n"


def test_without_opting_in_nothing_is_installed(tmp_path: Path) -> None:
    source = "assert signal.getsignal(signal.SIGTERM) is signal.SIG_DFL\nwork('main')\n" + TERMINATE
    assert run(source, tmp_path, -signal.SIGTERM) == {}


def test_what_waits_is_delivered_and_the_process_ends_as_it_would_have(tmp_path: Path) -> None:
    source = f"{HANDLE}work('main')\n{TERMINATE}"
    assert run(source, tmp_path, -signal.SIGTERM) == once("main")


def test_spans_that_are_open_are_delivered_as_well(tmp_path: Path) -> None:
    source = f"""{HANDLE}
with trace.get_tracer("test").start_as_current_span("open"):
    work("main")
    {TERMINATE}
"""
    assert run(source, tmp_path, -signal.SIGTERM) == once("main") + Counter(["open"])


def test_the_handler_of_the_program_runs_afterwards(tmp_path: Path) -> None:
    source = f"""
def leave(number, frame):
    print(OUT.read_text(), file=sys.stderr)
    assert OUT.exists(), "called before the delivery"
    sys.exit(7)

signal.signal(signal.SIGTERM, leave)
{HANDLE}
work("main")
{TERMINATE}
"""
    assert run(source, tmp_path, 7) == once("main")


def test_a_program_that_goes_on_keeps_its_open_spans(tmp_path: Path) -> None:
    source = f"""
signal.signal(signal.SIGTERM, signal.SIG_IGN)
{HANDLE}
span = trace.get_tracer("test").start_span("open")
{TERMINATE}
assert span.is_recording()
span.end()
work("after")
"""
    assert run(source, tmp_path) == once("after") + Counter(["open"])


EXITING = f"""
import threading, time
from mlflow_bridge._export.contract import Retry

class Away(FileDelivery):
    attempts = 0
    def deliver(self, spans):
        # The exit is under way, and waits for this.
        if not threading.main_thread().is_alive():
            Away.attempts += 1
            if Away.attempts == 1:
                {TERMINATE}
        return super().deliver(spans) if Away.attempts > 3 else Retry("not yet")

provider = TracerProvider()
provider.add_span_processor(DeliveryProcessor(Away(OUT), exit_timeout_seconds=60.0))
"""


@pytest.mark.parametrize("previous", ["the default", "a handler"])
def test_a_process_that_exits_already_delivers_all_the_same(tmp_path: Path, previous: str) -> None:
    """From Python 3.12 on, no thread can be started there."""
    note = "signal.signal(signal.SIGTERM, lambda *_: OUT.open('a').write('handled\\n'))\n"
    source = EXITING + (note if previous == "a handler" else "") + HANDLE
    source += 'provider.get_tracer("test").start_span("span").end()\n'
    expected = {"span": 1, "handled": 1} if previous == "a handler" else {"span": 1}
    assert run(source, tmp_path) == expected


def test_without_a_thread_to_spare_the_signal_is_passed_on(tmp_path: Path) -> None:
    source = f"""{HANDLE}
import threading

def no_thread(self):
    raise RuntimeError("can't start new thread")

work("main")
threading.Thread.start = no_thread
{TERMINATE}
"""
    run(source, tmp_path, -signal.SIGTERM)


def test_in_another_thread_nothing_is_installed(tmp_path: Path) -> None:
    source = """
import threading
from mlflow_bridge._setup.sigterm import handle_sigterm

answers = []
owner = threading.main_thread()
thread = threading.Thread(target=lambda: answers.append(handle_sigterm(owner, 5.0)))
thread.start()
thread.join()
assert answers == [False]
assert signal.getsignal(signal.SIGTERM) is signal.SIG_DFL
"""
    assert run(source, tmp_path) == {}


def test_a_lock_that_the_interrupted_code_holds_does_not_hang_the_process(tmp_path: Path) -> None:
    source = """
from mlflow_bridge._setup.sigterm import handle_sigterm
from opentelemetry.sdk.trace import TracerProvider

import threading
handle_sigterm(threading.main_thread(), 0.2)
provider = TracerProvider()
processor = DeliveryProcessor(FileDelivery(OUT))
provider.add_span_processor(processor)
provider.get_tracer("test").start_span("span").end()
with processor._sender._changed:
    os.kill(os.getpid(), signal.SIGTERM)
"""
    run(source, tmp_path, -signal.SIGTERM)
