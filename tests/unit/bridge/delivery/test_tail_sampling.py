# Copyright The opentelemetry-instrumentation-dspy Authors
# SPDX-License-Identifier: Apache-2.0
"""Tail sampling in the delivery: in memory, on disk, and after the end of a process."""

from __future__ import annotations

import gc
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.trace import Span, Status, StatusCode, Tracer, set_span_in_context

from mlflow_bridge._delivery.spool.spool import Spool
from mlflow_bridge._export.contract import Outcome
from mlflow_bridge._spans.annotation import Annotation, annotate
from mlflow_bridge._spans.lent_values import lent_to
from mlflow_bridge.sampling import KeepRule, TailSampling, errors, predicate, score_below
from tests.support.fake_delivery import (
    FAST,
    PATIENCE,
    DeliveryProcessor,
    FakeDelivery,
    closing,
    tracer_for,
    wait_until,
)
from tests.support.spool_spans import files_in

GENAI = {"gen_ai.operation.name": "chat"}
REASON = "mlflow.traceTag.dspy.sampling.reason"


class Store(FakeDelivery):
    """Remembers the reasons of the roots, as they are stored."""

    def __init__(self) -> None:
        super().__init__()
        self.reasons: list[Any] = []

    def deliver(self, spans: Sequence[ReadableSpan]) -> Outcome:
        for span in spans:
            if span.parent is None:
                known = {**lent_to(span), **(span.attributes or {})}
                self.reasons.append(known.get(REASON))
        return super().deliver(spans)


def tail(*rules: KeepRule, rate: float = 0.0, grace: float = 30.0) -> TailSampling:
    return TailSampling(keep=rules or (errors(),), rate=rate, grace_seconds=grace)


def processor_for(delivery: FakeDelivery, spool: Path | None, **options: Any) -> DeliveryProcessor:
    settings: dict[str, Any] = {
        "tail": tail(),
        "traces": "genai",
        "schedule_delay_seconds": 0.005,
        "backoff": FAST,
        "exit_timeout_seconds": PATIENCE,
    }
    write_ahead = options.pop("write_ahead", False)
    return DeliveryProcessor(
        delivery,
        spool=None if spool is None else Spool(spool, write_ahead=write_ahead),
        **(settings | options),
    )


def end(tracer: Tracer, name: str, parent: Span | None = None, *, failed: bool = False) -> None:
    context = None if parent is None else set_span_in_context(parent)
    span = tracer.start_span(name, context, attributes=GENAI)
    if failed:
        span.set_status(Status(StatusCode.ERROR))
    span.end()


def is_consistent(processor: DeliveryProcessor) -> bool:
    status = processor.status()
    counted = (
        status.stored
        + status.rejected
        + status.filtered
        + status.queued
        + status.spilled
        + status.dropped
    )
    return status.accepted == counted


@pytest.mark.parametrize("with_spool", [False, True])
@pytest.mark.parametrize("write_ahead", [False, True])
def test_failed_traces_are_kept_and_others_dropped(
    tmp_path: Path, with_spool: bool, write_ahead: bool
) -> None:
    store = Store()
    spool = tmp_path if with_spool else None
    processor = processor_for(store, spool, write_ahead=write_ahead and with_spool)
    with closing(processor) as tracer:
        for index in range(20):
            root = tracer.start_span(f"root {index}")
            end(tracer, f"chat {index}", root, failed=index == 7)
            root.end()
        assert processor.force_flush(PATIENCE * 1000)
        assert is_consistent(processor)
        assert processor.status().filtered == 38
    assert store.names == ["chat 7", "root 7"]
    assert store.reasons == ["error"]
    assert list(files_in(tmp_path)) == []


def test_the_end_of_the_process_decides(tmp_path: Path) -> None:
    store = Store()
    processor = processor_for(store, tmp_path, tail=tail(score_below("correct", 0.5), errors()))
    tracer = tracer_for(processor)
    end(tracer, "good")
    end(tracer, "bad", failed=True)
    left_open = tracer.start_span("open", attributes=GENAI)
    processor.close()
    assert sorted(store.names) == ["bad", "open"]
    assert sorted(store.reasons) == ["error", "error"]
    assert not left_open.is_recording()


def test_a_flush_does_not_wait_for_scores() -> None:
    store = Store()
    processor = processor_for(store, None, tail=tail(score_below("correct", 0.5), rate=1.0))
    with closing(processor) as tracer:
        end(tracer, "unscored")
        assert processor.force_flush(PATIENCE * 1000)
        assert store.reasons == ["rate"]


@pytest.mark.parametrize("failed", [True, False])
def test_a_long_trace_waits_on_the_disk(tmp_path: Path, failed: bool) -> None:
    store = Store()
    processor = processor_for(store, tmp_path, max_queue_size=8)
    with closing(processor) as tracer:
        root = tracer.start_span("root", attributes=GENAI)
        for index in range(40):
            end(tracer, f"chat {index}", root)
        wait_until(lambda: processor.status().held == 40 and processor._slots.used <= 4)
        assert (processor.status().queued, processor.status().spilled) == (40, 0)
        assert processor.status().dropped == 0
        assert len(list(files_in(tmp_path))) == 1
        end(tracer, "last", root, failed=failed)
        root.end()
        wait_until(lambda: processor.status().queued == processor.status().spool_bytes == 0)
        assert is_consistent(processor)
        status = processor.status()
    expected = {"root", "last", *(f"chat {index}" for index in range(40))} if failed else set[str]()
    assert set(store.names) == expected
    assert len(store.names) == len(expected)
    assert (status.kept, status.missing) == (0, 0)
    assert (status.filtered, status.recovered) == ((0, len(expected) - 1) if failed else (42, 0))
    assert store.reasons == (["error"] if failed else [])


def test_a_predicate_sees_the_spans_on_the_disk(tmp_path: Path) -> None:
    store = Store()
    keep = tail(predicate(lambda trace: len(trace.spans) == 12))
    processor = processor_for(store, tmp_path, max_queue_size=8, tail=keep)
    with closing(processor) as tracer:
        root = tracer.start_span("root", attributes=GENAI)
        for index in range(11):
            end(tracer, f"chat {index}", root)
        wait_until(lambda: processor._slots.used <= 4)
        root.end()
        wait_until(lambda: len(store.names) == 12)
    assert store.reasons == ["predicate"]


def test_the_next_process_decides_on_a_long_trace_of_a_killed_process(tmp_path: Path) -> None:
    killed = Spool(tmp_path)
    maker = DeliveryProcessor(FakeDelivery())
    names = {}
    with closing(maker) as tracer:
        for failed in (True, False):
            root = tracer.start_span(f"root {failed}", attributes=GENAI)
            end(tracer, f"chat {failed}", root, failed=failed)
            root.end()
            names[failed] = root
    writer = killed.new_undecided_writer()
    for root in names.values():
        assert isinstance(root, ReadableSpan)
        assert killed.write_to(writer, [root])
    failed_root = names[True]
    assert isinstance(failed_root, ReadableSpan)
    child = ReadableSpan(
        "chat",
        context=failed_root.context,
        parent=failed_root.context,
        attributes=GENAI,
        status=Status(StatusCode.ERROR),
    )
    assert killed.write_to(writer, [child])
    writer.close()
    store = Store()
    processor = processor_for(store, tmp_path)
    with closing(processor) as tracer:
        end(tracer, "live", failed=True)
        wait_until(lambda: processor.status().spool_bytes == 0)
        status = processor.status()
    assert sorted(store.names) == ["chat", "live", "root True"]
    assert sorted(map(str, store.reasons)) == ["error", "error"]
    assert status.spool_filtered == 1


@pytest.mark.scale
def test_100_000_roots_that_never_end_are_held_within_bounds(tmp_path: Path) -> None:
    processor = processor_for(Store(), tmp_path)
    with closing(processor) as tracer:
        for index in range(100_000):
            root = tracer.start_span("root", attributes=GENAI)
            end(tracer, "chat", root)
            if index % 1000 == 0:
                wait_until(lambda: processor.status().held <= 10_128)
        wait_until(lambda: processor.status().held <= 10_128)
        spans = sum(isinstance(one, ReadableSpan) for one in gc.get_objects())
        status = processor.status()
        assert len(list(files_in(tmp_path))) <= 129
        assert spans <= 4096 + 2 * 10_000
        assert (status.dropped, is_consistent(processor)) == (0, True)
        assert status.filtered > 80_000


def test_assessments_follow_their_trace() -> None:
    store = Store()
    processor = processor_for(store, None, tail=tail(score_below("correct", 0.5)))
    with closing(processor) as tracer:
        for name, value in (("good", True), ("bad", False)):
            root = tracer.start_span(name, attributes=GENAI)
            root.end()
            trace_id = root.get_span_context().trace_id
            content = {"assessment_name": "correct", "feedback": {"value": value}}
            annotate(Annotation(f"tr-{trace_id:032x}", assessment=content), trace_id)
        wait_until(lambda: processor.status().queued == 0)
        assert processor.status().filtered == 2
    assert store.names == ["bad", "annotation"]
    assert store.reasons == ["score:correct"]


def test_a_successor_knows_dropped_traces() -> None:
    first, second = Store(), Store()
    before, after = processor_for(first, None), processor_for(second, None)
    tracer = tracer_for(before)
    root = tracer.start_span("root", attributes=GENAI)
    context = set_span_in_context(root)
    root.end()
    assert before.force_flush(PATIENCE * 1000)
    late = tracer.start_span("late", context, attributes=GENAI)
    after._take_over(before)
    before.close(end_open_spans=False)
    after._follow(before)
    late.set_status(Status(StatusCode.ERROR))
    late.end()
    assert after.force_flush(PATIENCE * 1000)
    after.close()
    assert (first.names, second.names) == ([], [])
