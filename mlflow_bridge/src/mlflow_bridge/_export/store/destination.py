# Copyright The opentelemetry-instrumentation-dspy Authors
# SPDX-License-Identifier: Apache-2.0
"""Delivery to MLflow's SQL store in this process.

``TracingClient`` is not documented, but no other class stores the spans of many traces in one
transaction. Its method ``log_spans``, called with positional arguments, is the same from MLflow 3.4
to 3.18.
"""

from __future__ import annotations

import importlib
import json
import logging
import os
import re
import sys
import time
from collections.abc import Callable, Generator, Mapping
from contextlib import contextmanager, nullcontext
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from typing import Any, Final, TypeVar

from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.trace import format_trace_id

from mlflow_bridge._config.settings import ConfigurationError, MLflowDSPyConfig, secrets_of
from mlflow_bridge._export.batches import Batch
from mlflow_bridge._export.contract import (
    NOT_STORED,
    Outcome,
    Rejected,
    Retry,
    Sent,
    TraceSight,
)
from mlflow_bridge._export.experiments import Experiment, Experiments, Found
from mlflow_bridge._export.mapping.span import context_of
from mlflow_bridge._export.mapping.storable import JsonText
from mlflow_bridge._export.mapping.trace_details import TraceDetails
from mlflow_bridge._export.runs.contract import (
    NewRun,
    RunFigures,
    RunStep,
    program_artifact,
    programs_run,
)
from mlflow_bridge._export.store.annotations import store_annotation
from mlflow_bridge._export.store.creation import create_if_absent
from mlflow_bridge._export.store.errors import (
    failure_of,
    is_missing,
    opening_failure_of,
    request_failure_of,
)
from mlflow_bridge._export.store.probe import FileIdentity, file_identity, probe
from mlflow_bridge._export.store.runs import begin_run, end_run, log_step
from mlflow_bridge._export.store.writer_lock import writer_lock
from mlflow_bridge._process.fork_guard import ForkGuard
from mlflow_bridge._process.outside_text import outside_text
from mlflow_bridge._process.rate_limited_log import RateLimitedLogger
from mlflow_bridge._process.rng import rng
from mlflow_bridge._spans.annotation import Annotation
from mlflow_bridge._spans.names import COST, TOKEN_USAGE, TRACE_ID

logger = logging.getLogger(__name__)

_PRICED_BY: Final = frozenset({TOKEN_USAGE, "llm.token_count.prompt", "llm.token_count.total"})
_LITELLM_LOCAL: Final = "LITELLM_LOCAL_MODEL_COST_MAP"
_OLDEST: Final = (3, 15)  # In older versions, sending a batch again doubles its tokens and cost.
# The same time limit that MLflow sets for SQLite's own locks. A process that holds the lock for
# longer may be stopped.
_LONGEST_WAIT_SECONDS: Final = 20.0
_STRANDED: Final = Retry(
    "this process cannot use MLflow: it was forked while another thread was busy in it"
)
_INSTALL: Final = "pip install 'mlflow-bridge[mlflow]' (mlflow >= 3.15, < 4)"

_MODULES: Final = (
    "mlflow",
    "mlflow.entities",
    "mlflow.entities.assessment",
    "mlflow.exceptions",
    "mlflow.tracing.client",
    "mlflow.store.tracking.sqlalchemy_store",
)
_NEEDED: Final = ("mlflow", "sqlalchemy")  # "mlflow-tracing" alone has no SQLAlchemy.
# States of a trace whose root is stored.
_ENDED: Final = frozenset({"OK", "ERROR"})

_Result = TypeVar("_Result")

mlflow_guard: Final = ForkGuard()
"""Guard that encloses every call of MLflow."""

mlflow_guard.watch()


class StoreDestination:
    """Writes spans to a SQL store. Used by one thread at a time, after construction.

    MLflow is imported by ``load``, ``warm_up`` or ``send``, whichever is called first.

    Args:
        config: The settings with store and experiment.

    Raises:
        ConfigurationError: MLflow is not installed, or its version is not supported.
    """

    def __init__(self, config: MLflowDSPyConfig) -> None:
        self._config = config
        _check_installed()
        # MLflow imports this module, which cannot be imported any more when the interpreter exits.
        # With this module, MLflow itself can: a short program sends its first span then.
        importlib.import_module("concurrent.futures.thread")
        self._mlflow: Any = None
        self._import_failure: Retry | None = None
        self._tracing: Any = None
        self._client: Any = None
        # The open file of a SQLite store.
        self._file: FileIdentity | None = None
        self._experiments = Experiments(config, _StoreExperiments(lambda: self._client))
        self._process = os.getpid()
        self._log = RateLimitedLogger(logger)

    @property
    def is_loaded(self) -> bool:
        """Whether MLflow has been imported, or cannot be imported in this process."""
        known = self._mlflow is not None or self._import_failure is not None
        return known or mlflow_guard.stranded

    def load(self) -> Retry | None:
        """Import MLflow, which takes seconds. A failure is final in this process."""
        if self._mlflow is not None or self._import_failure is not None:
            return self._import_failure
        if mlflow_guard.stranded:  # A lock of the import system may be held for ever.
            return _STRANDED
        # A fork waits meanwhile: a child would inherit half-imported modules and their locks.
        with mlflow_guard.inside():
            try:
                self._mlflow = _import_mlflow()
            # Any exception: the import of an installed MLflow may fail in any way.
            except Exception as error:
                said = str(error) if isinstance(error, ConfigurationError) else repr(error)
                self._import_failure = Retry(said, lasting=True)
        return self._import_failure

    def warm_up(self) -> Retry | Rejected | None:
        """Open the store and look up the experiment."""
        # Before the lock of the store, for which other processes would wait during the import.
        failure = self.load()
        if failure is not None:
            return failure
        found = self._exclusively(lambda: self._open() or self._experiments.resolve(None))
        return found if isinstance(found, (Retry, Rejected)) else None

    def send(self, batch: Batch) -> Outcome:
        """Write the batch in one transaction, then link its traces to its run."""
        return self.load() or self._exclusively(lambda: self._send(batch))

    def look_up(self, trace_id: str) -> TraceSight | Retry | None:
        """Look a trace up by MLflow's id; None if the store has nothing of the trace."""
        return self.load() or self._exclusively(lambda: self._look_up(trace_id))

    def describe(self, trace_id: str, details: TraceDetails) -> Retry | None:
        """Write the details of a trace in one transaction, after a look at the trace."""
        return self.load() or self._exclusively(lambda: self._describe(trace_id, details))

    def annotate(self, annotation: Annotation) -> Outcome:
        """Store a change of an assessment or a tag in one transaction."""
        return self.load() or self._exclusively(lambda: self._annotate(annotation))

    def begin_run(self, run: NewRun) -> str | Retry | Rejected:
        """Find the run with this key, or make it, and return its id."""
        return self.load() or self._exclusively(lambda: self._begin_run(run))

    def log_step(self, run_id: str, step: RunStep) -> Retry | Rejected | None:
        """Write the metrics of one step of a run. May be repeated."""
        return self._write_run(lambda: log_step(self._client, self._mlflow.entities, run_id, step))

    def end_run(self, run_id: str, figures: RunFigures) -> Retry | Rejected | None:
        """Write parameters and metrics of a run, and end it. May be repeated."""
        return self._write_run(
            lambda: end_run(self._client, self._mlflow.entities, run_id, figures)
        )

    def _write_run(self, write: Callable[[], None]) -> Retry | Rejected | None:
        return self.load() or self._exclusively(lambda: self._written_run(write))

    def _begin_run(self, run: NewRun) -> str | Retry | Rejected:
        failure = self._open()
        if failure is not None:
            return failure
        experiment = self._experiments.resolve(run.experiment_id)
        if not isinstance(experiment, str):
            return experiment
        try:
            return begin_run(self._client, experiment, run)
        except Exception as error:
            return failure_of(error)

    def _written_run(self, write: Callable[[], None]) -> Retry | Rejected | None:
        failure = self._open()
        if failure is not None:
            return failure
        try:
            write()
        except Exception as error:
            return failure_of(error)
        return None

    def _look_up(self, trace_id: str) -> TraceSight | Retry | None:
        info = self._trace_info(trace_id)
        if info is None or isinstance(info, Retry):
            return info
        return TraceSight(has_root=_has_ended(info), start_ms=int(info.request_time))

    def _trace_info(self, trace_id: str) -> Any:
        """The store's description of a trace; None if it does not know the trace; or a Retry."""
        failure = self._open()
        if failure is not None:
            return failure if isinstance(failure, Retry) else None
        try:
            # Not through the client, which looks at the spans of this process first.
            return self._tracing.store.get_trace_info(trace_id)
        except Exception as error:
            return None if is_missing(error) else request_failure_of(error)

    def _describe(self, trace_id: str, details: TraceDetails) -> Retry | None:
        info = self._trace_info(trace_id)
        if isinstance(info, Retry):
            return info
        # MLflow takes state and duration from this write: the trace would stay in progress.
        if info is None or not _has_ended(info):
            return None
        for name, value in details.fields.items():
            setattr(info, name, value)
        if details.state is not None:
            info.state = type(info.state)(details.state)
        # MLflow merges these, so that what others have written stays.
        info.trace_metadata, info.tags = dict(details.metadata), {}
        try:
            info.assessments = [self._assessment(item) for item in details.assessments]
            self._tracing.start_trace(info)
        except Exception as error:
            failure = failure_of(error)
            if isinstance(failure, Retry) and not failure.lasting:
                return failure
            self._log.warning(
                "details",
                "Traces are stored, but without their metadata: %s",
                outside_text(failure.reason, secrets=secrets_of(self._config)),
            )
        return None

    def _save_program(self, annotation: Annotation) -> Outcome:
        run_id = self._begin_run(programs_run(annotation.experiment_id))
        if not isinstance(run_id, str):
            return run_id
        assert annotation.program is not None
        digest, text = annotation.program
        try:
            self._client.log_text(run_id, text, program_artifact(digest))
            self._client.set_terminated(run_id)
        except Exception as error:
            return failure_of(error)
        return Sent(1)

    def _annotate(self, annotation: Annotation) -> Outcome:
        failure = self._open()
        if failure is not None:
            return failure
        if annotation.program is not None:
            return self._save_program(annotation)
        try:
            entities = self._mlflow.entities.assessment
            store_annotation(self._tracing.store, entities, annotation)
        except Exception as error:
            outcome = failure_of(error)
            found = self._trace_info(annotation.trace_id)
            if found is None or isinstance(found, Retry):
                return NOT_STORED if found is None else found
            return Sent(1) if self._is_done(annotation, error) else outcome
        return Sent(1)

    def _assessment(self, known: Mapping[str, Any]) -> Any:
        return self._mlflow.entities.Assessment.from_dictionary(known)

    def _is_done(self, annotation: Annotation, error: Exception) -> bool:
        """Whether an attempt before has stored an annotation that MLflow now refuses."""
        if annotation.deleted_tag is not None:
            return is_missing(error)
        wanted = annotation.assessment_id
        if wanted is None:
            return False
        try:
            return self._tracing.store.get_assessment(annotation.trace_id, wanted) is not None
        except Exception:
            return False

    def _exclusively(self, work: Callable[[], _Result]) -> _Result:
        """Run a function without a fork, and without another process of the bridge at this store.

        The wait for other processes is limited. After the limit, the function runs without the
        lock.
        """
        until = time.monotonic() + _LONGEST_WAIT_SECONDS
        while True:
            # The wait is outside of the guard, so that a fork does not wait for other processes.
            with mlflow_guard.inside(), writer_lock(self._config.tracking_uri) as is_mine:
                if is_mine or time.monotonic() >= until:
                    return work()
            time.sleep(rng.uniform(0.005, 0.02))

    def _send(self, batch: Batch) -> Outcome:
        failure = self._open()
        if failure is not None:
            return failure
        experiment = self._experiments.resolve(batch.experiment_id)
        if not isinstance(experiment, str):
            return experiment
        spans = [self._mlflow.entities.Span(_encoded(item.span)) for item in batch.spans]
        try:
            with _offline_pricing() if _may_be_priced(batch) else nullcontext():
                self._tracing.log_spans(experiment, spans)
        except Exception as error:
            self._experiments.forget()  # The experiment may have been deleted: look it up again.
            return failure_of(error)
        failure = self._link(batch) or self._describe_all(batch)
        return Sent(len(spans)) if failure is None else failure

    def _describe_all(self, batch: Batch) -> Retry | None:
        for item in batch.spans:
            if item.details is not None:
                failure = self._describe(_trace_id(item.span), item.details)
                if failure is not None:
                    return failure  # The whole batch is sent again; a span is stored once.
        return None

    def close(self) -> None:
        """Forget the store. MLflow keeps its connections for other users in this process."""
        self._tracing = self._client = None

    def _open(self) -> Retry | Rejected | None:
        if mlflow_guard.stranded:
            return _STRANDED
        self._renew_connections_after_fork()
        uri = self._config.tracking_uri
        if self._tracing is not None:
            if file_identity(uri) == self._file:
                return None
            self._forget_file()
        try:
            tracing_client = self._mlflow.tracing.client.TracingClient
            probe(uri)
            create_if_absent(uri, tracing_client)
            self._tracing = tracing_client(uri)
            # The constructor may leave this to the first use; see `annotations`.
            _ = self._tracing.store
            self._client = self._mlflow.MlflowClient(tracking_uri=uri)
            self._file = file_identity(uri)
        except Exception as error:
            self._tracing = self._client = None
            return opening_failure_of(error)
        return None

    def _forget_file(self) -> None:
        """Close the store after its file was removed or replaced, since the old file is open."""
        self._experiments.forget()
        engine = getattr(getattr(self._tracing, "store", None), "engine", None)
        if engine is not None:
            engine.dispose()
        self.close()

    def _renew_connections_after_fork(self) -> None:
        """Open new connections after a fork, since two processes cannot share a connection."""
        if self._process == os.getpid():
            return
        self._process = os.getpid()
        engine = getattr(getattr(self._tracing, "store", None), "engine", None)
        if engine is not None:
            engine.dispose(close=False)

    def _link(self, batch: Batch) -> Retry | None:
        trace_ids = [_trace_id(item.span) for item in batch.spans if item.is_local_root]
        if batch.run_id is None or not trace_ids:
            return None
        try:
            self._client.link_traces_to_run(trace_ids, batch.run_id)
        except Exception as error:
            failure = failure_of(error)
            if isinstance(failure, Retry):
                return failure  # The whole batch is sent again; a span is stored once.
            self._log.warning(
                f"run {batch.run_id}",
                "Traces are stored, but could not be linked to run %s: %s",
                outside_text(batch.run_id),
                outside_text(failure.reason, secrets=secrets_of(self._config)),
            )
        return None


class _StoreExperiments:
    """Experiment look-up through MLflow's client, which exists once the store is open."""

    def __init__(self, client: Callable[[], Any]) -> None:
        self._client = client

    def by_id(self, experiment_id: str) -> Found:
        return self._found(lambda: self._client().get_experiment(experiment_id))

    def by_name(self, name: str) -> Found:
        return self._found(lambda: self._client().get_experiment_by_name(name))

    def create(self, name: str) -> Found:
        try:
            self._client().create_experiment(name)
        except Exception as error:
            # This code means that another process has created the experiment just before.
            if getattr(error, "error_code", None) != "RESOURCE_ALREADY_EXISTS":
                return request_failure_of(error)
        return self.by_name(name)

    def _found(self, look_up: Callable[[], Any]) -> Found:
        try:
            found = look_up()
        except Exception as error:
            return None if is_missing(error) else request_failure_of(error)
        if found is None:
            return None
        active = found.lifecycle_stage == "active"
        return Experiment(str(found.experiment_id), str(found.name), active=active)


def _has_ended(info: Any) -> bool:
    return str(getattr(info.state, "value", info.state)) in _ENDED


def _may_be_priced(batch: Batch) -> bool:
    """Whether MLflow will compute the cost of a span in the batch."""
    return any(
        COST not in attributes and not _PRICED_BY.isdisjoint(attributes)
        for attributes in (item.span.attributes or {} for item in batch.spans)
    )


@contextmanager
def _offline_pricing() -> Generator[None, None, None]:
    """Prevent network access by litellm if MLflow imports it in this block.

    MLflow imports litellm to price a call without a cost. litellm then downloads its price list.
    Without a network this takes long, and can deadlock with MLflow's import hooks.
    """
    if "litellm" in sys.modules or _LITELLM_LOCAL in os.environ:
        yield
        return
    os.environ[_LITELLM_LOCAL] = "True"
    try:
        yield
    finally:
        os.environ.pop(_LITELLM_LOCAL, None)


def _check_installed() -> None:
    """Check that a supported MLflow is installed, without importing it.

    Raises:
        ConfigurationError: MLflow is not installed, or its version is not supported.
    """
    for name in _NEEDED:
        try:
            missing = name not in sys.modules and find_spec(name) is None
        except ImportError as error:
            raise _cannot_be_imported(error) from error
        if missing:
            raise _cannot_be_imported(ModuleNotFoundError(f"No module named {name!r}"))
    try:
        _check_version(version("mlflow"))
    except PackageNotFoundError:
        return  # MLflow's source tree. Its version is checked when it is imported.


def _import_mlflow() -> Any:
    """Import MLflow and its modules that are used here.

    Raises:
        ConfigurationError: MLflow cannot be imported, or its version is not supported.
    """
    try:
        mlflow, *_ = [importlib.import_module(name) for name in _MODULES]
    except ImportError as error:
        raise _cannot_be_imported(error) from error
    _check_version(mlflow.__version__)
    return mlflow


def _cannot_be_imported(error: ImportError) -> ConfigurationError:
    return ConfigurationError(
        "MLFLOW_TRACKING_URI (argument tracking_uri) names a SQL store, which needs MLflow in "
        f"this environment, but it cannot be imported ({error}). Install it with {_INSTALL}, "
        "or name a tracking server (http://... or https://...), which works without it"
    )


def _check_version(installed: str) -> None:
    """Raise a ConfigurationError if this version of MLflow is too old."""
    numbers = re.match(r"(\d+)\.(\d+)", installed)
    if numbers and tuple(int(number) for number in numbers.groups()) < _OLDEST:
        raise ConfigurationError(
            f"MLflow {installed} is too old for traces in a SQL store; install it with {_INSTALL}"
        )


def _trace_id(span: ReadableSpan) -> str:
    return f"tr-{format_trace_id(context_of(span).trace_id)}"


def _encoded(span: ReadableSpan) -> ReadableSpan:
    """The span with every attribute JSON-encoded exactly once, as the store requires."""
    attributes = {key: _json(value) for key, value in (span.attributes or {}).items()}
    attributes[TRACE_ID] = _json(_trace_id(span))
    return ReadableSpan(
        name=span.name,
        context=span.context,
        parent=span.parent,
        resource=span.resource,
        attributes=attributes,
        events=span.events,
        links=span.links,
        kind=span.kind,
        instrumentation_scope=span.instrumentation_scope,
        status=span.status,
        start_time=span.start_time,
        end_time=span.end_time,
    )


def _json(value: Any) -> str:
    if isinstance(value, JsonText):
        return str(value)
    return json.dumps(value, ensure_ascii=False)
