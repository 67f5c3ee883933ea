# Copyright The opentelemetry-instrumentation-dspy Authors
# SPDX-License-Identifier: Apache-2.0
"""Children that are forked in the middle of something."""

from __future__ import annotations

import logging
import os
import signal
import threading

import pytest

from mlflow_bridge._delivery import metrics as self_metrics
from mlflow_bridge._process.rate_limited_log import RateLimitedLogger
from mlflow_bridge._spans.tracer_provider import SystemRandomIdGenerator
from tests.support.fake_delivery import DeliveryProcessor, FakeDelivery

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="there is no fork here")


def test_a_child_that_is_forked_while_a_thread_registers_goes_on() -> None:
    with self_metrics._lock:
        child = os.fork()
        if child == 0:
            signal.alarm(20)  # otherwise a deadlock would last for ever
            try:
                DeliveryProcessor(FakeDelivery()).shutdown()
                os._exit(0)
            finally:
                os._exit(1)
        _, status = os.waitpid(child, 0)
    assert os.waitstatus_to_exitcode(status) == 0


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


def test_a_forked_child_has_other_ids_than_its_parent() -> None:
    generator = SystemRandomIdGenerator()
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        os.write(writing, str(generator.generate_trace_id()).encode())
        os._exit(0)
    os.waitpid(child, 0)
    os.close(writing)
    with os.fdopen(reading) as file:
        in_child = int(file.read())
    assert in_child != generator.generate_trace_id()
