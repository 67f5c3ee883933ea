# Copyright The opentelemetry-instrumentation-dspy Authors
# SPDX-License-Identifier: Apache-2.0
"""Stores for the tests that need one."""

from __future__ import annotations

import shutil
import sys
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from mlflow_bridge._config.settings import MLflowDSPyConfig
from tests.support.dspy_spans import Recorder
from tests.support.mlflow_server import MLflowServer
from tests.support.one_worker import LITELLM_FILES

if TYPE_CHECKING:
    from tests.integration.place import Place


@pytest.fixture(autouse=True)
def litellm_in_its_files_only(
    request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Hide litellm, whose import takes seconds, from other tests; MLflow asks it for prices."""
    if request.node.nodeid.partition("::")[0] not in LITELLM_FILES:
        monkeypatch.setitem(sys.modules, "litellm", None)


@pytest.fixture(scope="session")
def empty_store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A SQLite store with nothing but its default experiment; not to be written to."""
    client = pytest.importorskip("mlflow").MlflowClient

    file = tmp_path_factory.mktemp("store") / "mlflow.db"
    client(f"sqlite:///{file}").search_experiments()
    return file


@pytest.fixture(scope="session")
def shared_server(
    empty_store: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[MLflowServer]:
    """A tracking server in which each test has experiments of its own."""
    directory = tmp_path_factory.mktemp("server")
    shutil.copyfile(empty_store, directory / "mlflow.db")
    with MLflowServer(directory, start_timeout=300) as running:
        yield running


@pytest.fixture
def store_uri(empty_store: Path, tmp_path: Path) -> str:
    """The URI of a new store, without the seconds that it takes to make one."""
    file = tmp_path / "mlflow.db"
    shutil.copyfile(empty_store, file)
    return f"sqlite:///{file}"


@pytest.fixture(scope="session")
def shared_store(empty_store: Path, tmp_path_factory: pytest.TempPathFactory) -> str:
    """The URI of a store in which each test has experiments of its own."""
    file = tmp_path_factory.mktemp("shared") / "mlflow.db"
    shutil.copyfile(empty_store, file)
    return f"sqlite:///{file}"


@pytest.fixture(params=["store", "server"])
def place(request: pytest.FixtureRequest) -> Place:
    """An experiment of the test's own, in a store and behind a server."""
    from mlflow import MlflowClient

    from tests.integration.place import Place

    if request.param == "server":
        uri = request.getfixturevalue("shared_server").uri
    else:
        uri = request.getfixturevalue("shared_store")
    name = f"export {uuid.uuid4().hex[:8]}"
    config = MLflowDSPyConfig(tracking_uri=uri, experiment_name=name)
    return Place(MlflowClient(uri), config, Recorder())
