# Copyright The opentelemetry-instrumentation-dspy Authors
# SPDX-License-Identifier: Apache-2.0
"""A root without values shows those of its program, whichever way the spans take."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Literal

import pytest
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import Tracer, set_span_in_context

from mlflow_bridge._delivery.spool.spool import Spool
from mlflow_bridge._export.contract import Outcome, Retry, Sent
from mlflow_bridge._export.delivery import Delivery
from mlflow_bridge._export.lending import Lending
from tests.support.dspy_spans import json_of
from tests.support.fake_delivery import (
    FAST,
    PATIENCE,
    DeliveryProcessor,
    FakeDelivery,
    HangingDelivery,
    closing,
    wait_until,
)
from tests.unit.bridge.export.fake_destination import FakeDestination
from tests.unit.bridge.export.mapped_spans import attributes_of

Traces = Literal["genai", "all"]
SHOWN = ({"question": "hi"}, {"answer": "fine"})


class Shown(HangingDelivery):
    """An exporter that remembers request and response of each root, as MLflow shows them."""

    def __init__(self, *, hangs: bool = False) -> None:
        super().__init__()
        self.shown: list[tuple[Any, Any]] = []
        self._lending = Lending()
        if not hangs:
            self.release.set()

    def deliver(self, spans: Sequence[ReadableSpan]) -> Outcome:
        outcome = super().deliver(spans)
        self._lending.note_delivered(spans)
        for span in spans:
            if span.name == "GET /ask":
                fields = attributes_of(span)
                self.shown.append(
                    (fields.get("mlflow.spanInputs"), fields.get("mlflow.spanOutputs"))
                )
        return outcome


def processor_for(
    delivery: FakeDelivery, traces: Traces, path: Path | None = None, **options: Any
) -> DeliveryProcessor:
    spool = None
    if path is not None:
        spool = Spool(path, write_ahead=options.pop("write_ahead", False))
    settings: dict[str, Any] = {
        "traces": traces,
        "spool": spool,
        "schedule_delay_seconds": 0.005,
        "backoff": FAST,
        "exit_timeout_seconds": PATIENCE,
    }
    return DeliveryProcessor(delivery, **(settings | options))


def call(tracer: Tracer, question: str = "hi", answer: str = "fine") -> Callable[[], None]:
    """Run a program below a request; returns what ends the request."""
    root = tracer.start_span("GET /ask")
    end_program(tracer, set_span_in_context(root), question, answer)
    return root.end


def end_program(tracer: Tracer, context: Any, question: str = "hi", answer: str = "fine") -> None:
    attributes = {
        "dspy.operation": "module",
        "dspy.module.input": json_of({"question": question}),
        "dspy.module.output": json_of({"answer": answer}),
    }
    tracer.start_span("program", context, attributes=attributes).end()


@pytest.mark.parametrize("traces", ["genai", "all"])
def test_in_the_queue(traces: Traces) -> None:
    delivery = Shown()
    with closing(processor_for(delivery, traces)) as tracer:
        call(tracer)()
    assert delivery.shown == [SHOWN]


@pytest.mark.parametrize("traces", ["genai", "all"])
def test_a_program_that_was_delivered_long_before_its_root(traces: Traces) -> None:
    delivery = Shown()
    processor = processor_for(delivery, traces)
    with closing(processor) as tracer:
        end = call(tracer)
        assert processor.force_flush()
        wait_until(lambda: processor.status().stored == 1)
        end()
    assert delivery.shown == [SHOWN]


@pytest.mark.parametrize("write_ahead", [False, True])
@pytest.mark.parametrize("which", ["program", "root", "both"])
@pytest.mark.parametrize("traces", ["genai", "all"])
def test_without_a_slot(tmp_path: Path, traces: Traces, which: str, write_ahead: bool) -> None:
    delivery = Shown(hangs=True)
    options = {"max_queue_size": 4, "write_ahead": write_ahead}
    processor = processor_for(delivery, traces, tmp_path, **options)
    with closing(processor) as tracer:
        requests = [tracer.start_span("GET /ask") for _ in range(4)]
        if which == "root":
            for root in requests:
                end_program(tracer, set_span_in_context(root))
        else:
            for _ in range(4):
                end_program(tracer, None)
        assert delivery.entered.wait(PATIENCE)
        if which != "root":
            for root in requests:
                end_program(tracer, set_span_in_context(root))
        if which == "program":
            delivery.release.set()
            wait_until(lambda: processor.status().queued == 0)
        for root in requests:
            root.end()
        if which != "program":
            wait_until(lambda: processor.status().spilled > 0)
        delivery.release.set()
        wait_until(lambda: processor.status().queued == processor.status().spool_bytes == 0)
    assert delivery.shown == [SHOWN] * 4


@pytest.mark.parametrize("write_ahead", [False, True])
@pytest.mark.parametrize("traces", ["genai", "all"])
def test_in_the_spool_of_another_process(tmp_path: Path, traces: Traces, write_ahead: bool) -> None:
    refusing = FakeDelivery(*[Retry("down")] * 1_000)
    processor = processor_for(
        refusing, traces, tmp_path, write_ahead=write_ahead, exit_timeout_seconds=0.01
    )
    with closing(processor) as tracer:
        call(tracer)()
    assert processor.status().kept == 2
    delivery = Shown()
    later = processor_for(delivery, traces, tmp_path)
    with closing(later):
        later.warm_up()
        wait_until(lambda: len(delivery.shown) == 1)
    assert delivery.shown == [SHOWN]


def test_other_processors_get_the_span_as_it_is() -> None:
    memory = InMemorySpanExporter()
    delivery = Shown()
    with closing(processor_for(delivery, "genai")) as tracer:
        provider = TracerProvider()
        provider.add_span_processor(processor_for(delivery, "genai"))
        provider.add_span_processor(SimpleSpanProcessor(memory))
        call(provider.get_tracer("web"))()
        provider.shutdown()
        assert tracer
    assert delivery.shown == [SHOWN]
    assert dict(memory.get_finished_spans()[-1].attributes or {}) == {}


def test_an_exporter_alone_lends_what_it_has_delivered() -> None:
    memory = InMemorySpanExporter()
    provider = TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(memory))
    call(provider.get_tracer("web"))()
    destination = FakeDestination()
    delivery = Delivery(destination, max_attribute_bytes=100_000, max_batch_bytes=100_000)
    for span in memory.get_finished_spans():
        assert delivery.attempt([span]) == Sent(1)
    assert attributes_of(memory.get_finished_spans()[-1])["mlflow.spanOutputs"] == SHOWN[1]
