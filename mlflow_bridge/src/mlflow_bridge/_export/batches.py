# Copyright The opentelemetry-instrumentation-dspy Authors
# SPDX-License-Identifier: Apache-2.0
"""Which spans go into one write."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Final

from mlflow_bridge._export.mapping.span import MappedSpan

MAX_TRACES_LINKED_TO_A_RUN: Final = 100
"""In one request, as MLflow allows; of more, it links none."""


@dataclass(frozen=True, slots=True)
class Batch:
    """Spans for one write.

    Attributes:
        spans: At least one.
        experiment_id: The experiment that they name themselves; ``None`` for the configured one.
        run_id: The run to link those traces to whose root is among them.
    """

    spans: Sequence[MappedSpan]
    experiment_id: str | None = None
    run_id: str | None = None

    def halves(self) -> tuple[Batch, Batch]:
        """The batch in two parts."""
        middle = len(self.spans) // 2
        first, second = self.spans[:middle], self.spans[middle:]
        return (
            Batch(first, self.experiment_id, self.run_id),
            Batch(second, self.experiment_id, self.run_id),
        )


def batches_of(spans: Sequence[MappedSpan], max_bytes: int) -> list[Batch]:
    """Group spans by experiment and run, in order, into batches of about ``max_bytes``.

    The spans of a trace belong together: what one of them names holds for those that name nothing.
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
        too_many = span.is_root and max_roots is not None and roots >= max_roots
        if part and (too_large or too_many):
            yield part
            part, size, roots = [], 0, 0
        part.append(span)
        size += span.size
        roots += span.is_root
    if part:
        yield part
