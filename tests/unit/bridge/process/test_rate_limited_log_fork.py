# Copyright The opentelemetry-instrumentation-dspy Authors
# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import logging
import os
import signal
import threading

import pytest

from mlflow_bridge._process.rate_limited_log import RateLimitedLogger


@pytest.mark.skipif(not hasattr(os, "fork"), reason="there is no fork here")
def test_a_child_that_is_forked_while_another_thread_warns_goes_on() -> None:
    notices = RateLimitedLogger(logging.getLogger("test"))
    held, forked = threading.Event(), threading.Event()

    def hold() -> None:
        with notices._lock:
            held.set()
            forked.wait(60)

    thread = threading.Thread(target=hold)
    thread.start()
    assert held.wait(60)
    child = os.fork()
    if child == 0:
        signal.alarm(10)  # otherwise a deadlock would last for ever
        try:
            notices.warning("kind", "message")
            os._exit(0)
        finally:
            os._exit(1)
    _, status = os.waitpid(child, 0)
    forked.set()
    thread.join()
    assert os.waitstatus_to_exitcode(status) == 0
