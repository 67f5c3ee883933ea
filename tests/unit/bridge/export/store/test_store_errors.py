# Copyright The opentelemetry-instrumentation-dspy Authors
# SPDX-License-Identifier: Apache-2.0
"""Temporary errors are retried; errors because of a value are not."""

from __future__ import annotations

import sqlite3

import pytest

pytest.importorskip("mlflow", reason="needs the extra mlflow")

from mlflow.exceptions import MlflowException
from mlflow.protos import databricks_pb2 as codes
from sqlalchemy import exc

from mlflow_bridge._export.contract import Rejected, Retry
from mlflow_bridge._export.store.errors import failure_of, opening_failure_of
from mlflow_bridge._export.store.probe import StoreUnavailable


def caused(error: Exception, cause: BaseException) -> Exception:
    error.__cause__ = cause
    return error


def database_error(kind: type[exc.DBAPIError], *, invalidated: bool = False) -> exc.DBAPIError:
    return kind(
        "INSERT ...", None, sqlite3.OperationalError("x"), connection_invalidated=invalidated
    )


@pytest.mark.parametrize(
    "error",
    [
        MlflowException("database is locked", codes.TEMPORARILY_UNAVAILABLE),
        MlflowException("slow down", codes.REQUEST_LIMIT_EXCEEDED),
        MlflowException("late", codes.DEADLINE_EXCEEDED),
        caused(MlflowException("x", codes.BAD_REQUEST), exc.TimeoutError("pool")),
        caused(
            MlflowException("x", codes.BAD_REQUEST),
            database_error(exc.InternalError, invalidated=True),
        ),
        caused(MlflowException("x", codes.INTERNAL_ERROR), ConnectionResetError()),
        caused(MlflowException("x", codes.INTERNAL_ERROR), MemoryError()),
        database_error(exc.OperationalError),
        OSError("disk"),
        RuntimeError("can't start new thread"),
    ],
    ids=repr,
)
def test_passing(error: Exception) -> None:
    failure = failure_of(error)
    assert isinstance(failure, Retry)
    assert "MLFLOW_TRACKING_URI" in failure.reason


@pytest.mark.parametrize(
    "error",
    [
        MlflowException("too long", codes.INVALID_PARAMETER_VALUE),
        caused(MlflowException("x", codes.BAD_REQUEST), database_error(exc.DataError)),
        caused(MlflowException("x", codes.BAD_REQUEST), database_error(exc.IntegrityError)),
        caused(MlflowException("x", codes.INTERNAL_ERROR), ValueError("surrogates")),
        RecursionError(),
        ValueError("surrogates"),
    ],
    ids=repr,
)
def test_about_the_spans(error: Exception) -> None:
    failure = failure_of(error)
    assert isinstance(failure, Rejected)
    assert failure.divisible


def test_missing_experiment_is_not_about_the_spans() -> None:
    failure = failure_of(MlflowException("No Experiment", codes.RESOURCE_DOES_NOT_EXIST))
    assert isinstance(failure, Retry)
    assert failure.lasting


def test_context_that_was_hidden_does_not_count() -> None:
    error = ValueError("bad")
    error.__context__ = OSError("unrelated")
    assert isinstance(failure_of(error), Retry)
    error.__suppress_context__ = True
    assert isinstance(failure_of(error), Rejected)


def test_statement_and_values_are_not_repeated() -> None:
    error = MlflowException(
        "(DataError) too big\n[SQL: INSERT]\n[parameters: secret]", codes.BAD_REQUEST
    )
    assert (
        failure_of(error).reason
        == "the store refused the spans: MlflowException (DataError) too big"
    )


@pytest.mark.parametrize(
    ("error", "lasting"),
    [
        (StoreUnavailable("the directory /x is not writable"), True),
        (MlflowException("Detected out-of-date database schema", codes.INTERNAL_ERROR), False),
        (database_error(exc.OperationalError), False),
        (ModuleNotFoundError("No module named 'psycopg2'"), True),
    ],
    ids=repr,
)
def test_opening(error: Exception, lasting: bool) -> None:
    failure = opening_failure_of(error)
    assert failure.lasting is lasting
    assert "MLFLOW_TRACKING_URI" in failure.reason
