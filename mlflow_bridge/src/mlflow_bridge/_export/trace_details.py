# Copyright The opentelemetry-instrumentation-dspy Authors
# SPDX-License-Identifier: Apache-2.0
"""Metadata of traces that MLflow's own tracing writes, too: user, program, commit, run, sizes.

MLflow takes metadata only in a write of its own, which costs several times as much as the spans of
a small trace. So what the program asked for is written with the spans, and the rest as the setting
``trace_metadata`` says.
"""

from __future__ import annotations

import getpass
import json
import logging
import sys
from collections import OrderedDict
from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Final, Literal

from opentelemetry.trace import format_trace_id

from mlflow_bridge._export.git_checkout import git_metadata
from mlflow_bridge._export.mapping.span import MappedSpan, context_of
from mlflow_bridge._export.mapping.trace_details import TraceDetails, metadata_text
from mlflow_bridge._spans.names import SOURCE_RUN
from mlflow_bridge._spans.otlp_json.decoder import SpooledSpan

logger = logging.getLogger(__name__)

TraceMetadata = Literal["auto", "full", "off"]

_MAX_TRACES: Final = 4096
"""Traces whose sizes are known, and traces whose metadata waits to be written."""

_MAX_SIZES: Final = 8192
"""Spans of a trace whose sizes are kept; a larger trace has no metadata of its size."""

PendingDetails = tuple[str, TraceDetails]
"""A trace by MLflow's id, and its details."""


class DetailsOfTraces:
    """Adds to the roots of traces what the setting ``trace_metadata`` asks for.

    Used by one thread at a time.

    Args:
        mode: The setting.
        user: The name that MLflow's credentials give the user; None for the user of the system.
    """

    def __init__(self, mode: TraceMetadata, user: str | None) -> None:
        self._mode = mode
        self._user = user
        self._source: dict[str, str] | None = None
        self.forget()

    def forget(self) -> None:
        """Forget all traces, in a forked child."""
        self._sizes: OrderedDict[int, dict[int, int]] = OrderedDict()
        self._pending: OrderedDict[str, TraceDetails] = OrderedDict()

    def with_details(self, spans: Sequence[MappedSpan]) -> list[MappedSpan]:
        """The spans, of which roots have the details that are written together with the spans."""
        if self._mode == "off":
            return [*spans]
        for span in spans:
            self._note_size(span)
        return [self._with_details(span) for span in spans]

    def note_stored(self, span: MappedSpan) -> None:
        """Note that a span is stored: the details of a root may have to be written later."""
        if not span.is_root:
            return
        if self._mode == "auto" and span.details is None and not _is_of_another_process(span):
            self._pending[f"tr-{format_trace_id(span.trace_id)}"] = self._details_of(span)
            if len(self._pending) > _MAX_TRACES:
                self._pending.popitem(last=False)
        self._sizes.pop(span.trace_id, None)

    @property
    def is_pending(self) -> bool:
        """Whether the details of a trace wait until no span waits. Read by any thread."""
        return bool(self._pending)

    def take_pending(self) -> PendingDetails | None:
        """The oldest of the details that wait."""
        return self._pending.popitem(last=False) if self._pending else None

    def put_back(self, pending: PendingDetails) -> None:
        """Keep details that could not be written now."""
        self._pending[pending[0]] = pending[1]
        self._pending.move_to_end(pending[0], last=False)

    def _with_details(self, span: MappedSpan) -> MappedSpan:
        if not span.is_root or (span.details is None and self._mode != "full"):
            return span
        return replace(span, details=self._details_of(span))

    def _details_of(self, span: MappedSpan) -> TraceDetails:
        own = span.details or TraceDetails({})
        metadata = {} if _is_of_another_process(span) else {**self.source_metadata()}
        if span.run_id is not None:
            metadata[SOURCE_RUN] = span.run_id
        metadata.update(_size_metadata(self._sizes.get(span.trace_id, {}).values()))
        return replace(own, metadata={**metadata, **own.metadata})

    def _note_size(self, span: MappedSpan) -> None:
        sizes = self._sizes.setdefault(span.trace_id, {})
        if len(sizes) <= _MAX_SIZES:
            # By span, since a span may be sent again.
            sizes[context_of(span.span).span_id] = span.size
        if len(self._sizes) > _MAX_TRACES:
            self._sizes.popitem(last=False)

    def source_metadata(self) -> dict[str, str]:
        """MLflow's metadata of the user and the running program."""
        if self._source is None:
            try:
                self._source = source_metadata(self._user)
            # Any exception: a directory may be gone, or have unexpected files.
            except Exception:
                logger.debug("The program cannot be described", exc_info=True)
                self._source = {}
        return self._source


def source_metadata(user: str | None) -> dict[str, str]:
    """MLflow's metadata of the user and the running program, with the commit of its checkout.

    Args:
        user: The name of the user; None for the user of the system.
    """
    found = {
        "mlflow.user": user or _system_user(),
        "mlflow.source.name": sys.argv[0] if sys.argv and sys.argv[0] else "<console>",
        "mlflow.source.type": "LOCAL",
    }
    try:
        found.update(git_metadata(Path.cwd()))
    except (OSError, UnicodeDecodeError):
        logger.debug("The checkout cannot be described", exc_info=True)
    return {key: metadata_text(value) for key, value in found.items()}


def _system_user() -> str:
    try:
        return getpass.getuser()
    # Without a name in the environment and in the user database, as in many containers.
    except (ImportError, KeyError, OSError):
        return "unknown"


def _is_of_another_process(span: MappedSpan) -> bool:
    # It may be of an earlier run of this process, too. What ran then is not known.
    return isinstance(span.source, SpooledSpan)


def _size_metadata(sizes: Iterable[int]) -> dict[str, str]:
    """Sizes of a trace and its spans in bytes, under the names and in the form of MLflow's own.

    Without the number of spans: MLflow hides a trace of which it has fewer spans than that number,
    as after a refused span.
    """
    ordered = sorted(sizes)
    if not ordered or len(ordered) > _MAX_SIZES:
        return {}

    def quantile(share: float) -> int:
        return ordered[round(share * (len(ordered) - 1))]

    total = sum(ordered)
    stats = {
        "total_size_bytes": total,
        "max": ordered[-1],
        "p25": quantile(0.25),
        "p50": quantile(0.5),
        "p75": quantile(0.75),
    }
    return {"mlflow.trace.sizeStats": json.dumps(stats), "mlflow.trace.sizeBytes": str(total)}
