# Copyright The opentelemetry-instrumentation-dspy Authors
# SPDX-License-Identifier: Apache-2.0
"""Into MLflow's SQL store, in this process.

``TracingClient`` is not documented, but its ``log_spans`` has
been the same from MLflow 3.4 to 3.18, called with positional arguments; there is no other way to
store the spans of many traces in one transaction.
"""

from __future__ import annotations

import importlib
import json
import logging
import os
import re
import sys
import time
from collections.abc import Callable, Generator
from contextlib import contextmanager, nullcontext
from typing import Any, Final, TypeVar

from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.trace import format_trace_id

from mlflow_bridge._config.settings import ConfigurationError, MLflowDSPyConfig
from mlflow_bridge._export.batches import Batch
from mlflow_bridge._export.contract import Outcome, Rejected, Retry, Sent
from mlflow_bridge._export.experiments import Experiment, Experiments, Found
from mlflow_bridge._export.mapping.span import context_of
from mlflow_bridge._export.mapping.storable import JsonText
from mlflow_bridge._export.store.creation import create_if_absent
from mlflow_bridge._export.store.errors import (
    failure_of,
    is_missing,
    opening_failure_of,
    request_failure_of,
)
from mlflow_bridge._export.store.probe import FileIdentity, file_identity, probe
from mlflow_bridge._export.store.writer_lock import writer_lock
from mlflow_bridge._process.fork_guard import ForkGuard
from mlflow_bridge._process.rate_limited_log import RateLimitedLogger
from mlflow_bridge._process.rng import rng
from mlflow_bridge._spans.names import COST, TOKEN_USAGE, TRACE_ID

logger = logging.getLogger(__name__)

_PRICED_BY: Final = frozenset({TOKEN_USAGE, "llm.token_count.prompt", "llm.token_count.total"})
_LITELLM_LOCAL: Final = "LITELLM_LOCAL_MODEL_COST_MAP"
_OLDEST: Final = (3, 15)  # before, a batch that is sent again doubles its tokens and cost
# As long as MLflow has SQLite wait for its own locks. Whoever takes longer may be stopped.
_LONGEST_WAIT_SECONDS: Final = 20.0
_STRANDED: Final = Retry(
    "this process cannot use MLflow: it was forked while another thread was busy in it"
)
_INSTALL: Final = "pip install 'mlflow-bridge[mlflow]' (mlflow >= 3.15, < 4)"

_Result = TypeVar("_Result")

mlflow_guard: Final = ForkGuard()
"""Around every call into MLflow."""

mlflow_guard.watch()


class StoreDestination:
    """Writes spans into a SQL store. Used by one thread at a time, after construction.

    Args:
        config: Names the store and the experiment.

    Raises:
        ConfigurationError: MLflow is not installed, or not in a version that can be used.
    """

    def __init__(self, config: MLflowDSPyConfig) -> None:
        self._config = config
        # Here, on the caller's thread: an import on the worker's thread fails once the interpreter
        # has begun to exit, and a short program sends its first span then.
        self._mlflow = _import_mlflow()
        self._tracing: Any = None
        self._client: Any = None
        # The file that is open, of a store in a file.
        self._file: FileIdentity | None = None
        self._experiments = Experiments(config, _StoreExperiments(lambda: self._client))
        self._process = os.getpid()
        self._log = RateLimitedLogger(logger)

    def warm_up(self) -> Retry | Rejected | None:
        """Open the store and look up the experiment."""
        found = self._exclusively(lambda: self._open() or self._experiments.resolve(None))
        return found if isinstance(found, (Retry, Rejected)) else None

    def send(self, batch: Batch) -> Outcome:
        """Write the batch in one transaction, then link its traces to its run."""
        return self._exclusively(lambda: self._send(batch))

    def _exclusively(self, work: Callable[[], _Result]) -> _Result:
        """Do something while no other process of ours does, and no fork comes between."""
        until = time.monotonic() + _LONGEST_WAIT_SECONDS
        while True:
            # Waiting is done outside: a fork has no business with what other processes do.
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
            with _quick_pricing() if _may_be_priced(batch) else nullcontext():
                self._tracing.log_spans(experiment, spans)
        except Exception as error:
            self._experiments.forget()  # It may have been deleted: look it up again.
            return failure_of(error)
        failure = self._link(batch)
        return Sent(len(spans)) if failure is None else failure

    def close(self) -> None:
        """Forget the store. MLflow keeps its connections for others in this process."""
        self._tracing = self._client = None

    def _open(self) -> Retry | Rejected | None:
        if mlflow_guard.stranded:
            return _STRANDED
        self._leave_connections_to_parent()
        uri = self._config.tracking_uri
        if self._tracing is not None:
            if file_identity(uri) == self._file:
                return None
            self._leave_file()
        try:
            tracing_client = self._mlflow.tracing.client.TracingClient
            probe(uri)
            create_if_absent(uri, tracing_client)
            self._tracing = tracing_client(uri)
            self._client = self._mlflow.MlflowClient(tracking_uri=uri)
            self._file = file_identity(uri)
        except Exception as error:
            self._tracing = self._client = None
            return opening_failure_of(error)
        return None

    def _leave_file(self) -> None:
        """Give up a file that somebody has removed or replaced: what is open is not it any more."""
        self._experiments.forget()
        engine = getattr(getattr(self._tracing, "store", None), "engine", None)
        if engine is not None:
            engine.dispose()
        self.close()

    def _leave_connections_to_parent(self) -> None:
        """After a fork, open connections anew: two processes cannot share one."""
        if self._process == os.getpid():
            return
        self._process = os.getpid()
        engine = getattr(getattr(self._tracing, "store", None), "engine", None)
        if engine is not None:
            engine.dispose(close=False)

    def _link(self, batch: Batch) -> Retry | None:
        trace_ids = [_trace_id(item.span) for item in batch.spans if item.is_root]
        if batch.run_id is None or not trace_ids:
            return None
        try:
            self._client.link_traces_to_run(trace_ids, batch.run_id)
        except Exception as error:
            failure = failure_of(error)
            if isinstance(failure, Retry):
                return failure  # all of it again: what is stored already does no harm
            self._log.warning(
                f"run {batch.run_id}",
                "Traces are stored, but could not be linked to run %s: %s",
                batch.run_id,
                failure.reason,
            )
        return None


class _StoreExperiments:
    """Experiments by MLflow's client, which exists once the store is open."""

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
            # Else another process was faster.
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


def _may_be_priced(batch: Batch) -> bool:
    """Whether MLflow will work out the cost of a span of the batch."""
    return any(
        COST not in attributes and not _PRICED_BY.isdisjoint(attributes)
        for attributes in (item.span.attributes or {} for item in batch.spans)
    )


@contextmanager
def _quick_pricing() -> Generator[None, None, None]:
    """Keep litellm off the network if this write is what imports it.

    MLflow imports it to price a call whose cost is not known. litellm then fetches its price list,
    which takes long where there is no network, and can lock up with MLflow's import hooks.
    """
    if "litellm" in sys.modules or _LITELLM_LOCAL in os.environ:
        yield
        return
    os.environ[_LITELLM_LOCAL] = "True"
    try:
        yield
    finally:
        os.environ.pop(_LITELLM_LOCAL, None)


def _import_mlflow() -> Any:
    try:
        mlflow = importlib.import_module("mlflow")
        for name in ("entities", "exceptions", "tracing.client", "store.tracking.sqlalchemy_store"):
            importlib.import_module(f"mlflow.{name}")
    except ImportError as error:
        raise ConfigurationError(
            "MLFLOW_TRACKING_URI (argument tracking_uri) names a SQL store, which needs MLflow in "
            f"this environment, but it cannot be imported ({error}). Install it with {_INSTALL}, "
            "or name a tracking server (http://... or https://...), which needs none"
        ) from error
    numbers = re.match(r"(\d+)\.(\d+)", mlflow.__version__)
    version = tuple(int(number) for number in numbers.groups()) if numbers else _OLDEST
    if version < _OLDEST:
        raise ConfigurationError(
            f"MLflow {mlflow.__version__} is too old for traces in a SQL store; "
            f"install it with {_INSTALL}"
        )
    return mlflow


def _trace_id(span: ReadableSpan) -> str:
    return f"tr-{format_trace_id(context_of(span).trace_id)}"


def _encoded(span: ReadableSpan) -> ReadableSpan:
    """The span with every attribute JSON-encoded exactly once, as the store keeps them."""
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
