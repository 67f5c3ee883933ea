# Copyright The opentelemetry-instrumentation-dspy Authors
# SPDX-License-Identifier: Apache-2.0
"""Metadata of traces: what is written with the spans, later, or never."""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.trace import format_trace_id

from mlflow_bridge._export import trace_details
from mlflow_bridge._export.contract import NOT_STORED, Rejected, Retry, Sent
from mlflow_bridge._export.delivery import Delivery
from mlflow_bridge._export.mapping.trace_details import TraceDetails
from mlflow_bridge._export.trace_details import DetailsOfTraces, TraceMetadata, source_metadata
from mlflow_bridge._export.waiting_annotations import WaitingAnnotations
from mlflow_bridge._spans.annotation import Annotation
from mlflow_bridge._spans.otlp_json.decoder import spans_in
from mlflow_bridge._spans.otlp_json.encoder import line_of
from tests.support.dspy_spans import Recorder
from tests.unit.bridge.export.fake_destination import FakeDestination
from tests.unit.bridge.export.mapped_spans import mapped

SOURCE = {"mlflow.user": "ada", "mlflow.source.name": "app.py", "mlflow.source.type": "LOCAL"}
SIZES = {"mlflow.trace.sizeStats", "mlflow.trace.sizeBytes"}


@pytest.fixture(autouse=True)
def source(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(trace_details, "source_metadata", lambda _: SOURCE)


def delivery_to(destination: FakeDestination, mode: TraceMetadata) -> Delivery:
    return Delivery(
        destination,
        max_attribute_bytes=10_000,
        max_batch_bytes=10**9,
        details=DetailsOfTraces(mode, None),
    )


def root(attributes: Mapping[str, Any] | None = None) -> ReadableSpan:
    return Recorder().one("root", attributes or {})


def id_of(span: ReadableSpan) -> str:
    context = span.context
    assert context is not None
    return f"tr-{format_trace_id(context.trace_id)}"


def sent_details(destination: FakeDestination) -> list[TraceDetails | None]:
    """The details with which each root was sent."""
    return [item.details for batch in destination.batches for item in batch.spans if item.is_root]


def test_what_the_program_asks_for_is_no_attribute_any_more() -> None:
    span = root(
        {
            "mlflow_bridge.trace_metadata.release": "7",
            "mlflow_bridge.trace_metadata.": "no key",
            "mlflow_bridge.client_request_id": "r-1",
            "mlflow_bridge.request_preview": "asked",
            "mlflow_bridge.response_preview": "answered",
            "mlflow_bridge.trace_state": "ERROR",
            "mlflow.modelId": '"m-1"',
        }
    )
    found = mapped(span)
    assert found.details == TraceDetails(
        metadata={"release": "7", "": "no key", "mlflow.modelId": "m-1"},
        client_request_id="r-1",
        request_preview="asked",
        response_preview="answered",
        state="ERROR",
    )
    kept = {key for key in found.span.attributes or {} if key.startswith("mlflow_bridge.")}
    assert kept == set()


def test_long_values_are_cut_to_the_columns_of_mlflow() -> None:
    span = root(
        {
            f"mlflow_bridge.trace_metadata.{'k' * 300}": "ü" * 10_000,
            "mlflow_bridge.client_request_id": "r" * 100,
            "mlflow_bridge.request_preview": "p" * 2000,
        }
    )
    details = mapped(span).details
    assert details is not None
    [(key, value)] = details.metadata.items()
    assert (len(key), len(value)) == (250, 8000)
    assert len(details.client_request_id or "") == 50
    assert len(details.request_preview or "") == 1000


def test_a_span_without_a_wish_has_no_details() -> None:
    assert mapped(root({"mlflow_bridge.trace_state": "DONE"})).details is None


@pytest.mark.parametrize("mode", ["auto", "full", "off"])
def test_what_the_program_asks_for_is_written_with_the_spans(mode: TraceMetadata) -> None:
    destination = FakeDestination()
    delivery = delivery_to(destination, mode)
    span = root({"mlflow_bridge.trace_metadata.release": "7", "mlflow.sourceRun": "run-1"})
    assert delivery.attempt([span]) == Sent(1)
    [details] = sent_details(destination)
    assert details is not None
    expected = {"release": "7"} if mode == "off" else {"release": "7", **SOURCE}
    assert expected.items() <= details.metadata.items()
    others = details.metadata.keys() - expected.keys()
    assert others == (set() if mode == "off" else {"mlflow.sourceRun", *SIZES})
    assert not delivery.has_pending_details


def test_auto_waits_until_nothing_else_is_to_do() -> None:
    destination = FakeDestination()
    delivery = delivery_to(destination, "auto")
    spans = [root(), root({"mlflow.sourceRun": "run-1"})]
    assert delivery.attempt(spans) == Sent(2)
    assert sent_details(destination) == [None, None]
    assert delivery.has_pending_details
    assert delivery.write_pending_details()
    assert [*destination.described] == [id_of(spans[0])]
    assert delivery.write_pending_details()
    assert not delivery.has_pending_details
    assert not delivery.write_pending_details()
    assert destination.described[id_of(spans[1])].metadata["mlflow.sourceRun"] == "run-1"
    for details in destination.described.values():
        assert SOURCE.items() <= details.metadata.items()


def test_metadata_that_cannot_be_written_now_is_kept() -> None:
    destination = FakeDestination()
    destination.failures.append(Retry("down"))
    delivery = delivery_to(destination, "auto")
    first, second = root(), root()
    delivery.attempt([first, second])
    assert not delivery.write_pending_details()
    assert delivery.write_pending_details()
    assert [*destination.described] == [id_of(first)]


def test_only_a_part_of_the_waiting_metadata_is_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(trace_details, "_MAX_TRACES", 3)
    destination = FakeDestination()
    delivery = delivery_to(destination, "auto")
    spans = [root() for _ in range(5)]
    delivery.attempt(spans)
    while delivery.write_pending_details():
        pass
    assert [*destination.described] == [id_of(span) for span in spans[2:]]


def test_full_writes_everything_with_the_spans() -> None:
    destination = FakeDestination()
    delivery = delivery_to(destination, "full")
    assert delivery.attempt([root()]) == Sent(1)
    [details] = sent_details(destination)
    assert details is not None
    assert SOURCE.items() <= details.metadata.items()
    assert not delivery.has_pending_details


def test_off_writes_nothing() -> None:
    destination = FakeDestination()
    delivery = delivery_to(destination, "off")
    delivery.attempt([root()])
    assert sent_details(destination) == [None]
    assert not delivery.has_pending_details


@pytest.mark.parametrize("mode", ["auto", "full"])
def test_spans_of_the_spool_do_not_get_the_program_that_runs_now(mode: TraceMetadata) -> None:
    destination = FakeDestination()
    delivery = delivery_to(destination, mode)
    spans = spans_in(line_of([root({"mlflow_bridge.trace_metadata.release": "7"}), root()]))
    assert delivery.attempt(spans) == Sent(2)
    while delivery.write_pending_details():
        pass
    written = [*sent_details(destination), *destination.described.values()]
    assert any(details and details.metadata["release"] == "7" for details in written[:1])
    for details in written:
        assert details is None or not details.metadata.keys() & SOURCE.keys()


def test_the_sizes_of_all_spans_of_a_trace_count() -> None:
    destination = FakeDestination()
    delivery = delivery_to(destination, "auto")
    spans = Recorder().rag()
    sizes = [mapped(span).size for span in spans]
    for span in spans:
        delivery.attempt([span])
    delivery.attempt(spans[:2])
    assert delivery.write_pending_details()
    [details] = destination.described.values()
    stats = json.loads(details.metadata["mlflow.trace.sizeStats"])
    # MLflow hides a trace of which it has fewer spans than num_spans says.
    assert stats.keys() == {"total_size_bytes", "max", "p25", "p50", "p75"}
    assert stats["total_size_bytes"] == sum(sizes)
    assert (stats["max"], stats["p50"]) == (max(sizes), sorted(sizes)[round(0.5 * 7)])
    assert details.metadata["mlflow.trace.sizeBytes"] == str(sum(sizes))


def test_the_size_of_a_very_long_trace_is_not_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(trace_details, "_MAX_SIZES", 7)
    destination = FakeDestination()
    delivery = delivery_to(destination, "auto")
    delivery.attempt(Recorder().rag())
    assert delivery.write_pending_details()
    [details] = destination.described.values()
    assert not details.metadata.keys() & SIZES


def test_a_program_that_cannot_be_described(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def fail(_: object) -> dict[str, str]:
        raise RuntimeError("no directory")

    monkeypatch.setattr(trace_details, "source_metadata", fail)
    destination = FakeDestination()
    delivery = delivery_to(destination, "full")
    with caplog.at_level(logging.INFO):
        assert delivery.attempt([root()]) == Sent(1)
    [details] = sent_details(destination)
    assert details is not None
    assert details.metadata.keys() == SIZES
    assert caplog.text == ""


def test_user_and_program(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.undo()
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("sys.argv", ["serve.py", "--port", "1"])
    monkeypatch.setattr("getpass.getuser", lambda: "ada")
    assert source_metadata(None) == {**SOURCE, "mlflow.source.name": "serve.py"}
    monkeypatch.setattr("sys.argv", [""])
    assert source_metadata("grace") == {
        "mlflow.user": "grace",
        "mlflow.source.name": "<console>",
        "mlflow.source.type": "LOCAL",
    }


def test_a_user_without_a_name(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail() -> str:
        raise KeyError("getpwuid(): uid not found: 1000")

    monkeypatch.undo()
    monkeypatch.setattr("getpass.getuser", fail)
    assert source_metadata(None)["mlflow.user"] == "unknown"


def annotation_for(span: ReadableSpan, age: float = 0.0) -> ReadableSpan:
    context = span.context
    assert context is not None
    found = Annotation(id_of(span), tag=("key", "value")).as_span(context.trace_id)
    made = int(found.start_time or 0) - int(age * 1e9)
    return ReadableSpan(
        name=found.name,
        context=found.context,
        parent=found.parent,
        attributes=found.attributes,
        instrumentation_scope=found.instrumentation_scope,
        start_time=made,
        end_time=made,
    )


def attempt(delivery: Delivery, *spans: ReadableSpan) -> Any:
    found: Sequence[ReadableSpan] = spans
    return delivery.attempt(found)


def test_an_annotation_is_no_span_for_the_destination() -> None:
    destination = FakeDestination()
    span = root()
    outcome = attempt(delivery_to(destination, "off"), annotation_for(span), span)
    assert outcome == Sent(2)
    assert destination.stored == ["root"]
    [found] = destination.annotations
    assert (found.trace_id, found.tag, found.assessment) == (id_of(span), ("key", "value"), None)


def test_an_annotation_waits_for_the_spans_before_it() -> None:
    destination = FakeDestination([Retry("down")])
    delivery = delivery_to(destination, "off")
    span = root()
    note = annotation_for(span)
    assert attempt(delivery, span, note) == Retry("down")
    assert destination.annotations == []
    assert attempt(delivery, span, note) == Sent(2)
    assert len(destination.annotations) == 1


def test_an_annotation_waits_with_the_spans_while_mlflow_is_away() -> None:
    destination = FakeDestination([Sent(1), Retry("down")])  # the span, and a look at MLflow
    destination.annotation_answers += [Retry("down")]
    delivery = delivery_to(destination, "off")
    span = root()
    note = annotation_for(span)
    assert attempt(delivery, span, note) == Retry("down")
    assert attempt(delivery, span, note) == Sent(2)
    assert (destination.stored, len(destination.annotations)) == (["root"], 1)
    assert not delivery.has_pending_details


def waiting(monkeypatch: pytest.MonkeyPatch, delivery: Delivery) -> list[float]:
    """A clock for the annotations that wait."""
    now = [0.0]
    delivery._waiting = WaitingAnnotations(lambda: now[0])
    return now


def test_an_annotation_without_its_trace_waits_apart_from_spans(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    destination = FakeDestination()
    destination.annotation_answers += [NOT_STORED] * 3
    delivery = delivery_to(destination, "off")
    now = waiting(monkeypatch, delivery)
    span = root()
    assert attempt(delivery, annotation_for(span)) == Sent(1)
    assert attempt(delivery, span) == Sent(1)
    assert delivery.has_pending_details
    assert not delivery.write_pending_details()  # not due
    now[0] = 5.0
    assert delivery.write_pending_details()
    assert not delivery.write_pending_details()
    now[0] = 10.0
    assert delivery.write_pending_details()
    now[0] = 15.0
    assert delivery.write_pending_details()
    assert [note.trace_id for note in destination.annotations] == [id_of(span)]
    assert not delivery.has_pending_details
    assert caplog.text == ""


def test_an_annotation_whose_trace_never_comes_is_given_up(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    destination = FakeDestination()
    destination.annotation_answers += [NOT_STORED] * 2
    delivery = delivery_to(destination, "off")
    now = waiting(monkeypatch, delivery)
    attempt(delivery, annotation_for(root()))
    now[0] = 600.0
    assert delivery.write_pending_details()
    assert not delivery.has_pending_details
    assert "did not take an assessment or tag: its trace is not in MLflow" in caplog.text
    assert delivery.stats.rejected == 1


@pytest.mark.parametrize(
    "failure",
    [
        Retry("there is no such experiment or run: a-1", lasting=True),
        Retry("refused the credentials: HTTP 403", lasting=True, about_spans=True),
        Retry("cannot take spans now: HTTP 500", about_spans=True),
        Rejected("bad value"),
    ],
)
def test_a_refused_annotation_holds_up_no_span(
    monkeypatch: pytest.MonkeyPatch, failure: Any, caplog: pytest.LogCaptureFixture
) -> None:
    destination = FakeDestination()
    destination.annotation_answers += [failure] * 3
    delivery = delivery_to(destination, "off")
    now = waiting(monkeypatch, delivery)
    span = root()
    assert attempt(delivery, span, annotation_for(span)) == Sent(2)
    assert attempt(delivery, root(), root()) == Sent(2)
    for seconds in (5.0, 10.0):
        now[0] = seconds
        assert delivery.write_pending_details()
    assert not delivery.has_pending_details
    assert destination.annotations == []
    assert caplog.text.count("did not take an assessment or tag") == 1


def test_at_the_end_annotations_are_taken_out() -> None:
    destination = FakeDestination()
    destination.annotation_answers += [NOT_STORED]
    delivery = delivery_to(destination, "off")
    note = annotation_for(root())
    attempt(delivery, note)
    assert delivery.take_waiting_annotations() == [note]
    assert not delivery.has_pending_details


def test_a_refused_or_damaged_annotation_harms_nothing_else() -> None:
    destination = FakeDestination()
    destination.annotation_answers += [Rejected("bad value")] * 2
    span = root()
    damaged = ReadableSpan(
        name="annotation",
        context=Recorder().one("x", {}).context,
        attributes={"mlflow_bridge.annotation": "{"},
        instrumentation_scope=annotation_for(span).instrumentation_scope,
        end_time=1,
    )
    notes = (annotation_for(span), damaged, annotation_for(span))
    delivery = delivery_to(destination, "off")
    outcome = attempt(delivery, *notes, span)
    assert isinstance(outcome, Sent)
    # What is refused is tried again, apart from the spans.
    assert (outcome.spans, outcome.rejected, len(delivery._waiting)) == (4, 0, 3)
    assert destination.stored == ["root"]
