# Copyright The opentelemetry-instrumentation-dspy Authors
# SPDX-License-Identifier: Apache-2.0
"""Children that are forked in the middle of something."""

from __future__ import annotations

import logging
import os
import signal
import threading
from collections.abc import Sequence

import pytest
from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.trace import Span, Tracer, set_span_in_context

from mlflow_bridge._delivery import metrics as self_metrics
from mlflow_bridge._export.contract import Outcome
from mlflow_bridge._export.lending import Lending
from mlflow_bridge._process.rate_limited_log import RateLimitedLogger
from mlflow_bridge._spans.lent_values import lent_to
from mlflow_bridge._spans.names import INPUTS
from mlflow_bridge._spans.tracer_provider import SystemRandomIdGenerator
from tests.support.dspy_spans import json_of
from tests.support.fake_delivery import DeliveryProcessor, FakeDelivery, tracer_for

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


class Lent(FakeDelivery):
    """Remembers what each root without values is lent."""

    def __init__(self) -> None:
        super().__init__()
        self._lending = Lending()
        self.inputs: list[object] = []

    def deliver(self, spans: Sequence[ReadableSpan]) -> Outcome:
        self.inputs += [lent_to(span).get(INPUTS) for span in spans if span.name == "GET /ask"]
        return super().deliver(spans)


def test_a_child_that_is_forked_while_another_thread_ends_spans_lends_its_own_values() -> None:
    delivery = Lent()
    processor = DeliveryProcessor(delivery)
    tracer = tracer_for(processor)
    root = tracer.start_span("GET /ask")
    _end_program(tracer, root, "of the parent")
    held, forked = threading.Event(), threading.Event()

    def hold() -> None:
        with delivery._lending._lock:
            held.set()
            forked.wait(60)

    thread = threading.Thread(target=hold)
    thread.start()
    assert held.wait(60)
    child = os.fork()
    if child == 0:
        signal.alarm(20)  # otherwise a deadlock would last for ever
        try:
            own = tracer.start_span("GET /ask")
            _end_program(tracer, own, "of the child")
            own.end()
            # Its program has ended in the parent, and only there.
            root.end()
            assert processor.force_flush()
            assert delivery.inputs == [json_of({"question": "of the child"}), None]
            os._exit(0)
        finally:
            os._exit(1)
    _, status = os.waitpid(child, 0)
    forked.set()
    thread.join()
    root.end()
    processor.shutdown()
    assert os.waitstatus_to_exitcode(status) == 0
    assert delivery.inputs == [json_of({"question": "of the parent"})]


def _end_program(tracer: Tracer, root: Span, question: str) -> None:
    attributes = {
        "dspy.operation": "module",
        "dspy.module.input": json_of({"question": question}),
    }
    tracer.start_span("program", set_span_in_context(root), attributes=attributes).end()
