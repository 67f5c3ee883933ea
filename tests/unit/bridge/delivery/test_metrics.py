# Copyright The opentelemetry-instrumentation-dspy Authors
# SPDX-License-Identifier: Apache-2.0
"""The counters of the processors, as metrics and by `status()`."""

from __future__ import annotations

import gc
from typing import Any

import yaml
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader

import mlflow_bridge
from mlflow_bridge._delivery import metrics as self_metrics
from mlflow_bridge._delivery.status import DeliveryStatus
from mlflow_bridge._export.contract import Rejected, Retry
from tests import ROOT
from tests.support.fake_delivery import (
    FAST,
    PATIENCE,
    DeliveryProcessor,
    FakeDelivery,
    HangingDelivery,
    ListSpool,
    closing,
    end_spans,
    wait_until,
)

REGISTRY = ROOT / "mlflow_bridge/semconv/registry/metrics.yaml"

Points = dict[tuple[str, str | None], float]


def collected(reader: InMemoryMetricReader) -> tuple[Points, list[Any]]:
    """The values by name and error type, and the metrics."""
    data: Any = reader.get_metrics_data()
    found = [
        metric
        for resource in data.resource_metrics
        for scope in resource.scope_metrics
        for metric in scope.metrics
    ]
    points = {
        (metric.name, point.attributes.get("error.type")): point.value
        for metric in found
        for point in metric.data.data_points
    }
    return points, found


def registry() -> dict[str, Any]:
    groups = yaml.safe_load(REGISTRY.read_text("utf-8"))["groups"]
    return {group["metric_name"]: group for group in groups if group["type"] == "metric"}


def test_the_metrics_are_recorded_as_registered(monkeypatch: Any) -> None:
    monkeypatch.setattr(self_metrics, "_SAME_COLLECTION_SECONDS", 0.0)
    reader = InMemoryMetricReader()
    meters = MeterProvider([reader])
    processor = DeliveryProcessor(
        FakeDelivery(Rejected("no")), max_batch_size=2, max_queue_size=50, meter_provider=meters
    )
    with closing(processor) as tracer:
        for _ in range(2):
            tracer.start_span("bad").end()
        processor.force_flush(60_000)
        for _ in range(3):
            tracer.start_span("good").end()
        processor.force_flush(60_000)
        points, metrics = collected(reader)
    meters.shutdown()

    assert points["otel.sdk.exporter.span.exported", None] == 3
    assert points["otel.sdk.exporter.span.exported", "rejected"] == 2
    assert points["otel.sdk.processor.span.processed", None] == 5
    assert not [key for key in points if key[0].endswith("span.processed") and key[1]]
    assert points["otel.sdk.processor.span.queue.size", None] == 0
    assert points["otel.sdk.processor.span.queue.capacity", None] == 50
    assert points["mlflow_bridge.span.accepted", None] == 5
    assert points["mlflow_bridge.span.missing", None] == 2

    registered = registry()
    assert {metric.name for metric in metrics} == registered.keys()
    for metric in metrics:
        group = registered[metric.name]
        allowed = {attribute["ref"] for attribute in group["attributes"]}
        assert metric.unit == group["unit"]
        for point in metric.data.data_points:
            assert point.attributes.keys() <= allowed
            assert point.attributes["otel.component.type"] == "DeliveryProcessor"
        monotonic = getattr(metric.data, "is_monotonic", None)
        kinds = {True: "counter", False: "updowncounter", None: "gauge"}
        assert kinds[monotonic] == group["instrument"]


def processed(processor: DeliveryProcessor) -> tuple[int, dict[str, int]]:
    status = processor.status()
    return status.processed, dict(status.dropped_by)


def test_a_span_is_processed_when_the_exporter_has_it() -> None:
    delivery = HangingDelivery()
    processor = DeliveryProcessor(
        delivery, max_queue_size=2, max_batch_size=1, block_seconds=0.0, exit_timeout_seconds=0.0
    )
    with closing(processor) as tracer:
        end_spans(tracer, 1)
        assert delivery.entered.wait(PATIENCE)
        assert processed(processor) == (1, {})
        end_spans(tracer, 3)
        assert processed(processor) == (1, {"queue_full": 2})
        processor.close()
        end_spans(tracer, 1)
        assert processed(processor) == (1, {"queue_full": 2, "timeout": 1, "already_shutdown": 1})
        status = processor.status()
        assert (status.accepted, status.dropped) == (5, 5)
        delivery.release.set()


def test_a_span_that_goes_to_the_spool_instead_is_processed_once() -> None:
    delivery, spool = HangingDelivery(), ListSpool()
    processor = DeliveryProcessor(
        delivery, max_queue_size=2, max_batch_size=1, spool=spool, exit_timeout_seconds=0.0
    )
    with closing(processor) as tracer:
        end_spans(tracer, 1)
        assert delivery.entered.wait(PATIENCE)
        end_spans(tracer, 3)
        wait_until(lambda: processor.status().spilled == 2)
        assert processed(processor) == (3, {})
        processor.close()
        assert processed(processor) == (4, {})
        delivery.release.set()


def test_a_span_that_is_sent_again_is_processed_once(monkeypatch: Any) -> None:
    delivery = FakeDelivery(Retry("no"), ValueError(), Retry("no", None, lasting=True))
    processor = DeliveryProcessor(delivery, spool=ListSpool(), backoff=FAST, max_batch_size=2)
    with closing(processor) as tracer:
        end_spans(tracer, 6)
        assert processor.force_flush(60_000)
        assert processed(processor) == (6, {})


def test_the_exporter_of_a_processor_is_public() -> None:
    delivery = FakeDelivery()
    processor = DeliveryProcessor(delivery)
    assert processor.span_exporter is delivery
    processor.shutdown()


def test_borrowed_names_are_those_of_the_semantic_conventions() -> None:
    from opentelemetry.semconv._incubating.metrics import otel_metrics

    known = {value for name, value in vars(otel_metrics).items() if name.startswith("OTEL_SDK")}
    ours = {name for name in registry() if name.startswith("otel.")}
    # Older releases of the conventions have other names for some of these metrics.
    assert ours <= known or "otel.sdk.processor.span.processed" not in known


def test_several_processors_share_the_instruments_and_can_be_collected(monkeypatch: Any) -> None:
    monkeypatch.setattr(self_metrics, "_SAME_COLLECTION_SECONDS", 0.0)
    reader = InMemoryMetricReader()
    meters = MeterProvider([reader])

    def names() -> set[str]:
        data: Any = reader.get_metrics_data()
        return {
            point.attributes["otel.component.name"]
            for resource in (data.resource_metrics if data else ())
            for scope in resource.scope_metrics
            for metric in scope.metrics
            for point in metric.data.data_points
        }

    processors = [DeliveryProcessor(FakeDelivery(), meter_provider=meters) for _ in range(2)]
    assert len(names()) == 2
    for processor in processors:
        processor.shutdown()
    del processors, processor
    gc.collect()
    assert names() == set()
    meters.shutdown()


def test_status_has_every_processor_of_the_process() -> None:
    before = len(mlflow_bridge.status())
    processor = DeliveryProcessor(FakeDelivery())
    with closing(processor) as tracer:
        tracer.start_span("span").end()
        processor.force_flush(60_000)
        found = mlflow_bridge.status()
        assert len(found) == before + 1
        assert isinstance(found[-1], DeliveryStatus)
        assert (found[-1].stored, found[-1].destination) == (1, "the fake store")
