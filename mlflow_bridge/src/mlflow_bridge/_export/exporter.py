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

from mlflow_bridge._config.resolved import ResolvedConfig, report_once, resolve_config
from mlflow_bridge._config.settings import (
    INSTRUMENT_ARGUMENTS,
    PROCESSOR_FIELDS,
    SAMPLING_FIELDS,
    ConfigurationError,
    MLflowDSPyConfig,
    environment_variable,
)
from mlflow_bridge._export.contract import Backoff, Outcome, Rejected, Retry, kind_of
from mlflow_bridge._export.delivery import Delivery, ExporterStats
from mlflow_bridge._export.destination import Destination, UnusableDestination, make_destination
from mlflow_bridge._process.rate_limited_log import RateLimitedLogger

logger = logging.getLogger(__name__)

RETRY_SECONDS: Final = 60.0
"""How long an export is tried again if no processor keeps its spans until MLflow takes them."""

_EXIT_CHECK_SECONDS: Final = 0.2


_PROCESSOR_NEEDED: Final = (
    "the span processor around this exporter cannot carry it out: use "
    "MLflowBatchSpanProcessor(exporter)"
)
_SAMPLER_NEEDED: Final = (
    "an exporter gets what was sampled: use TracerProvider(sampler=DSPySampler(config))"
)
_INSTRUMENTOR_NEEDED: Final = (
    "an exporter gets what was recorded: use "
    "DSPyInstrumentor().instrument(**config.instrument_arguments())"
)


class MLflowSpanExporter(SpanExporter):
    """Stores ended spans in MLflow: in a SQL store in this process, or on a tracking server.

    An `MLflowBatchSpanProcessor` around it carries out all of its settings, and keeps what cannot
    be delivered now. Under a stock ``BatchSpanProcessor`` it is a complete exporter, which tries
    again for up to a minute; settings that it cannot carry out there are named in the log.
    Every method may be called from any thread.

    Neither disk nor network is touched before the first span is delivered. For a SQL store,
    ``mlflow`` is imported at construction.

    Args:
        tracking_uri: Overrides MLFLOW_TRACKING_URI (default ``sqlite:///mlflow.db``).
        experiment_name: Overrides MLFLOW_EXPERIMENT_NAME and MLFLOW_EXPERIMENT_ID.
        experiment: The same as ``experiment_name``, as declarative configuration files call it.
        config: All settings; excludes the other arguments.
        **settings: Any other setting of `MLflowDSPyConfig` by its name, so that a declarative
            configuration file can say it.

    Raises:
        ConfigurationError: An argument cannot be used. What is wrong in the environment raises
            nothing, for zero-code instrumentation would lose every other signal by it: one line in
            the log names the setting. Where it says to where spans go, all of them are refused and
            counted.
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
        self._set_up(resolved.obstacle, insistent=config is not None or bool(given))
        _live_exporters.add(self)

    def _set_up(self, obstacle: str | None, *, insistent: bool) -> None:
        """Make what delivers.

        Args:
            obstacle: Why nothing can be sent, if that is known.
            insistent: Whether code has asked for this destination, so that it is told by an
                exception what the destination needs.
        """
        if obstacle is None:
            try:
                destination = make_destination(self._config)
            # Not only ConfigurationError: an installed MLflow may break in any way while imported.
            except Exception as error:
                if insistent:
                    raise
                obstacle = str(error) if isinstance(error, ConfigurationError) else repr(error)
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
        )
        self._has_told_of_unheeded = False
        self._log = RateLimitedLogger(logger)
        self._backoff = Backoff()

    @property
    def config(self) -> MLflowDSPyConfig:
        """The settings in use."""
        return self._config

    @property
    def destination_description(self) -> str:
        """Where spans go, in words for a log line; without credentials."""
        return self._description

    @property
    def obstacle(self) -> str | None:
        """Why this exporter can deliver nothing: what is wrong with the settings; else None."""
        return self._obstacle

    def stats(self) -> ExporterStats:
        """What has been delivered so far, and what not."""
        return self._delivery.stats

    def warm_up(self) -> Retry | Rejected | None:
        """Open the store or meet the server now, and look up or create the experiment.

        Returns:
            What is in the way, if anything. The first delivery would meet the same.
        """
        return self._delivery.warm_up()

    def deliver(self, spans: Sequence[ReadableSpan]) -> Outcome:
        """Make one attempt at storing these spans, each group for one experiment in one write.

        What MLflow refuses is divided until the span that it refuses stands alone; that one is
        counted, and reported once per kind with its name. After a `Retry` the same spans can be
        given again: those that are settled by then are not sent twice.

        Returns:
            `Sent` when all are settled and some are stored, `Rejected` when all are refused, or
            `Retry` when some could not be settled now.
        """
        return self._delivery.attempt(spans)

    def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:
        """Store these spans, trying again for up to a minute.

        The time is shortened to ``exit_timeout_seconds`` when the interpreter exits, and to none by
        ``shutdown``. Never raises.

        Returns:
            FAILURE if spans were given up or none of them was accepted.
        """
        owed = self._owed(spans)
        if not owed:
            return SpanExportResult.SUCCESS
        if not self._has_told_of_unheeded:
            self._tell_of_unheeded()
        try:
            return self._export(owed)
        except Exception:
            logger.exception("Exporting %d spans to MLflow failed", len(owed))
            return SpanExportResult.FAILURE

    def force_flush(self, timeout_millis: int = 30_000) -> bool:
        """Nothing waits in the exporter: True at once."""
        return True

    def shutdown(self, timeout_millis: float = 30_000) -> None:
        """End the delivery as ``close`` does, unless the exporter is adopted. May be repeated."""
        if self not in _adopted_at_ns:
            self.close(timeout_millis)

    def close(self, timeout_millis: float = 5_000) -> bool:
        """Try nothing again, refuse what comes from now on, and free connections. May be repeated.

        Returns:
            False if an attempt was still running after ``timeout_millis``.
        """
        return self._delivery.close(timeout_millis / 1000)

    def _owed(self, spans: Sequence[ReadableSpan]) -> Sequence[ReadableSpan]:
        """Those spans that nobody else delivers."""
        adopted_at = _adopted_at_ns.get(self)
        if adopted_at is None:
            return spans
        return [span for span in spans if span.end_time is None or span.end_time <= adopted_at]

    def _export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:
        patience = _Patience(RETRY_SECONDS, self._config.exit_timeout_seconds)
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
            if outcome.lasting:  # There is nowhere to keep the spans for as long.
                return self._abandon(spans, outcome.reason)
            delay = self._backoff.delay(attempt, outcome.after)
            if not patience.wait(delay, self._delivery.closing):
                return self._abandon(spans, outcome.reason)
            self._report_outage(attempt, outcome.reason)
        raise AssertionError("unreachable")

    def _tell_of_unheeded(self) -> None:
        """Name the settings that need more than an exporter behind a processor of another kind."""
        self._has_told_of_unheeded = True
        if self in _claimed:
            return
        given = self._config.model_fields_set
        # What the environment says to all parts is said by the part that it is for.
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
        # One failure may be a hiccup.
        if attempt > 1:
            self._log.warning(
                kind_of(reason),
                "%s does not accept spans: %s. It is tried again for up to %g s.",
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


class _Patience:
    """How long one export may go on; less once the interpreter exits. Times are in seconds."""

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
        """Wait. False, sooner, if the time for the export does not suffice or it is interrupted."""
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
    # Python marks the main thread as ended before it calls the functions registered with atexit,
    # from where a TracerProvider shuts its processors down.
    return not threading.main_thread().is_alive()


_claimed: WeakSet[MLflowSpanExporter] = WeakSet()
_adopted_at_ns: WeakKeyDictionary[MLflowSpanExporter, int] = WeakKeyDictionary()


def claim(delivery: object) -> None:
    """Note that an `MLflowBatchSpanProcessor` delivers by an exporter from now on."""
    if not isinstance(delivery, MLflowSpanExporter):
        return
    if delivery in _claimed:
        logger.warning(
            "An MLflowSpanExporter has two processors: the first one that is shut down ends it for "
            "both. Make an exporter for each, or give the processors a configuration."
        )
    _claimed.add(delivery)


def is_claimed(exporter: MLflowSpanExporter) -> bool:
    """Whether an `MLflowBatchSpanProcessor` delivers by an exporter."""
    return exporter in _claimed


def adopt(exporter: MLflowSpanExporter) -> None:
    """Have ``export`` acknowledge spans without sending them, and ``shutdown`` do nothing.

    For the owner of a processor that gets the same spans and calls ``deliver`` and ``close``, while
    the stock processor around the exporter cannot be taken away. Add that processor first: spans
    that ended before this call are still sent by ``export``, and sending one twice does no harm.
    """
    _adopted_at_ns.setdefault(exporter, time.time_ns())


def live_exporters() -> list[MLflowSpanExporter]:
    """Every exporter in this process that is still referenced, in no particular order."""
    return list(_live_exporters)


_live_exporters: WeakSet[MLflowSpanExporter] = WeakSet()


def _given(**values: Any) -> dict[str, Any]:
    return {name: value for name, value in values.items() if value is not None}


def _same(experiment_name: str | None, experiment: str | None) -> str | None:
    if None not in (experiment_name, experiment) and experiment_name != experiment:
        raise ConfigurationError(
            f"experiment_name {experiment_name!r} and experiment {experiment!r} differ"
        )
    return experiment_name if experiment is None else experiment
