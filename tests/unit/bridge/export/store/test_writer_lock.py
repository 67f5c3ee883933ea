# Copyright The opentelemetry-instrumentation-dspy Authors
# SPDX-License-Identifier: Apache-2.0
"""One process at a time writes to a SQLite file."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from mlflow_bridge._export.store import writer_lock as module
from mlflow_bridge._export.store.writer_lock import writer_lock

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="needs file locks")


def test_one_at_a_time(tmp_path: Path) -> None:
    uri = f"sqlite:///{tmp_path / 'mlflow.db'}"
    with writer_lock(uri) as first:
        assert first
        with writer_lock(uri) as second:
            assert not second
    with writer_lock(uri) as next_one:
        assert next_one
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("uri", ["postgresql://u@host/db", "sqlite:////not/there/mlflow.db"])
def test_where_there_is_nothing_to_lock_everybody_has_a_turn(uri: str) -> None:
    with writer_lock(uri) as first, writer_lock(uri) as second:
        assert (first, second) == (True, True)


def test_a_forked_child_does_not_hold_its_parents_turn(tmp_path: Path) -> None:
    uri = f"sqlite:///{tmp_path / 'mlflow.db'}"
    with writer_lock(uri):
        [descriptor] = module._open
        copy = os.dup(descriptor)  # As a child has it.
    with writer_lock(uri) as shared:
        assert not shared
    module._open.add(copy)
    module._leave_to_parent()
    with writer_lock(uri) as mine:
        assert mine
