# Copyright The opentelemetry-instrumentation-dspy Authors
# SPDX-License-Identifier: Apache-2.0
"""Stores for the tests that need one."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.mlflow_server import MLflowServer


@pytest.fixture(scope="session")
def empty_store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A SQLite store with nothing but its default experiment; not to be written to."""
    from mlflow import MlflowClient

    file = tmp_path_factory.mktemp("store") / "mlflow.db"
    MlflowClient(f"sqlite:///{file}").search_experiments()
    return file


@pytest.fixture(scope="session")
def shared_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[MLflowServer]:
    """A tracking server in which each test has experiments of its own."""
    with MLflowServer(tmp_path_factory.mktemp("server"), start_timeout=300) as running:
        yield running


@pytest.fixture
def store_uri(empty_store: Path, tmp_path: Path) -> str:
    """The URI of a new store, without the seconds that it takes to make one."""
    file = tmp_path / "mlflow.db"
    shutil.copyfile(empty_store, file)
    return f"sqlite:///{file}"
