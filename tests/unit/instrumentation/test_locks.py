# Copyright The opentelemetry-instrumentation-dspy Authors
# SPDX-License-Identifier: Apache-2.0
"""A call that ends while telemetry holds a lock: in the same thread, or before a fork."""

from __future__ import annotations

import gc
import os
import threading
from collections.abc import Generator
from contextvars import copy_context
from typing import Any

import pytest

from opentelemetry.instrumentation.dspy._operations.lm.record import LMRecord
from tests.support.lms import EchoLM
from tests.support.traced import Traced
from tests.unit.instrumentation.processes import run_python


class Forever:
    def __await__(self) -> Generator[None, None, None]:
        yield


class Waiting(EchoLM):
    async def acall(self, *args: Any, **kwargs: Any) -> Any:
        await Forever()


class Routing(EchoLM):
    """An LM that asks another one, which is told to its record while the lock is held."""

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        EchoLM()("inner")
        return super().forward(*args, **kwargs)


def abandoned_call() -> None:
    """Leave an unfinished LM call to the garbage collector."""
    call = Waiting().acall("hello")
    copy_context().run(call.send, None)
    cycle: list[Any] = [call]
    cycle.append(cycle)


def test_a_call_that_is_collected_while_another_ends(
    traced: Traced, monkeypatch: pytest.MonkeyPatch
) -> None:
    ended: list[str] = []
    add_nested = LMRecord.add_nested

    def collecting(*args: Any) -> None:
        gc.collect()
        ended.append("inside")
        add_nested(*args)

    def work() -> None:
        abandoned_call()
        Routing()("hello")
        ended.append("outside")

    with monkeypatch.context() as patch:
        patch.setattr(LMRecord, "add_nested", collecting)
        gc.disable()
        try:
            worker = threading.Thread(target=work, daemon=True)
            worker.start()
            worker.join(30)
        finally:
            gc.enable()
    assert ended == ["inside", "outside"]
    assert sorted(traced.names()) == ["chat echo"] * 3


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork")
def test_a_child_that_is_forked_while_another_thread_ends_a_call() -> None:
    code = """
        import os, signal, threading
        import dspy
        from opentelemetry.sdk.trace import TracerProvider
        from opentelemetry.instrumentation.dspy import DSPyInstrumentor
        from opentelemetry.instrumentation.dspy._operations.lm.record import LMRecord
        from tests.support.lms import EchoLM
        from tests.unit.instrumentation.test_locks import Routing

        DSPyInstrumentor().instrument(tracer_provider=TracerProvider())
        held, go_on = threading.Event(), threading.Event()
        add_nested = LMRecord.add_nested

        def holding(*args):
            held.set()
            go_on.wait()
            add_nested(*args)

        LMRecord.add_nested = holding
        thread = threading.Thread(target=Routing(), args=("hello",))
        thread.start()
        assert held.wait(30)
        child = os.fork()
        if child == 0:
            signal.alarm(30)  # ends a child that waits for ever
            EchoLM()("hello")
            os._exit(0)
        print(os.waitpid(child, 0)[1])
        go_on.set()
        thread.join()
    """
    assert run_python(code) == ["0"]
