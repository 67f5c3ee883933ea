# Copyright The opentelemetry-instrumentation-dspy Authors
# SPDX-License-Identifier: Apache-2.0
"""A model of delivery: whatever happens in any order, each span is stored or counted.

Hypothesis puts the steps of `Delivery` together: spans that end, a destination that fails, a disk
that is full, forks, interruptions and a shutdown. The model knows nothing of queues. It counts the
spans that it ended and those that the destination stored, both by name.

The test takes the same examples in every run. ``DELIVERY_MODEL_EXAMPLES=2000 pytest <this file>
--hypothesis-seed=random`` searches for others.
"""

from __future__ import annotations

import errno
import os
import shutil
import signal
import sys
import tempfile
import threading
import traceback
import warnings
from collections.abc import Callable, Sequence
from dataclasses import fields
from pathlib import Path
from types import FrameType
from typing import Any, Final

import pytest
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
)
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.trace import Span, set_span_in_context

import mlflow_bridge
from mlflow_bridge._delivery.spool.segment import Segment
from mlflow_bridge._delivery.spool.spool import Spool
from mlflow_bridge._delivery.status import DeliveryStatus
from mlflow_bridge._export.contract import Outcome, Rejected, Retry, Sent
from mlflow_bridge._spans.otlp_json.decoder import SpooledSpan
from tests.support.fake_delivery import FAST, PATIENCE, DeliveryProcessor, wait_until
from tests.support.spool_spans import names_on_disk

SCOPES: Final = {
    "wanted": "opentelemetry.instrumentation.dspy",
    "plain": "opentelemetry.instrumentation.fastapi",
}
KINDS = st.sampled_from(sorted(SCOPES))
FAILURES: Final = (
    "away",
    "misconfigured",
    "refuses everything",
    "refuses",
    "refuses one",
    "raises",
)
AWAY_SECONDS: Final = 0.03
"""How long a flush or shutdown waits for a destination that does not answer."""

# Without `dropped` and `filtered`: a dropped span may be kept later, a filtered span be wanted.
GROWING: Final = (
    "accepted",
    "stored",
    "retried",
    "rejected",
    "spilled",
    "recovered",
    "redelivered",
    "spool_dropped",
    "not_written_ahead",
)
NUMBERS: Final = tuple(field.name for field in fields(DeliveryStatus) if field.type == "int")


class Destination:
    """A destination whose answer the machine chooses. Without locks, since forks come any time."""

    destination_description = "the model's destination"

    def __init__(self) -> None:
        self.answer = "stores"
        self.stored: list[str] = []
        self.stored_from_disk = 0
        self.closed = False

    def warm_up(self) -> None: ...

    def deliver(self, spans: Sequence[ReadableSpan]) -> Outcome:
        match self.answer:
            case "away":
                return Retry("connection refused")
            case "misconfigured":
                return Retry("no such experiment", lasting=True)
            case "refuses everything":
                return Retry("a read-only database", lasting=True, refused=True)
            case "refuses":
                return Rejected("invalid spans")
            case "refuses one":
                self._store(spans[:-1])
                return Sent(len(spans) - 1, rejected=1, reason="an invalid span")
            case "raises":
                raise RuntimeError("a bug")
            case _:
                self._store(spans)
                return Sent(len(spans))

    def _store(self, spans: Sequence[ReadableSpan]) -> None:
        self.stored_from_disk += sum(isinstance(span, SpooledSpan) for span in spans)
        self.stored += [span.name for span in spans]

    def close(self) -> None:
        self.closed = True


class Interruption:
    """An interruption of this thread at one line of ours, as by a garbage collection or signal."""

    def __init__(self, line: int, action: Callable[[], object]) -> None:
        self._lines_left = line
        self._action: Callable[[], object] | None = action
        self._ours = str(Path(mlflow_bridge.__file__).parent)

    def __enter__(self) -> None:
        self._before = sys.gettrace()
        sys.settrace(self._trace)

    def __exit__(self, *_: object) -> None:
        sys.settrace(self._before)
        self._act()

    def _trace(self, frame: FrameType, event: str, argument: Any) -> Any:
        if not frame.f_code.co_filename.startswith(self._ours):
            return None
        self._lines_left -= 1
        if self._lines_left == 0:
            self._act()
        return self._trace

    def _act(self) -> None:
        action, self._action = self._action, None
        if action is not None:
            action()


class Delivery(RuleBasedStateMachine):
    def __init__(self) -> None:
        super().__init__()
        self.ended: list[str] = []
        self.open: list[tuple[str, Span]] = []
        self.traces: dict[str, int] = {}
        self.started = 0
        self.disk_is_full = False
        self.closed = False
        self.threads = set(threading.enumerate())
        self.last: dict[str, int] = dict.fromkeys(GROWING, 0)
        self.directory = Path(tempfile.mkdtemp(prefix="delivery-model-"))
        self.destination = Destination()
        self.patches = pytest.MonkeyPatch()
        self._watch_disk()
        # Threads are switched more often than usual.
        self.switch_interval = sys.getswitchinterval()
        sys.setswitchinterval(1e-5)

    def _watch_disk(self) -> None:
        append = Segment.append

        def watched(segment: Segment, line: bytes, spans: int) -> None:
            if self.disk_is_full:
                raise OSError(errno.ENOSPC, "no space left on device")
            append(segment, line, spans)

        self.patches.setattr(Segment, "append", watched)
        # The pause after an error of the disk.
        self.patches.setattr("mlflow_bridge._delivery.spool.spool._PAUSE_SECONDS", 0.0)

    @initialize(
        traces=st.sampled_from(["genai", "all"]),
        queue=st.sampled_from([1, 4, 16]),
        spill_queue=st.sampled_from([1, 6, 100]),
        batch=st.sampled_from([1, 3, 512]),
        policy=st.sampled_from(["spill", "block"]),
        spills_after=st.sampled_from([0.0, 3600.0]),
        disk=st.sampled_from(["spool", "write-ahead", "none"]),
        bytes_each=st.sampled_from([700, 100_000]),
    )
    def begin(
        self,
        *,
        traces: Any,
        queue: int,
        spill_queue: int,
        batch: int,
        policy: Any,
        spills_after: float,
        disk: str,
        bytes_each: int,
    ) -> None:
        self.filters = traces == "genai"
        self.spool = None
        if disk != "none":
            write_ahead = disk == "write-ahead"
            self.spool = Spool(self.directory, write_ahead=write_ahead, segment_bytes=5_000)
        self.processor = DeliveryProcessor(
            self.destination,
            max_queue_size=queue,
            # With 700 bytes for each, every span costs further slots.
            max_queue_bytes=queue * bytes_each,
            max_spill_queue_bytes=spill_queue * bytes_each,
            max_batch_size=batch,
            schedule_delay_seconds=0.01,
            exit_timeout_seconds=PATIENCE,
            block_seconds=0.0,
            spool=self.spool,
            overflow_policy=policy,
            max_spill_queue_size=spill_queue,
            backoff=FAST,
            spill_after_seconds=spills_after,
            traces=traces,
        )
        provider = TracerProvider(shutdown_on_exit=False, resource=Resource.get_empty())
        provider.add_span_processor(self.processor)
        self.tracers = {kind: provider.get_tracer(scope) for kind, scope in SCOPES.items()}

    # --- spans

    def _start(self, kind: str, parent: Span | None = None) -> tuple[str, Span]:
        self.started += 1
        name = f"{kind} {self.started}"
        context = None if parent is None else set_span_in_context(parent)
        span = self.tracers[kind].start_span(name, context)
        self.traces[name] = span.get_span_context().trace_id
        return name, span

    def _end(self, name: str, span: Span) -> None:
        span.end()
        self.ended.append(name)

    @rule(kind=KINDS, count=st.integers(1, 20))
    def end_spans(self, kind: str, count: int) -> None:
        for _ in range(count):
            self._end(*self._start(kind))

    @rule(root=KINDS, children=st.lists(KINDS, max_size=4), root_first=st.booleans())
    def end_trace(self, root: str, children: list[str], root_first: bool) -> None:
        spans = [self._start(root)]
        spans += [self._start(child, spans[0][1]) for child in children]
        for name, span in spans if root_first else reversed(spans):
            self._end(name, span)

    @rule(kind=KINDS, in_last=st.booleans())
    def start_span(self, kind: str, in_last: bool) -> None:
        parent = self.open[-1][1] if in_last and self.open else None
        self.open.append(self._start(kind, parent))

    @precondition(lambda self: self.open)
    @rule(which=st.integers(0, 100))
    def end_open_span(self, which: int) -> None:
        self._end(*self.open.pop(which % len(self.open)))

    # --- the destination and the disk

    @rule(answer=st.sampled_from(FAILURES))
    def fail(self, answer: str) -> None:
        self.destination.answer = answer

    @rule()
    def recover(self) -> None:
        self.destination.answer = "stores"

    @rule(full=st.booleans())
    def fill_disk(self, full: bool) -> None:
        self.disk_is_full = full

    # --- flushes and the shutdown

    @property
    def _patience(self) -> float:
        return PATIENCE if self.destination.answer == "stores" else AWAY_SECONDS

    @rule()
    def flush(self) -> None:
        before = self.processor.status()
        complete = self.processor.force_flush(self._patience * 1000)
        after = self.processor.status()
        lost = after.rejected + after.dropped > before.rejected + before.dropped
        if complete:
            self._check_that_spans_are_safe(after)
        elif self.destination.answer == "stores" and not self.closed:
            assert lost, "a flush failed although no span was lost"

    @precondition(lambda self: not self.closed)
    @rule(hurried=st.booleans())
    def close(self, hurried: bool) -> None:
        self._close(0.0 if hurried else self._patience)

    def _close(self, seconds: float) -> None:
        complete = self.processor.close(timeout_seconds=seconds)
        self.closed = True
        self._note_spans_that_were_ended()
        status = self.processor.status()
        assert status.queued == 0
        if complete:
            self._check_that_spans_are_safe(status)

    def _note_spans_that_were_ended(self) -> None:
        """The shutdown ends all open spans."""
        finished = [name for name, span in self.open if not span.is_recording()]
        self.ended += finished
        self.open = [(name, span) for name, span in self.open if span.is_recording()]

    def _check_that_spans_are_safe(self, status: DeliveryStatus, elsewhere: int = 0) -> None:
        """Every ended span is in MLflow, on the disk, or counted as anything else."""
        on_disk = names_on_disk(self.directory)  # first: what leaves the disk then is stored
        missing = set(self.ended) - on_disk - set(self.destination.stored)
        counted = status.rejected + status.filtered + status.held + status.dropped
        assert len(missing) <= counted + status.spool_dropped + elsewhere, missing

    # --- forks and interruptions

    @rule(
        line=st.integers(1, 150),
        kind=KINDS,
        outer=st.sampled_from(["end", "end", "flush", "close"]),
        inner=st.sampled_from(["end", "end", "end", "status", "flush", "close"]),
    )
    def interrupt(self, line: int, kind: str, outer: str, inner: str) -> None:
        first, second = self._start(kind), self._start(kind)
        actions: dict[str, Callable[[], object]] = {
            "status": self.processor.status,
            "flush": lambda: self.processor.force_flush(AWAY_SECONDS * 1000),
            "close": lambda: self.processor.close(timeout_seconds=AWAY_SECONDS),
        }
        self.closed = self.closed or "close" in (outer, inner)
        self.open += [first, second]
        with Interruption(line, actions.get(inner, second[1].end)):
            actions.get(outer, first[1].end)()
        self._note_spans_that_were_ended()

    @precondition(lambda self: hasattr(os, "fork"))
    @rule(kind=KINDS, count=st.integers(0, 10))
    def fork(self, kind: str, count: int) -> None:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # Python 3.12 and later: a process with threads forks
            child = os.fork()
        if child == 0:
            signal.alarm(int(PATIENCE * 3))
            try:
                self._live_as_a_child(kind, count)
            except BaseException:
                traceback.print_exc()
                os._exit(1)
            os._exit(0)
        assert os.waitpid(child, 0)[1] == 0

    def _live_as_a_child(self, kind: str, count: int) -> None:
        self.ended = []
        self.destination.stored = []
        self.destination.stored_from_disk = 0
        self.last = dict.fromkeys(GROWING, 0)
        self.destination.answer = "stores"
        self.counters_add_up()
        self.end_spans(kind, count)
        self.counters_add_up()
        self.open = []  # These spans belong to the parent.
        self._close(PATIENCE)
        self.counters_add_up()
        status = self.processor.status()
        # The parent may have taken over the files of this process since the close.
        self._check_that_spans_are_safe(status, elsewhere=status.kept)

    # --- the invariants

    @invariant()
    def counters_add_up(self) -> None:
        status = self.processor.status()
        numbers = {name: getattr(status, name) for name in NUMBERS}
        assert min(numbers.values()) >= 0, numbers
        settled = status.stored + status.rejected + status.filtered
        assert status.accepted == settled + status.queued + status.spilled + status.dropped
        assert status.accepted == len(self.ended), status
        # Spans that count as stored were stored: the destination's numbers are read later.
        assert status.redelivered <= self.destination.stored_from_disk
        assert status.stored + status.redelivered <= len(self.destination.stored)
        for name, before in self.last.items():
            assert numbers[name] >= before, (name, before, status)
        self.last = {name: numbers[name] for name in GROWING}

    def teardown(self) -> None:
        try:
            if hasattr(self, "processor"):
                self._check_that_nothing_is_lost()
        finally:
            sys.setswitchinterval(self.switch_interval)
            self.patches.undo()
            shutil.rmtree(self.directory, ignore_errors=True)

    def _check_that_nothing_is_lost(self) -> None:
        self.destination.answer = "stores"
        self.disk_is_full = False
        if not self.closed:
            self._close(PATIENCE)
        for name, span in self.open:
            self._end(name, span)
        wait_until(lambda: self.destination.closed and not self._threads_of_ours())
        if self.spool is not None:
            self.spool.close()  # Spans that ended after the shutdown are in an open file.
        self.counters_add_up()
        status = self.processor.status()
        assert (status.queued, status.held) == (0, 0)
        later = self._status_of_the_next_process() if self.spool is not None else None
        missing = set(self.ended) - set(self.destination.stored)
        lost = status.dropped + status.spool_dropped + (later.spool_dropped if later else 0)
        filtered = status.filtered + (later.spool_filtered if later else 0)
        assert len(missing) <= status.rejected + filtered + lost, (missing, status)
        # A trace with a wanted span is delivered whole, whichever way its spans took.
        wanted = {self.traces[name] for name in self.ended if name.startswith("wanted")}
        missing_wanted = {name for name in missing if self.traces[name] in wanted}
        assert len(missing_wanted) <= status.rejected + lost, (missing_wanted, status)

    def _threads_of_ours(self) -> list[threading.Thread]:
        new = set(threading.enumerate()) - self.threads
        return [thread for thread in new if thread.name.startswith("mlflow-bridge")]

    def _status_of_the_next_process(self) -> DeliveryStatus:
        """Let another processor deliver the spool."""
        processor = DeliveryProcessor(
            self.destination,
            spool=Spool(self.directory),
            traces="genai" if self.filters else "all",
        )
        processor.warm_up()
        try:
            wait_until(lambda: not names_on_disk(self.directory))
        finally:
            assert processor.close(timeout_seconds=PATIENCE)
        status = processor.status()
        assert status.accepted == 0
        return status


EXAMPLES: Final = os.environ.get("DELIVERY_MODEL_EXAMPLES", "")

TestDelivery = Delivery.TestCase
TestDelivery.settings = settings(
    max_examples=int(EXAMPLES or 40),
    stateful_step_count=20,
    derandomize=not EXAMPLES,
    deadline=None,
    database=None,
    report_multiple_bugs=False,
    phases=[phase for phase in Phase if EXAMPLES or phase is not Phase.shrink],
    suppress_health_check=list(HealthCheck),
)
