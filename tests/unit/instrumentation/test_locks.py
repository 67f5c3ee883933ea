# Copyright The opentelemetry-instrumentation-dspy Authors
# SPDX-License-Identifier: Apache-2.0
"""A call that ends while telemetry holds a lock: in the same thread, or before a fork."""

from __future__ import annotations

import gc
import threading
from collections.abc import Generator
from contextvars import copy_context
from typing import Any

import pytest

from opentelemetry.instrumentation.dspy._operations.lm.record import LMRecord
from tests.support.lms import EchoLM
from tests.support.traced import Traced


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
