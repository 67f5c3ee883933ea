# Copyright The opentelemetry-instrumentation-dspy Authors
# SPDX-License-Identifier: Apache-2.0
"""The callbacks of a forked child; the tests call the registry instead of forking."""

from __future__ import annotations

import gc
import logging

import pytest

from mlflow_bridge._process import forks
from mlflow_bridge._process.forks import call_in_child


@pytest.fixture(autouse=True)
def callbacks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(forks, "_callbacks", {})


class Part:
    def __init__(self, name: str, renewed: list[str]) -> None:
        self._name, self._renewed = name, renewed
        call_in_child(self._renew)

    def _renew(self) -> None:
        self._renewed.append(self._name)


def test_callbacks_are_called_in_the_order_of_registration() -> None:
    renewed: list[str] = []
    call_in_child(lambda: renewed.append("function"))
    parts = [Part("first", renewed), Part("second", renewed)]
    forks._call_all()
    assert renewed == ["function", "first", "second"]
    assert parts


def test_a_collected_object_is_not_called_and_leaves_no_registration() -> None:
    renewed: list[str] = []
    kept = Part("kept", renewed)
    Part("gone", renewed)
    gc.collect()
    assert len(forks._callbacks) == 1
    forks._call_all()
    assert renewed == ["kept"]
    assert kept


def test_a_callback_that_raises_is_logged_and_stops_no_other(
    caplog: pytest.LogCaptureFixture,
) -> None:
    renewed: list[str] = []
    call_in_child([].pop)
    call_in_child(lambda: renewed.append("after it"))
    with caplog.at_level(logging.ERROR):
        forks._call_all()
    assert renewed == ["after it"]
    [record] = caplog.records
    assert record.exc_info is not None
