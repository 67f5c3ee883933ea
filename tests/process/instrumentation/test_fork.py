# Copyright The opentelemetry-instrumentation-dspy Authors
# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import os

import pytest

from tests.process.instrumentation.interpreters import run_python


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork")
def test_a_child_that_is_forked_while_another_thread_ends_a_call() -> None:
    code = """
        import os, signal, threading
        import dspy
        from opentelemetry.sdk.trace import TracerProvider
        from opentelemetry.instrumentation.dspy import DSPyInstrumentor
        from opentelemetry.instrumentation.dspy._operations.lm.record import LMRecord
        from tests.support.lms import EchoLM

        # Asks another LM, which is told to its record while the lock is held.
        class Routing(EchoLM):
            def forward(self, *args, **kwargs):
                EchoLM()("inner")
                return super().forward(*args, **kwargs)

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
