# Copyright The opentelemetry-instrumentation-dspy Authors
# SPDX-License-Identifier: Apache-2.0
"""A new SQLite store is complete or not there, even if a process is killed while creating it."""

from __future__ import annotations

import os
import time
from pathlib import Path

import pytest

mlflow = pytest.importorskip("mlflow")

from mlflow.tracing.client import TracingClient  # noqa: E402

from mlflow_bridge._export.store.creation import create_if_absent  # noqa: E402
from tests.support.children import MLFLOW  # noqa: E402

pytestmark = pytest.mark.integration

CREATE = """
import sys
from mlflow.tracing.client import TracingClient
from mlflow_bridge._export.store.creation import create_if_absent
print("creating", flush=True)
create_if_absent(sys.argv[1], TracingClient)
"""


def uri_of(path: Path) -> str:
    return f"sqlite:///{path}"


def is_usable(path: Path) -> bool:
    client = mlflow.MlflowClient(tracking_uri=uri_of(path))
    return client.get_experiment_by_name("Default") is not None


def test_a_new_store_is_usable_and_leaves_nothing_beside_it(tmp_path: Path) -> None:
    path = tmp_path / "mlflow.db"
    create_if_absent(uri_of(path), TracingClient)
    assert is_usable(path)
    assert [left.name for left in tmp_path.iterdir()] == ["mlflow.db"]


def test_a_store_that_exists_is_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "mlflow.db"
    path.write_bytes(b"not ours")

    def never(uri: str) -> object:
        raise AssertionError(uri)

    create_if_absent(uri_of(path), never)
    create_if_absent("postgresql://user@host/db", never)
    assert path.read_bytes() == b"not ours"


def test_of_two_creators_the_first_to_finish_wins(tmp_path: Path) -> None:
    path = tmp_path / "mlflow.db"

    def slow(uri: str) -> object:
        store = TracingClient(uri)
        path.write_bytes(b"somebody else's")
        return store

    create_if_absent(uri_of(path), slow)
    assert path.read_bytes() == b"somebody else's"
    assert [left.name for left in tmp_path.iterdir()] == ["mlflow.db"]


def test_a_creator_that_is_killed_leaves_no_broken_store(tmp_path: Path) -> None:
    path = tmp_path / "mlflow.db"
    creator = MLFLOW.start(CREATE, uri_of(path), env=dict(os.environ), cwd=tmp_path)
    assert creator.stdout.readline() == "creating\n"
    deadline = time.monotonic() + 60
    while not list(tmp_path.glob("*.new")) and time.monotonic() < deadline:
        time.sleep(0.01)
    creator.kill()
    creator.communicate()
    assert not path.exists()

    create_if_absent(uri_of(path), TracingClient)
    assert is_usable(path)
