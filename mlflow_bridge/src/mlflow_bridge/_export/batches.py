# Copyright The opentelemetry-instrumentation-dspy Authors
# SPDX-License-Identifier: Apache-2.0
"""Grouping of spans into batches, one for each write."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Final

from mlflow_bridge._export.mapping.span import MappedSpan

MAX_TRACES_LINKED_TO_A_RUN: Final = 100
"""MLflow's limit for one request. A request with more traces links no trace."""


@dataclass(frozen=True, slots=True)
class Batch:
    """Spans for one write.

    Attributes:
        spans: The spans, at least one.
        experiment_id: The experiment that the spans name; ``None`` for the configured experiment.
        run_id: The run to which traces are linked if their root is in this batch; or ``None``.
    """

    spans: Sequence[MappedSpan]
    experiment_id: str | None = None
    run_id: str | None = None

    def halves(self) -> tuple[Batch, Batch]:
        """The batch in two parts of nearly equal number of spans."""
        middle = len(self.spans) // 2
        first, second = self.spans[:middle], self.spans[middle:]
        return (
            Batch(first, self.experiment_id, self.run_id),
            Batch(second, self.experiment_id, self.run_id),
        )


def batches_of(spans: Sequence[MappedSpan], max_bytes: int) -> list[Batch]:
    """Group spans by experiment and run, in order, into batches of about ``max_bytes``.

    Spans of a trace share experiment and run: a span without its own takes those of another span.
    """
    experiments: dict[int, str] = {}
    runs: dict[int, str] = {}
    for span in spans:
        if span.experiment_id is not None:
            experiments.setdefault(span.trace_id, span.experiment_id)
        if span.run_id is not None:
            runs.setdefault(span.trace_id, span.run_id)
    groups: dict[tuple[str | None, str | None], list[MappedSpan]] = defaultdict(list)
    for span in spans:
        groups[experiments.get(span.trace_id), runs.get(span.trace_id)].append(span)
    return [
        Batch(part, experiment_id, run_id)
        for (experiment_id, run_id), group in groups.items()
        for part in _parts(group, max_bytes, None if run_id is None else MAX_TRACES_LINKED_TO_A_RUN)
    ]


def _parts(
    spans: Sequence[MappedSpan], max_bytes: int, max_roots: int | None
) -> Iterator[Sequence[MappedSpan]]:
    part: list[MappedSpan] = []
    size = roots = 0
    for span in spans:
        too_large = size + span.size > max_bytes
        too_many = span.is_local_root and max_roots is not None and roots >= max_roots
        if part and (too_large or too_many):
            yield part
            part, size, roots = [], 0, 0
        part.append(span)
        size += span.size
        roots += span.is_local_root
    if part:
        yield part
