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
assert handle_sigterm(threading.main_thread(), 100.0, is_asked_for=True)
"""
# As uvicorn: it handles the signal, shuts down, and raises it with the action of before.
SERVER = """
import contextlib

@contextlib.contextmanager
def capture_signals():
    captured = []
    def handle(number, frame):
        captured.append(number)
    original = signal.signal(signal.SIGTERM, handle)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, original)
    for number in captured:
        signal.raise_signal(number)
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
thread = threading.Thread(
    target=lambda: answers.append(handle_sigterm(owner, 5.0, is_asked_for=True))
)
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
handle_sigterm(threading.main_thread(), 0.2, is_asked_for=True)
provider = TracerProvider()
processor = DeliveryProcessor(FileDelivery(OUT))
provider.add_span_processor(processor)
provider.get_tracer("test").start_span("span").end()
with processor._sender._changed:
    os.kill(os.getpid(), signal.SIGTERM)
"""
    run(source, tmp_path, -signal.SIGTERM)


@pytest.mark.parametrize("set_up", ["before the server", "in the server", "in its event loop"])
def test_a_server_that_raises_the_signal_again_after_its_shutdown(
    set_up: str, tmp_path: Path
) -> None:
    serve = f"""
    {TERMINATE}
    work("in flight")  # while the server shuts down
"""
    if set_up == "before the server":
        source = f"{SERVER}{HANDLE}\nwith capture_signals():{serve}"
    elif set_up == "in the server":
        handle = HANDLE.replace("\n", "\n    ")
        source = f"{SERVER}\nwith capture_signals():{handle}{serve}"
    else:
        handle = HANDLE.replace("\n", "\n        ")
        source = f"""{SERVER}
import asyncio

async def main():
    with capture_signals():{handle}
        work("answered")
        {TERMINATE}
        work("in flight")

asyncio.run(main())
"""
    expected = once("in flight") + (once("answered") if "loop" in set_up else Counter())
    assert run(source, tmp_path, -signal.SIGTERM) == expected


def test_a_server_that_puts_the_default_action_back_in_its_workers(tmp_path: Path) -> None:
    source = f"""{HANDLE}
signal.signal(signal.SIGTERM, lambda *_: None)  # the server, after it has loaded the program
child = os.fork()
if child == 0:
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    work("worker")
    {TERMINATE}
assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == -signal.SIGTERM
"""
    assert run(source, tmp_path) == once("worker")


def test_the_handler_of_an_event_loop_does_not_wait_for_the_delivery(tmp_path: Path) -> None:
    source = f"""
import asyncio, threading
answered = threading.Event()

class Waiting(FileDelivery):
    def deliver(self, spans):
        answered.wait(PATIENCE)
        return super().deliver(spans)

provider = TracerProvider()
provider.add_span_processor(DeliveryProcessor(Waiting(OUT), exit_timeout_seconds=PATIENCE))
provider.get_tracer("test").start_span("span").end()

async def main():
    stop = asyncio.Event()
    signal.signal(signal.SIGTERM, lambda *_: stop.set())
    {HANDLE.replace(chr(10), chr(10) + "    ")}
    {TERMINATE}
    await stop.wait()
    answered.set()

asyncio.run(main())
"""
    assert run(source, tmp_path) == {"span": 1}


@pytest.mark.parametrize("previous", ["the default", "a handler"])
def test_a_second_signal_ends_the_wait(previous: str, tmp_path: Path) -> None:
    note = "signal.signal(signal.SIGTERM, lambda *_: sys.exit(7))\n"
    source = f"""
import threading
class Hanging(FileDelivery):
    def deliver(self, spans):
        os.kill(os.getpid(), signal.SIGTERM)
        threading.Event().wait()

{note if previous == "a handler" else ""}
from mlflow_bridge._setup.sigterm import handle_sigterm
handle_sigterm(threading.main_thread(), 3600.0, is_asked_for=True)
provider = TracerProvider(shutdown_on_exit=False)
processor = DeliveryProcessor(
    Hanging(OUT), exit_timeout_seconds=3600.0, schedule_delay_seconds=3600
)
provider.add_span_processor(processor)
provider.get_tracer("test").start_span("span").end()
try:
    {TERMINATE}
finally:
    processor.close(0.0)
"""
    code = 7 if previous == "a handler" else -signal.SIGTERM
    run(source, tmp_path, code)


def test_a_handler_that_the_program_sets_later_stays_alone(tmp_path: Path) -> None:
    source = f"""{HANDLE}
def own(number, frame):
    pass
signal.signal(signal.SIGTERM, own)
assert signal.getsignal(signal.SIGTERM) is own
"""
    assert run(source, tmp_path) == {}


def test_a_daemonic_child_ends_without_a_wait(tmp_path: Path) -> None:
    """Its spans are on disk, and its parent waits for its end and delivers them."""
    source = f"""{HANDLE}
import multiprocessing, threading, time
from mlflow_bridge._setup import sigterm

def child():
    sigterm.TerminationHandler._deliver = lambda self: os._exit(9)
    ready.set()
    threading.Event().wait()

context = multiprocessing.get_context("fork")
ready = context.Event()
process = context.Process(target=child, daemon=True)
process.start()
assert ready.wait(PATIENCE)
process.terminate()
process.join(PATIENCE)
assert process.exitcode == -signal.SIGTERM, process.exitcode
"""
    assert run(source, tmp_path) == {}


def test_a_daemonic_child_of_a_parent_that_delivers_nothing_delivers(tmp_path: Path) -> None:
    source = f"""
import multiprocessing, threading

def child():
    traced()
    work("child")
    {HANDLE.strip().replace(chr(10), chr(10) + "    ")}
    {TERMINATE}

process = multiprocessing.get_context("fork").Process(target=child, daemon=True)
process.start()
process.join(PATIENCE)
assert process.exitcode == -signal.SIGTERM, process.exitcode
"""
    assert run(source, tmp_path) == once("child")


def test_a_child_that_has_just_been_forked_is_terminated(tmp_path: Path) -> None:
    """The interpreter forgets signals that arrive before it has done its own work in a child."""
    source = f"""
import time
{HANDLE}
lost = []
for number in range(200):
    child = os.fork()
    if not child:
        time.sleep(100)
        os._exit(0)
    os.kill(child, signal.SIGTERM)
    for _ in range(2000):
        ended, status = os.waitpid(child, os.WNOHANG)
        if ended:
            assert os.WIFSIGNALED(status) and os.WTERMSIG(status) == signal.SIGTERM, status
            break
        time.sleep(0.005)
    else:
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
        lost.append(number)
        break
assert not lost, lost
assert signal.SIGTERM not in signal.pthread_sigmask(signal.SIG_BLOCK, [])
work("main")
"""
    assert run(source, tmp_path) == once("main")
