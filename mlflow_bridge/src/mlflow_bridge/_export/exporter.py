# Copyright The opentelemetry-instrumentation-dspy Authors
# SPDX-License-Identifier: Apache-2.0
"""The span exporter: OpenTelemetry's contract on one side, MLflow on the other."""

from __future__ import annotations

import logging
import os
import threading
import time
from collections.abc import Callable, Sequence
from itertools import count
from typing import Any, Final
from weakref import WeakKeyDictionary, WeakSet

from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.sdk.trace.export import SpanExporter, SpanExportResult

from mlflow_bridge._config.base import report_once
from mlflow_bridge._config.resolved import ResolvedConfig, resolve_config
from mlflow_bridge._config.settings import (
    INSTRUMENT_ARGUMENTS,
    PROCESSOR_FIELDS,
    SAMPLING_FIELDS,
    ConfigurationError,
    MLflowDSPyConfig,
    environment_variable,
    secrets_of,
)
from mlflow_bridge._export.contract import Backoff, Outcome, Rejected, Retry, kind_of
from mlflow_bridge._export.delivery import Delivery, ExporterStats
from mlflow_bridge._export.destination import Destination, UnusableDestination, make_destination
from mlflow_bridge._export.lending import Lending
from mlflow_bridge._export.runs.runs import Runs
from mlflow_bridge._export.trace_details import DetailsOfTraces
from mlflow_bridge._process.outside_text import outside_text
from mlflow_bridge._process.rate_limited_log import RateLimitedLogger

logger = logging.getLogger(__name__)

RETRY_SECONDS: Final = 60.0
"""Time limit for the attempts of an export, if no processor keeps its spans for later."""

_EXIT_CHECK_SECONDS: Final = 0.2

_FULL_BATCH: Final = 512
"""Spans in a batch of a stock processor in which further spans wait."""
_DETAILS_SECONDS: Final = 1.0
"""Longest time for metadata of traces after an export."""

_MAX_OBSTACLE: Final = 1000
"""Characters of the reason why there is no destination; the message for a plugin is long."""

_PROCESSOR_NEEDED: Final = (
    "the span processor around this exporter cannot carry it out: use "
    "MLflowBatchSpanProcessor(exporter)"
)
_SAMPLER_NEEDED: Final = (
    "an exporter gets sampled spans only: use TracerProvider(sampler=DSPySampler(config))"
)
_INSTRUMENTOR_NEEDED: Final = (
    "an exporter cannot change recorded content: use "
    "DSPyInstrumentor().instrument(**config.instrument_arguments())"
)


class MLflowSpanExporter(SpanExporter):
    """Exporter of ended spans to MLflow: to a SQL store in this process, or to a tracking server.

    An `MLflowBatchSpanProcessor` around the exporter implements all settings, and keeps spans that
    cannot be delivered now. Behind a stock ``BatchSpanProcessor`` the exporter is complete, too: it
    repeats an attempt for up to a minute. The log names settings that have no effect there. Every
    method may be called from any thread.

    There is no access to disk or network before the first span is delivered. For a SQL store,
    ``mlflow`` is imported then, too: it takes seconds and much memory, and many processes have an
    exporter but make no span. The constructor checks that a supported version is installed.

    Args:
        tracking_uri: Overrides MLFLOW_TRACKING_URI (default ``sqlite:///mlflow.db``).
        experiment_name: Overrides MLFLOW_EXPERIMENT_NAME and MLFLOW_EXPERIMENT_ID.
        experiment: Alias of ``experiment_name`` for declarative configuration files.
        config: All settings; excludes the other arguments.
        **settings: Other settings of `MLflowDSPyConfig` by name, for declarative configuration
            files.

    Raises:
        ConfigurationError: An argument cannot be used. A wrong environment variable does not
            raise, since zero-code instrumentation would then lose all signals: a log line names
            it. If a variable of the destination is wrong, all spans are refused and counted.
    """

    def __init__(
        self,
        tracking_uri: str | None = None,
        experiment_name: str | None = None,
        *,
        experiment: str | None = None,
        config: MLflowDSPyConfig | None = None,
        **settings: Any,
    ) -> None:
        given = _given(
            tracking_uri=tracking_uri,
            experiment_name=_same(experiment_name, experiment),
            **settings,
        )
        if config is not None and given:
            raise ConfigurationError(f"config excludes {', '.join(sorted(given))}", fields=given)
        resolved = ResolvedConfig(config) if config is not None else resolve_config(given)
        self._config = resolved.config
        self._set_up(resolved.obstacle, may_raise=config is not None or bool(given))
        _live_exporters.add(self)

    def _set_up(self, obstacle: str | None, *, may_raise: bool) -> None:
        """Create the delivery to the destination.

        Args:
            obstacle: Why spans cannot be sent; None if no reason is known yet.
            may_raise: Whether to raise if the destination cannot be made, since code has chosen it.
        """
        if obstacle is None:
            try:
                destination = make_destination(self._config)
            # Any exception: the import of an installed MLflow may fail in any way.
            except Exception as error:
                if may_raise:
                    raise
                said = str(error) if isinstance(error, ConfigurationError) else repr(error)
                obstacle = outside_text(said, secrets=secrets_of(self._config), limit=_MAX_OBSTACLE)
            else:
                self._begin(destination, self._config.destination_description)
        self._obstacle = obstacle
        if obstacle is not None:
            report_once(f"No trace will reach MLflow: {obstacle}", level=logging.ERROR)
            self._begin(UnusableDestination(obstacle), "MLflow (bad settings)")

    def _begin(self, destination: Destination, description: str) -> None:
        self._description = description
        self._delivery = Delivery(
            destination,
            max_attribute_bytes=self._config.max_attribute_bytes,
            max_batch_bytes=self._config.max_batch_bytes,
            program_tags=self._config.program_tags,
            details=DetailsOfTraces(self._config.trace_metadata, self._config.tracking_username),
            secrets=secrets_of(self._config),
        )
        self._has_reported_unused = False
        self._log = RateLimitedLogger(logger)
        self._backoff = Backoff()

    @property
    def config(self) -> MLflowDSPyConfig:
        """The settings in use."""
        return self._config

    @property
    def destination_description(self) -> str:
        """Human-readable destination for log lines, without credentials."""
        return self._description

    @property
    def obstacle(self) -> str | None:
        """Error in the settings that prevents any delivery; None if there is no such error."""
        return self._obstacle

    @property
    def _runs(self) -> Runs:
        return self._delivery.runs

    @property
    def _lending(self) -> Lending:
        """Values for roots that have no values; a processor gives it the spans that end."""
        return self._delivery.lending

    @property
    def _delivery_of_details(self) -> Delivery:
        """Writes metadata of traces when a sender has nothing else to do."""
        return self._delivery

    def stats(self) -> ExporterStats:
        """Counters of stored, rejected and abandoned spans so far."""
        return self._delivery.stats

    @property
    def is_loaded(self) -> bool:
        """Whether MLflow has been imported, cannot be imported, or is not needed."""
        return self._delivery.is_loaded

    def load(self) -> Retry | None:
        """Import MLflow now if the destination needs it; the first delivery otherwise does so.

        Processes that are forked afterwards share the memory of the imported modules.

        Returns:
            The failure, which every delivery would also have; None on success.
        """
        return self._delivery.load()

    def warm_up(self) -> Retry | Rejected | None:
        """Open the store or connect to the server, and look up or create the experiment.

        Returns:
            The failure, which the first delivery would also have; None on success.
        """
        return self._delivery.warm_up()

    def deliver(self, spans: Sequence[ReadableSpan]) -> Outcome:
        """Make one attempt at storing these spans, with one write for each experiment and run.

        A refused batch is divided until the refused span is isolated. That span is counted and
        logged by name, once for each kind of failure. After a `Retry` the caller can pass the same
        spans again; spans that are already settled are not sent twice.

        Returns:
            `Sent` if all spans are settled and some are stored; `Rejected` if all are refused;
            `Retry` if some spans cannot be settled now.
        """
        return self._delivery.attempt(spans)

    def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:
        """Store these spans, with repeated attempts for up to a minute. Never raises.

        The time limit is ``exit_timeout_seconds`` once the interpreter exits; ``shutdown`` ends the
        attempts at once.

        Returns:
            FAILURE if spans were given up or all spans were refused; else SUCCESS.
        """
        owed = self._owed(spans) if self._config.enabled else ()
        if not owed:
            return SpanExportResult.SUCCESS
        if not self._has_reported_unused:
            self._report_unused_settings()
        try:
            result = self._export(owed)
            if len(owed) < _FULL_BATCH:  # No span waits in the processor.
                self._write_details()
            return result
        except Exception:
            logger.exception("Exporting %d spans to MLflow failed", len(owed))
            return SpanExportResult.FAILURE

    def force_flush(self, timeout_millis: int = 30_000) -> bool:
        """Return True at once, since no span waits in the exporter."""
        return True

    def shutdown(self, timeout_millis: float = 30_000) -> None:
        """Close the exporter as ``close`` does, unless it is adopted. May be repeated.

        Args:
            timeout_millis: Longest wait for the current attempt, in milliseconds.
        """
        if self not in _adopted_at_ns:
            self.close(timeout_millis)

    def close(self, timeout_millis: float = 5_000) -> bool:
        """Make no further attempts, refuse further spans, and free connections. May be repeated.

        Args:
            timeout_millis: Longest wait for the current attempt, in milliseconds.

        Returns:
            False if an attempt was still running after ``timeout_millis``.
        """
        return self._delivery.close(timeout_millis / 1000)

    def _owed(self, spans: Sequence[ReadableSpan]) -> Sequence[ReadableSpan]:
        """The spans that this exporter has to store: after an adoption, only older spans."""
        adopted_at = _adopted_at_ns.get(self)
        if adopted_at is None:
            return spans
        return [span for span in spans if span.end_time is None or span.end_time <= adopted_at]

    def _export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:
        limit = _TimeLimit(RETRY_SECONDS, self._config.exit_timeout_seconds)
        for attempt in count(1):
            outcome = self.deliver(spans)
            if isinstance(outcome, Rejected):
                self._log.warning(
                    kind_of(outcome.reason),
                    "%s refused %d spans for good: %s. They are lost.",
                    self._description,
                    len(spans),
                    outcome.reason,
                )
                return SpanExportResult.FAILURE
            if not isinstance(outcome, Retry):
                return SpanExportResult.SUCCESS
            if outcome.lasting:  # An exporter alone cannot keep spans until a user fixes this.
                return self._abandon(spans, outcome.reason)
            delay = self._backoff.delay(attempt, outcome.after)
            if not limit.wait(delay, self._delivery.closing):
                return self._abandon(spans, outcome.reason)
            self._report_outage(attempt, outcome.reason)
        raise AssertionError("unreachable")

    def _write_details(self) -> None:
        until = time.monotonic() + _DETAILS_SECONDS
        while time.monotonic() < until and self._delivery.write_pending_details():
            pass

    def _report_unused_settings(self) -> None:
        """Log the settings that an exporter behind another processor cannot implement."""
        self._has_reported_unused = True
        if self in _claimed:
            return
        given = self._config.model_fields_set
        # The sampler and the instrumentation read variables themselves, but not these arguments.
        by_code = {name for name in given if not os.environ.get(environment_variable(name))}
        homes = (
            (given & set(PROCESSOR_FIELDS), _PROCESSOR_NEEDED),
            (by_code & set(SAMPLING_FIELDS), _SAMPLER_NEEDED),
            (by_code & INSTRUMENT_ARGUMENTS.keys(), _INSTRUMENTOR_NEEDED),
        )
        for names, needed in homes:
            if names:
                logger.warning("%s: no effect; %s.", ", ".join(sorted(names)), needed)

    def _report_outage(self, attempt: int, reason: str) -> None:
        # A single failure may be short and is not logged.
        if attempt > 1:
            self._log.warning(
                kind_of(reason),
                "%s does not accept spans: %s. Further attempts are made for up to %g s.",
                self._description,
                reason,
                RETRY_SECONDS,
            )

    def _abandon(self, spans: Sequence[ReadableSpan], reason: str) -> SpanExportResult:
        self._delivery.count(abandoned=len(spans), error=reason)
        self._log.warning(
            "abandoned",
            "%d spans are lost: %s did not accept them in time: %s",
            len(spans),
            self._description,
            reason,
        )
        return SpanExportResult.FAILURE


class _TimeLimit:
    """Time limit of one export, shorter once the interpreter exits. Times are in seconds."""

    def __init__(
        self,
        total: float,
        at_exit: float,
        *,
        clock: Callable[[], float] = time.monotonic,
        exiting: Callable[[], bool] | None = None,
    ) -> None:
        self._clock = clock
        self._exiting = exiting or _interpreter_exits
        self._at_exit = at_exit
        self._deadline = clock() + total
        self._noticed_exit = False

    def wait(self, seconds: float, interrupted: threading.Event) -> bool:
        """Wait; return False, early, if the time limit does not allow it or on an interruption."""
        until = self._clock() + seconds
        while True:
            self._notice_exit()
            if until > self._deadline:
                return False
            left = until - self._clock()
            if left <= 0:
                return not interrupted.is_set()
            if interrupted.wait(min(left, _EXIT_CHECK_SECONDS)):
                return False

    def _notice_exit(self) -> None:
        if not self._noticed_exit and self._exiting():
            self._noticed_exit = True
            self._deadline = min(self._deadline, self._clock() + self._at_exit)


def _interpreter_exits() -> bool:
    # Python marks the main thread as ended before it calls atexit functions, in which a
    # TracerProvider shuts its processors down.
    return not threading.main_thread().is_alive()


_claimed: WeakSet[MLflowSpanExporter] = WeakSet()
_adopted_at_ns: WeakKeyDictionary[MLflowSpanExporter, int] = WeakKeyDictionary()


def claim(delivery: object) -> None:
    """Register that an `MLflowBatchSpanProcessor` delivers by an exporter from now on."""
    if not isinstance(delivery, MLflowSpanExporter):
        return
    if delivery in _claimed:
        logger.warning(
            "An MLflowSpanExporter has two processors: when one processor is shut down, the other "
            "cannot deliver. Make an exporter for each, or give the processors a configuration."
        )
    _claimed.add(delivery)


def is_claimed(exporter: MLflowSpanExporter) -> bool:
    """Whether an `MLflowBatchSpanProcessor` delivers by an exporter."""
    return exporter in _claimed


def adopt(exporter: MLflowSpanExporter) -> None:
    """Let ``export`` acknowledge spans without sending them, and let ``shutdown`` do nothing.

    The caller has a processor that gets the same spans and calls ``deliver`` and ``close``, while
    the stock processor around the exporter cannot be removed. The caller has to add that processor
    first. ``export`` still sends spans that ended before this call; a span that is sent twice is
    stored once.
    """
    _adopted_at_ns.setdefault(exporter, time.time_ns())


def live_exporters() -> list[MLflowSpanExporter]:
    """All exporters in this process that are still referenced, in no particular order."""
    return list(_live_exporters)


def completions() -> list[Callable[[float], object]]:
    """A function for each exporter whose stored traces wait for a remote caller.

    It completes these traces, as ``close`` does, for at most a number of seconds.
    """
    deliveries = [exporter._delivery for exporter in live_exporters()]  # pyright: ignore[reportPrivateUsage]
    return [delivery.complete_traces for delivery in deliveries if delivery.awaits_callers]


_live_exporters: WeakSet[MLflowSpanExporter] = WeakSet()


def _given(**values: Any) -> dict[str, Any]:
    return {name: value for name, value in values.items() if value is not None}


def _same(experiment_name: str | None, experiment: str | None) -> str | None:
    if None not in (experiment_name, experiment) and experiment_name != experiment:
        raise ConfigurationError(
            f"experiment_name {experiment_name!r} and experiment {experiment!r} differ"
        )
    return experiment_name if experiment is None else experiment
