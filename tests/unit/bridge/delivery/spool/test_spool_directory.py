# Copyright The opentelemetry-instrumentation-dspy Authors
# SPDX-License-Identifier: Apache-2.0
"""The directory of a spool: one for each destination, and no directory if it is turned off."""

from __future__ import annotations

from pathlib import Path

import pytest

from mlflow_bridge._config.settings import MLflowDSPyConfig
from mlflow_bridge._delivery.spool.directory import default_directory, destination_key
from mlflow_bridge._delivery.spool.spool import Spool


def test_one_directory_per_destination_without_secrets(tmp_path: Path) -> None:
    uris = ("postgresql://me:geheim@host/a", "postgresql://me:other@host/a", "http://host:5000")
    paths = [
        spool.path
        for uri in uris
        if (
            spool := Spool.from_config(MLflowDSPyConfig(tracking_uri=uri, spool_directory=tmp_path))
        )
    ]
    assert paths[0] == paths[1] != paths[2]
    assert "geheim" not in str(paths)
    assert {path.parent for path in paths} == {tmp_path}
    elsewhere = Spool.from_config(
        MLflowDSPyConfig(tracking_uri=uris[2], workspace="team", spool_directory=tmp_path)
    )
    assert elsewhere is not None
    assert elsewhere.path not in paths


def test_default_directory(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.delenv("XDG_STATE_HOME")
    assert default_directory() == tmp_path / ".local/state/mlflow-bridge/spool"
    monkeypatch.setenv("XDG_STATE_HOME", "relative")
    assert default_directory() == tmp_path / ".local/state/mlflow-bridge/spool"
    monkeypatch.setenv("XDG_STATE_HOME", "/state")
    assert default_directory() == Path("/state/mlflow-bridge/spool")


def test_spool_can_be_turned_off() -> None:
    assert Spool.from_config(MLflowDSPyConfig(spool=False)) is None


def test_destination_keys_are_safe_names() -> None:
    key = destination_key("http://host:5000/../x, experiment 'a/b'")
    assert set("/.:' ").isdisjoint(key)
    assert key != destination_key("http://host:5000/../x, experiment 'a.b'")
