# Copyright The opentelemetry-instrumentation-dspy Authors
# SPDX-License-Identifier: Apache-2.0
"""Variables of earlier integrations are named, by the doctor and by the page on migration."""

from __future__ import annotations

import inspect
import re

import pytest

import mlflow_bridge
from mlflow_bridge import MLflowDSPyConfig
from mlflow_bridge._config.settings import environment_variable
from mlflow_bridge._setup.doctor.former_variables import FORMER
from tests import ROOT

PAGE = (ROOT / "docs" / "migration.md").read_text("utf-8")
SERVER = "http://127.0.0.1:1"


def rows_below(head: str) -> list[list[str]]:
    """The cells of the table whose first column has this head."""
    lines = iter(PAGE.splitlines())
    for line in lines:
        if line.startswith(f"| {head} |"):
            break
    table: list[list[str]] = []
    for line in lines:
        if not line.startswith("|"):
            break
        table.append([cell.strip() for cell in line.strip("|").split("|")])
    return table[1:]


def warnings() -> list[str]:
    report = mlflow_bridge.doctor(SERVER, send=False)
    return [one.detail for one in report.checks if (one.name, one.state) == ("settings", "warn")]


@pytest.mark.parametrize("name", FORMER)
def test_the_doctor_names_a_variable_that_is_set(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = warnings()
    monkeypatch.setenv(name, "canary-4711")
    [detail] = [one for one in warnings() if one not in before]
    assert detail.startswith(f"{name} is set and has no effect here; set {FORMER[name].variable}")
    assert "canary" not in detail


def test_what_takes_their_place_exists_and_they_are_no_settings() -> None:
    settings = {environment_variable(name) for name in MLflowDSPyConfig.model_fields}
    assert {former.variable for former in FORMER.values()} <= settings
    assert not settings & FORMER.keys()


def test_the_page_has_the_same_table() -> None:
    shown = [
        [f"`{name}`", f"`{it.variable}`" + (f", {it.remark}" if it.remark else "")]
        for name, it in FORMER.items()
    ]
    assert rows_below("variable of an earlier integration") == shown


def test_the_page_has_each_argument_of_mlflows_function() -> None:
    dspy = pytest.importorskip("mlflow.dspy", reason="needs the extra mlflow")
    parameters = inspect.signature(dspy.autolog).parameters.values()
    rows = rows_below("What you knew from `mlflow.dspy.autolog`")
    assert [row[0] for row in rows] == [f"`{one.name}={one.default}`" for one in parameters]
    ours = {name for row in rows for name in re.findall(r"`(\w+)=", row[1])}
    assert ours <= MLflowDSPyConfig.model_fields.keys()


def test_the_doctor_says_that_the_bridge_is_off(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_DSPY_ENABLED", "false")
    report = mlflow_bridge.doctor(SERVER, send=False)
    assert any("MLFLOW_DSPY_ENABLED" in one.detail for one in report.checks if one.state == "fail")
