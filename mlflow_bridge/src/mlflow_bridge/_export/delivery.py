# Copyright The opentelemetry-instrumentation-dspy Authors
# SPDX-License-Identifier: Apache-2.0
"""One attempt at storing ended spans: map, group and send them, and divide refused batches."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Final, TypeVar

from opentelemetry.instrumentation.utils import suppress_instrumentation
from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.trace import format_trace_id

from mlflow_bridge._export.batches import Batch, batches_of
from mlflow_bridge._export.bisection import Attempt, AttemptResult, DestinationHistory
from mlflow_bridge._export.contract import (
    Outcome,
    Rejected,
    Retry,
    Sent,
    TraceSight,
    kind_of,
)
from mlflow_bridge._export.destination import Destination
from mlflow_bridge._export.lending import Lending
from mlflow_bridge._export.mapping.span import MappedSpan, SpanMapper
from mlflow_bridge._export.remote_callers import RemoteCallers
from mlflow_bridge._export.runs.runs import Runs, is_run
from mlflow_bridge._export.trace_details import DetailsOfTraces
from mlflow_bridge._export.waiting_annotations import WaitingAnnotations
from mlflow_bridge._process.forks import call_in_child
from mlflow_bridge._process.outside_text import outside_text
from mlflow_bridge._process.rate_limited_log import RateLimitedLogger
from mlflow_bridge._spans.annotation import annotation_of, is_annotation, traces_in_flight
from mlflow_bridge._spans.annotation_order import annotation_order

logger = logging.getLogger(__name__)

_CLOSED: Final = Rejected("the exporter is shut down", divisible=False, spans_to_blame=False)
_INTERRUPTED: Final = Retry("the exporter is being shut down")
# Exceptions of the bridge or MLflow for which the value of a span is the likely reason.
_ABOUT_VALUES: Final = (ValueError, TypeError, LookupError, AttributeError, ArithmeticError)

# Batches and values of these sizes are not divided or cut further.
_MIN_BATCH_BYTES: Final = 65_536
_MIN_ATTRIBUTE_BYTES: Final = 1024

_MAX_REASON: Final = 600
"""Characters of a reason: the failure, the settings to check, and what the server said."""

_SpanKey = tuple[int, int]
_AnyOutcome = TypeVar("_AnyOutcome", Sent, Retry, Rejected, Retry | Rejected, Outcome)


@dataclass(frozen=True, slots=True)
class ExporterStats:
    """Counters of an exporter since its construction.

    Attributes:
        sent: Number of spans stored in MLflow.
        rejected: Number of spans that MLflow rejected.
        abandoned: Number of spans given up because MLflow could not take them in time.
        retried: Number of attempts that ended with a `Retry`.
        last_error: Reason of the last failure of any kind; empty if there was no failure.
    """

    sent: int = 0
    rejected: int = 0
    abandoned: int = 0
    retried: int = 0
    last_error: str = ""


class Delivery:
    """Stores spans in one destination. Thread-safe: attempts are made one after the other.

    One lock guards the destination and the progress of the current attempt. Another lock guards the
    statistics, so that they can be read while a destination hangs.

    Args:
        destination: The destination, which only this delivery may use from now on.
        max_attribute_bytes: Longest attribute value in bytes.
        max_batch_bytes: Approximate size of the attributes in one write.
        program_tags: Whether traces get the tags of their program.
        details: Adds details to the roots of traces; None adds none.
        secrets: Texts that no reason may repeat.
    """

    def __init__(
        self,
        destination: Destination,
        *,
        max_attribute_bytes: int,
        max_batch_bytes: int,
        program_tags: bool = True,
        details: DetailsOfTraces | None = None,
        secrets: Iterable[str] = (),
    ) -> None:
        self._destination = destination
        self._secrets = frozenset(secrets)
        self._mapper = SpanMapper(max_attribute_bytes, program_tags=program_tags)
        self._max_attribute_bytes = max_attribute_bytes
        self._max_batch_bytes = max_batch_bytes
        self._details = details or DetailsOfTraces("off", None)
        self.runs = Runs(destination, self._details.source_metadata)
        self._waiting = WaitingAnnotations()
        self._is_ending = False
        self._history = DestinationHistory()
        self._log = RateLimitedLogger(logger)
        self._stats = ExporterStats()
        # Spans that the last attempt settled before a Retry, and whether each of them is stored.
        self._settled: dict[_SpanKey, bool] = {}
        self.lending = Lending()
        self._seen: frozenset[_SpanKey] = frozenset()
        """The spans of the last attempt, which may be made again."""
        self.closing = threading.Event()
        self._callers = self._new_callers()
        self._renew_locks()
        call_in_child(self._renew_in_child)

    def _renew_locks(self) -> None:
        self._lock = threading.Lock()
        self._stats_lock = threading.Lock()

    def _new_callers(self) -> RemoteCallers:
        return RemoteCallers(self._look_up, self._store_again)

    def _renew_in_child(self) -> None:
        """Replace the locks in a forked child, where the threads that held them do not exist."""
        self._renew_locks()
        self._callers = self._new_callers()
        self._settled = {}
        self.lending.forget()
        self._details.forget()
        self.runs.forget()
        self._waiting = WaitingAnnotations()
        self._is_ending = False
        closing = threading.Event()
        if self.closing.is_set():
            closing.set()
        self.closing = closing

    @property
    def stats(self) -> ExporterStats:
        """The counters so far."""
        with self._stats_lock:
            return self._stats

    def count(self, *, abandoned: int = 0, error: str = "") -> None:
        """Count spans that the caller gave up."""
        self._add(abandoned=abandoned, error=error)

    @property
    def is_loaded(self) -> bool:
        """Whether the destination has imported its packages; see `Destination.is_loaded`."""
        return self._destination.is_loaded

    def load(self) -> Retry | None:
        """Import the packages of the destination now; return the failure, or None on success."""
        with self._lock, suppress_instrumentation():
            failure = self._destination.load()
            return None if failure is None else self._cleaned(failure)

    def warm_up(self) -> Retry | Rejected | None:
        """Open the destination now; return the failure, or None on success."""
        with self._lock, suppress_instrumentation():
            failure = self._destination.warm_up()
            return None if failure is None else self._cleaned(failure)

    def attempt(self, spans: Sequence[ReadableSpan]) -> Outcome:
        """Make one attempt at storing these spans; see `MLflowSpanExporter.deliver`."""
        with self._lock, suppress_instrumentation():
            if self.closing.is_set():
                return self._refuse_all(spans)
            try:
                return self._attempt(spans)
            finally:
                self._forget_settled_of_others(spans)

    @property
    def has_pending_details(self) -> bool:
        """Whether metadata or annotations wait until no span waits. Read by any thread."""
        return self._details.is_pending or len(self._waiting) > 0

    def take_waiting_annotations(self) -> list[ReadableSpan]:
        """Take out the annotations that MLflow has not taken yet, at the end of the process."""
        with self._lock:
            return self._waiting.take_all()

    @property
    def has_waiting_annotations(self) -> bool:
        """Whether an annotation waits apart from the spans. Read by any thread."""
        return len(self._waiting) > 0

    def make_annotations_due(self) -> int:
        """Let no annotation wait for time, at the end; the number of annotations that wait."""
        with self._lock:
            self._waiting.make_due()
            self._is_ending = True
            return len(self._waiting)

    def write_pending_details(self) -> bool:
        """Write what has waited longest: metadata of a trace, or an annotation.

        Returns:
            False if everything has to wait.
        """
        with self._lock, suppress_instrumentation():
            if self.closing.is_set():
                return False
            # What the program has said of its traces comes before what the bridge adds.
            if self._is_ending and self._write_waiting_annotation():
                return True
            pending = self._details.take_pending()
            if pending is None:
                return self._write_waiting_annotation()
            if self._destination.describe(*pending) is None:
                return True
            self._details.put_back(pending)
            return False

    @property
    def awaits_callers(self) -> bool:
        """Whether stored traces wait for the spans of a remote caller."""
        return self._callers.is_waiting

    def complete_traces(self, seconds: float) -> None:
        """Complete the traces that wait for a remote caller, for at most this time."""
        self._callers.finish(seconds)

    def close(self, seconds: float) -> bool:
        """Make no further attempt, and free the destination when the current attempt has ended.

        Args:
            seconds: Longest wait for the current attempt.

        Returns:
            Whether the attempt has ended.
        """
        self.closing.set()
        until = time.monotonic() + seconds
        self._callers.finish(seconds)
        if not self._lock.acquire(timeout=max(until - time.monotonic(), 0.0)):
            return False
        try:
            self._destination.close()
        finally:
            self._lock.release()
        return True

    def _attempt(self, spans: Sequence[ReadableSpan]) -> Outcome:
        refusals: list[tuple[str, Rejected]] = []
        unsettled = self._unsettled(spans)
        own = [span for span in unsettled if not is_annotation(span)]
        retry = self._attempt_spans(own, refusals)
        for span in unsettled:
            if retry is None and is_annotation(span):
                retry = self._attempt_annotation(span, refusals)
        self._seen = frozenset(map(_key, spans))
        if retry is None:
            return self._conclusion(spans, refusals)
        self._add(retried=1, error=retry.reason)
        self._report(refusals)
        return retry

    def _attempt_spans(
        self, spans: Sequence[ReadableSpan], refusals: list[tuple[str, Rejected]]
    ) -> Retry | None:
        self.lending.note_delivered(span for span in spans if _key(span) not in self._seen)
        mapped = self._map(spans, refusals)
        runs = [span for span in mapped if is_run(span)]
        if not runs:
            return self._attempt_mapped(mapped, refusals)
        # An evaluation gets the figures of its examples, which are stored before.
        retry = self._attempt_mapped([span for span in mapped if not is_run(span)], refusals)
        for span in runs:
            retry = retry or self.runs.end(span)
        return retry or self._attempt_mapped(runs, refusals)

    def _attempt_mapped(
        self, spans: Sequence[MappedSpan], refusals: list[tuple[str, Rejected]]
    ) -> Retry | None:
        with_runs = self.runs.with_runs(spans)
        if isinstance(with_runs, Retry):
            return with_runs
        mapped = self._details.with_details(with_runs)
        self._history.begin_attempt(_key(mapped[0].source)[1] if mapped else None)
        attempt = Attempt(self._send, self._history, self._smaller)
        result = attempt.run(batches_of(mapped, self._max_batch_bytes))
        refusals += self._count_settled(result)
        if result.refused_bytes is not None:
            self._max_batch_bytes = max(result.refused_bytes // 2, _MIN_BATCH_BYTES)
        return result.retry

    def _attempt_annotation(
        self, span: ReadableSpan, refusals: list[tuple[str, Rejected]]
    ) -> Retry | None:
        """Store an assessment or a tag, after the spans before it.

        Returns:
            The failure if MLflow is out of reach for spans, too. Any other failure lets the
            annotation wait apart from the spans.
        """
        if annotation_order.is_first(span):
            outcome = self._outcome_of_annotation(span)
            if isinstance(outcome, Retry) and not outcome.lasting and not self._takes_spans():
                return outcome
            given_up = self._waits(span, outcome)
        else:
            given_up = self._waiting.put_behind(span)
        self._settle([span], stored=given_up is None, error=given_up.reason if given_up else "")
        if given_up is not None:
            annotation_order.settled(span)
            refusals.append(("an assessment or tag", given_up))
        return None

    def _waits(self, span: ReadableSpan, outcome: Outcome) -> Rejected | None:
        """Let an annotation wait unless it is stored; a rejection if it is given up."""
        given_up = None
        if isinstance(outcome, Sent):
            self._waiting.remove(span)
        else:
            given_up = self._waiting.put(span, outcome)
        if isinstance(outcome, Sent) or given_up is not None:
            annotation_order.settled(span)
        return given_up

    def _outcome_of_annotation(self, span: ReadableSpan) -> Outcome:
        try:
            outcome = self._destination.annotate(annotation_of(span))
        except Exception as error:
            logger.debug("An annotation could not be stored", exc_info=True)
            outcome = Rejected(f"a bad annotation: {type(error).__name__}")
        return self._cleaned(outcome)

    def _takes_spans(self) -> bool:
        """Whether MLflow takes a span now that it has taken before."""
        probe = self._history.probe
        return probe is not None and isinstance(self._outcome_of(probe), Sent)

    def _write_waiting_annotation(self) -> bool:
        """Try an annotation that is due again; False if there is none, or MLflow is away."""
        span = self._waiting.due()
        if span is None:
            return False
        outcome = self._outcome_of_annotation(span)
        if isinstance(outcome, Retry) and not outcome.lasting and not self._takes_spans():
            return False
        given_up = self._waits(span, outcome)
        if given_up is not None:
            self._add(rejected=1, error=given_up.reason)
            self._report([("an assessment or tag", given_up)])
        return True

    def _count_settled(self, result: AttemptResult) -> list[tuple[str, Rejected]]:
        """Count the spans that an attempt has settled; return the refusals to report."""
        refusals: list[tuple[str, Rejected]] = []
        for settled in result.settled:
            sources, outcome = [span.source for span in settled.batch.spans], settled.outcome
            # MLflow does not report which spans it refused. The numbers are still right.
            stored = outcome.spans if isinstance(outcome, Sent) else 0
            for span in settled.batch.spans[:stored]:
                self._details.note_stored(span)
                self.runs.note_stored(span)
                if span.is_local_root:
                    traces_in_flight.stored(span.trace_id)
                if span.is_local_root and not span.is_root:
                    self._callers.add(span.source)
            refused = sources[stored:]
            self._settle(sources[:stored], stored=True)
            if not refused:
                continue
            self._settle(refused, stored=False, error=outcome.reason)
            names = _shown_name(refused[0]) if len(sources) == 1 else f"{len(refused)} spans"
            refusals.append((names, _refusal(outcome, divisible=len(sources) == 1)))
        return refusals

    def _smaller(self, batch: Batch) -> Batch | None:
        """The batch of one span with shorter values, for a server that limits the request size."""
        [span] = batch.spans
        limit = min(self._max_attribute_bytes, span.size)
        while (limit := limit // 4) >= _MIN_ATTRIBUTE_BYTES:
            shorter = self._mapper.with_limit(limit).map(span.source, below_caller=not span.is_root)
            if shorter.size < span.size:
                self._log.warning(
                    "cut",
                    "%s was too large for MLflow: values longer than %d bytes were cut "
                    "(setting: max_attribute_bytes).",
                    _shown_name(span.source),
                    limit,
                )
                return replace(batch, spans=(replace(shorter, details=span.details),))
        return None

    def _send(self, batch: Batch) -> Outcome:
        if self.closing.is_set():
            return _INTERRUPTED
        outcome = self._cleaned(self._outcome_of(batch))
        if isinstance(outcome, Sent) and outcome.reason and not outcome.rejected:
            self._log.warning(
                kind_of(outcome.reason), "MLflow took all spans, but %s", outcome.reason
            )
        return outcome

    def _look_up(self, trace_id: int) -> TraceSight | Retry | None:
        """Look a trace up for `RemoteCallers`, on its thread."""
        with self._lock, suppress_instrumentation():
            return self._destination.look_up(f"tr-{format_trace_id(trace_id)}")

    def _store_again(self, spans: Sequence[ReadableSpan], below_caller: bool) -> bool:
        """Store spans with another parent for `RemoteCallers`, on its thread."""
        with self._lock, suppress_instrumentation():
            mapped = [self._mapper.map(span, below_caller=below_caller) for span in spans]
            batches = batches_of(mapped, self._max_batch_bytes)
            return all(isinstance(self._outcome_of(batch), Sent) for batch in batches)

    def _outcome_of(self, batch: Batch) -> Outcome:
        try:
            return self._destination.send(batch)
        except _ABOUT_VALUES as error:
            logger.debug("A batch could not be sent", exc_info=True)
            return Rejected(f"the spans could not be converted: {type(error).__name__} {error}")
        except Exception as error:
            logger.debug("A batch could not be sent", exc_info=True)
            reason = f"an unexpected failure: {type(error).__name__} {error}"
            return Retry(reason, about_spans=True)

    def _cleaned(self, outcome: _AnyOutcome) -> _AnyOutcome:
        """The outcome with a reason that is safe to show: servers and drivers say anything."""
        if not outcome.reason:
            return outcome
        shown = outside_text(outcome.reason, secrets=self._secrets, limit=_MAX_REASON)
        return replace(outcome, reason=shown)

    def _map(
        self, spans: Iterable[ReadableSpan], refusals: list[tuple[str, Rejected]]
    ) -> list[MappedSpan]:
        mapped: list[MappedSpan] = []
        for span in spans:
            try:
                below_caller = self._callers.awaits(span)
                mapped.append(self._mapper.map(span, below_caller=below_caller))
            except Exception as error:
                logger.debug("A span could not be mapped", exc_info=True)
                reason = f"the span could not be converted: {type(error).__name__} {error}"
                refusal = self._cleaned(Rejected(reason))
                self._settle([span], stored=False, error=refusal.reason)
                refusals.append((_shown_name(span), refusal))
        return mapped

    def _conclusion(
        self, spans: Sequence[ReadableSpan], refusals: list[tuple[str, Rejected]]
    ) -> Outcome:
        stored = sum(self._settled.get(_key(span), False) for span in spans)
        rejected = len(spans) - stored
        self._settled = {}
        if stored or not spans:
            self._report(refusals)
            reason = refusals[-1][1].reason if refusals else ""
            return Sent(stored, rejected, reason)
        if not refusals:  # All of them were refused in the attempt before.
            return Rejected(self.stats.last_error)
        # The caller reports this outcome, so it is not reported here.
        names, outcome = refusals[-1]
        return replace(outcome, reason=f"{outcome.reason} ({names})")

    def _report(self, refusals: list[tuple[str, Rejected]]) -> None:
        for names, outcome in refusals:
            self._log.warning(
                kind_of(outcome.reason), "MLflow did not take %s: %s", names, outcome.reason
            )

    def _refuse_all(self, spans: Sequence[ReadableSpan]) -> Rejected:
        self._add(rejected=len(spans), error=_CLOSED.reason)
        return _CLOSED

    def _unsettled(self, spans: Sequence[ReadableSpan]) -> list[ReadableSpan]:
        return [span for span in spans if _key(span) not in self._settled]

    def _forget_settled_of_others(self, spans: Sequence[ReadableSpan]) -> None:
        # The same span may be delivered again later, for example after a redelivery.
        if self._settled:
            keys = {_key(span) for span in spans}
            self._settled = {key: stored for key, stored in self._settled.items() if key in keys}

    def _settle(self, spans: Sequence[ReadableSpan], *, stored: bool, error: str = "") -> None:
        for span in spans:
            self._settled[_key(span)] = stored
        if stored:
            self._add(sent=len(spans))
        else:
            self._add(rejected=len(spans), error=error)

    def _add(
        self,
        *,
        sent: int = 0,
        rejected: int = 0,
        abandoned: int = 0,
        retried: int = 0,
        error: str = "",
    ) -> None:
        with self._stats_lock:
            before = self._stats
            self._stats = ExporterStats(
                sent=before.sent + sent,
                rejected=before.rejected + rejected,
                abandoned=before.abandoned + abandoned,
                retried=before.retried + retried,
                last_error=error or before.last_error,
            )


def _refusal(outcome: Sent | Rejected, *, divisible: bool) -> Rejected:
    if isinstance(outcome, Sent):
        return Rejected(outcome.reason)
    return replace(outcome, divisible=divisible)


def _key(span: ReadableSpan) -> _SpanKey:
    context = span.context
    # A span without a context is refused later. Until then it needs a key, too.
    return (0, id(span)) if context is None else (context.trace_id, context.span_id)


def _shown_name(span: ReadableSpan) -> str:
    return f"span {span.name[:120]!r}"
