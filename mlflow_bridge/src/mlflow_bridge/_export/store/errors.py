# Copyright The opentelemetry-instrumentation-dspy Authors
# SPDX-License-Identifier: Apache-2.0
"""Mapping of the store's exceptions to outcomes for the spans."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from mlflow_bridge._export.contract import Rejected, Retry
from mlflow_bridge._export.store.probe import StoreUnavailable

_SETTING: Final = "MLFLOW_TRACKING_URI"
_PASSING: Final = "the store cannot take spans now"

# Error codes of MlflowException (mlflow.protos.databricks_pb2) that mean "not now".
_PASSING_CODES: Final = frozenset(
    {
        "TEMPORARILY_UNAVAILABLE",
        "REQUEST_LIMIT_EXCEEDED",
        "RESOURCE_EXHAUSTED",
        "RESOURCE_CONFLICT",
        "DEADLINE_EXCEEDED",
        "ABORTED",
        "CANCELLED",
    }
)
# Errors of the machine, not of the spans. OSError includes lost connections and time-outs.
_PASSING_TYPES: Final = (OSError, MemoryError, RuntimeError)


def failure_of(error: Exception) -> Retry | Rejected:
    """The outcome of a write of spans that raised this error."""
    if _is_passing(error):
        # These errors are not always about the machine: some code raises RuntimeError for a value.
        return Retry(f"{_PASSING} ({_SETTING}): {_detail(error)}", about_spans=_is_vague(error))
    if is_missing(error):
        return Retry(f"there is no such experiment or run: {_detail(error)}", lasting=True)
    return Rejected(f"the store refused the spans: {_detail(error)}")


def request_failure_of(error: Exception) -> Retry:
    """The outcome of a request without spans that raised this error."""
    if _is_passing(error):
        return Retry(f"{_PASSING} ({_SETTING}): {_detail(error)}")
    return Retry(f"the store refused the request ({_SETTING}): {_detail(error)}", lasting=True)


def is_missing(error: Exception) -> bool:
    """Whether MLflow reports that the experiment or run does not exist."""
    return getattr(error, "error_code", None) == "RESOURCE_DOES_NOT_EXIST"


def opening_failure_of(error: Exception) -> Retry:
    """The outcome of an attempt to open the store that raised this error."""
    if isinstance(error, ImportError):
        return Retry(
            f"the driver of the database is not installed ({_SETTING}): {_detail(error)}",
            lasting=True,
        )
    if isinstance(error, StoreUnavailable):
        return Retry(f"the store cannot be written ({_SETTING}): {_detail(error)}", lasting=True)
    # A user may fix the reason while the program runs, for example with "mlflow db upgrade".
    return Retry(f"the store cannot be opened ({_SETTING}): {_detail(error)}")


def _is_vague(error: Exception) -> bool:
    return not isinstance(error, (OSError, MemoryError)) and not any(
        _is_lost_connection(cause) for cause in _causes(error)
    )


def _is_passing(error: Exception) -> bool:
    # RecursionError is a RuntimeError, but its reason is a value.
    if any(isinstance(cause, RecursionError) for cause in _causes(error)):
        return False
    if getattr(error, "error_code", None) in _PASSING_CODES:
        return True
    return any(
        isinstance(cause, _PASSING_TYPES) or _is_lost_connection(cause) for cause in _causes(error)
    )


def _is_lost_connection(error: BaseException) -> bool:
    from sqlalchemy import exc

    if isinstance(error, exc.DBAPIError) and error.connection_invalidated:
        return True
    return isinstance(error, (exc.OperationalError, exc.InterfaceError, exc.TimeoutError))


def _causes(error: BaseException) -> Iterator[BaseException]:
    current: BaseException | None = error
    seen: set[int] = set()
    while current is not None and id(current) not in seen:
        seen.add(id(current))
        yield current
        hidden = current.__suppress_context__
        current = current.__cause__ or (None if hidden else current.__context__)


def _detail(error: BaseException) -> str:
    """The first line of the message; SQLAlchemy repeats statement and values in the others."""
    lines = str(error).strip().splitlines() or [""]
    if isinstance(error, StoreUnavailable):
        return lines[0]
    return f"{type(error).__name__} {lines[0]}".strip()
