# Copyright The opentelemetry-instrumentation-dspy Authors
# SPDX-License-Identifier: Apache-2.0
"""Spans are written together unless they belong to different places."""

from __future__ import annotations

from collections.abc import Sequence

from opentelemetry.sdk.trace import ReadableSpan

from mlflow_bridge._export.batches import Batch, batches_of
from mlflow_bridge._export.mapping.span import MappedSpan, SpanMapper
from tests.support.dspy_spans import Recorder, names

NO_LIMIT = 10**9


def mapped(spans: Sequence[ReadableSpan]) -> list[MappedSpan]:
    mapper = SpanMapper(100_000)
    return [mapper.map(span) for span in spans]


def content(batches: Sequence[Batch]) -> list[tuple[str | None, str | None, int]]:
    return [(batch.experiment_id, batch.run_id, len(batch.spans)) for batch in batches]


def test_one_batch_where_nothing_divides() -> None:
    spans = mapped(Recorder().many(700))
    assert content(batches_of(spans, NO_LIMIT)) == [(None, None, 700)]


def test_nothing_gives_no_batch() -> None:
    assert batches_of([], NO_LIMIT) == []


def test_traces_go_to_the_experiment_and_run_that_one_of_their_spans_names() -> None:
    recorder = Recorder()
    spans = [
        *recorder.rag({"mlflow.experimentId": "7", "mlflow.sourceRun": "r1"}),
        *recorder.rag(),
        *recorder.rag({"mlflow.experimentId": "7"}),
    ]
    size = len(spans) // 3
    assert content(batches_of(mapped(spans), NO_LIMIT)) == [
        ("7", "r1", size),
        (None, None, size),
        ("7", None, size),
    ]


def test_no_more_than_100_roots_are_linked_to_a_run_at_once() -> None:
    recorder = Recorder()
    spans = [recorder.one("span", {"mlflow.sourceRun": "r1"}) for _ in range(250)]
    assert [len(batch.spans) for batch in batches_of(mapped(spans), NO_LIMIT)] == [100, 100, 50]


def test_size_is_bounded_but_for_a_span_that_is_too_large_alone() -> None:
    recorder = Recorder()
    spans = [recorder.one(f"{index}", {"text": "x" * 1_000}) for index in range(10)]
    spans.insert(5, recorder.one("large", {"text": "x" * 50_000}))
    batches = batches_of(mapped(spans), 6_000)
    assert [item.source for batch in batches for item in batch.spans] == spans
    assert all(
        sum(item.size for item in batch.spans) <= 6_000 for batch in batches if len(batch.spans) > 1
    )
    assert 3 <= len(batches) <= 6


def test_halves() -> None:
    spans = mapped(Recorder().many(5))
    first, second = Batch(spans, "7", "r1").halves()
    assert content([first, second]) == [("7", "r1", 2), ("7", "r1", 3)]
    assert names([item.source for item in (*first.spans, *second.spans)]) == names(
        [item.source for item in spans]
    )
