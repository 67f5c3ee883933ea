# Copyright The opentelemetry-instrumentation-dspy Authors
# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import os
from collections.abc import Iterator
from importlib.metadata import PackageNotFoundError
from pathlib import Path
from typing import Any

import pytest
import tomli

import mlflow_bridge
from mlflow_bridge import Check, DoctorReport, MLflowDSPyConfig
from mlflow_bridge._delivery.spool.directory import files_in
from mlflow_bridge._delivery.spool.spool import Spool, directory_for
from mlflow_bridge._setup.doctor import checks, round_trip
from mlflow_bridge.cli import main
from tests import ROOT
from tests.support.spool_spans import spans_named

SERVER = "http://127.0.0.1:1"
PROJECT = ROOT / "mlflow_bridge/pyproject.toml"


@pytest.fixture(autouse=True)
def surroundings(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[None]:
    monkeypatch.setattr(round_trip, "_PAUSE_SECONDS", 0.0)
    monkeypatch.setenv("MLFLOW_DSPY_SPOOL_DIRECTORY", str(tmp_path / "spool"))
    yield


def found(report: DoctorReport, name: str) -> dict[str, list[str]]:
    states: dict[str, list[str]] = {}
    for check in report.checks:
        if check.name == name:
            states.setdefault(check.state, []).append(check.detail)
    return states


def test_a_server_that_cannot_be_reached_fails_the_destination() -> None:
    report = mlflow_bridge.doctor(SERVER)
    assert report.state == "fail"
    [detail] = found(report, "destination")["fail"]
    assert "MLFLOW_TRACKING_URI" in detail
    assert found(report, "round trip") == {}
    assert "fail  destination" in str(report)


def test_offline_nothing_is_asked() -> None:
    report = mlflow_bridge.doctor(SERVER, send=False)
    assert found(report, "destination") == {}
    assert report.state != "fail"


def test_a_bad_setting_is_named_and_the_other_checks_are_made() -> None:
    report = mlflow_bridge.doctor("ftp://user:geheim@nowhere")
    [detail] = found(report, "settings")["fail"]
    assert "MLFLOW_TRACKING_URI" in detail
    assert found(report, "versions")["ok"]
    assert "geheim" not in str(report)


def test_a_missing_dspy_is_a_warning_and_a_missing_mlflow_a_failure(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def version(name: str) -> str:
        if name in ("dspy", "mlflow"):
            raise PackageNotFoundError(name)
        return "1.40"

    monkeypatch.setattr(checks, "version", version)
    report = mlflow_bridge.doctor(f"sqlite:///{tmp_path}/mlflow.db", send=False)
    states = found(report, "versions")
    assert [detail for detail in states["warn"] if detail.startswith("dspy is not installed")]
    assert [detail for detail in states["fail"] if detail.startswith("mlflow is not installed")]
    assert not found(mlflow_bridge.doctor(SERVER, send=False), "versions").get("fail")


def test_a_version_out_of_range_is_a_warning(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(checks, "version", lambda name: "99.0")
    details = found(mlflow_bridge.doctor(SERVER, send=False), "versions")["warn"]
    assert [detail for detail in details if detail.startswith("dspy 99.0 was never tested")]


def test_the_trap_of_two_packages_that_lock_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(checks, "version", lambda name: "3.16")
    monkeypatch.delenv("LITELLM_LOCAL_MODEL_COST_MAP", raising=False)
    details = found(mlflow_bridge.doctor(SERVER, send=False), "versions")["warn"]
    assert [detail for detail in details if "LITELLM_LOCAL_MODEL_COST_MAP=True" in detail]
    monkeypatch.setenv("LITELLM_LOCAL_MODEL_COST_MAP", "True")
    details = found(mlflow_bridge.doctor(SERVER, send=False), "versions")["warn"]
    assert not [detail for detail in details if "LITELLM" in detail]


def test_a_spool_that_cannot_be_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    blocker = tmp_path / "file"
    blocker.write_text("")
    monkeypatch.setenv("MLFLOW_DSPY_SPOOL_DIRECTORY", str(blocker))
    [detail] = found(mlflow_bridge.doctor(SERVER, send=False), "spool")["fail"]
    assert "cannot be written" in detail


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_read_only_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    readonly = tmp_path / "readonly"
    readonly.mkdir(mode=0o500)
    monkeypatch.setenv("MLFLOW_DSPY_SPOOL_DIRECTORY", str(readonly))
    assert found(mlflow_bridge.doctor(SERVER, send=False), "spool")["fail"]


def test_looking_at_the_spool_leaves_it_as_it_is() -> None:
    config = MLflowDSPyConfig(tracking_uri=SERVER)
    [detail] = found(mlflow_bridge.doctor(config=config, send=False), "spool")["ok"]
    assert not directory_for(config).exists()

    spool = Spool.from_config(config)
    assert spool is not None
    assert spool.accept(spans_named("a", "b"))
    assert "ok" in found(mlflow_bridge.doctor(config=config, send=False), "spool")
    spool.close()
    before = files_in(directory_for(config))
    [detail] = found(mlflow_bridge.doctor(config=config, send=False), "spool")["warn"]
    assert "1 files are left by processes that have ended" in detail
    assert files_in(directory_for(config)) == before


def test_without_a_spool() -> None:
    config = MLflowDSPyConfig(tracking_uri=SERVER, spool=False)
    assert "warn" in found(mlflow_bridge.doctor(config=config, send=False), "spool")


def test_a_check_that_breaks_does_not_keep_the_others_from_being_made(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def broken(*_: Any) -> Any:
        raise SyntaxError("a broken installation")

    monkeypatch.setattr(checks, "_instrumentation", broken)
    report = mlflow_bridge.doctor(SERVER, send=False)
    assert found(report, "instrumentation") == {"fail": ["SyntaxError: a broken installation"]}
    assert found(report, "spool")


def test_a_patch_point_that_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    from opentelemetry.instrumentation.dspy.api import PatchStatus

    class Instrumented:
        is_instrumented_by_opentelemetry = True

        def status(self) -> tuple[PatchStatus, ...]:
            return (
                PatchStatus("dspy:A.x", "installed"),
                PatchStatus("dspy:B.y", "missing", "no spans of B"),
                PatchStatus("dspy:C.z", "not_applicable", "not in this dspy"),
            )

    monkeypatch.setattr("opentelemetry.instrumentation.dspy.DSPyInstrumentor", Instrumented)
    states = found(mlflow_bridge.doctor(SERVER, send=False), "instrumentation")
    assert states == {
        "warn": ["dspy:B.y is missing: no spans of B"],
        "ok": ["1 patch points of DSPy are installed"],
    }


def test_the_worst_check_is_the_state_of_the_report() -> None:
    checks = tuple(Check("name", state, "") for state in ("ok", "fail", "warn"))
    assert DoctorReport(checks).state == "fail"
    assert DoctorReport(checks[:1]).state == "ok"
    assert DoctorReport(()).state == "ok"


@pytest.mark.parametrize(("arguments", "code"), [(["--offline"], 0), ([], 1)])
def test_the_command(arguments: list[str], code: int, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["doctor", "--tracking-uri", SERVER, *arguments]) == code
    assert "settings" in capsys.readouterr().out


def test_the_ranges_are_those_of_the_packages() -> None:
    from opentelemetry.instrumentation.dspy.package import _instruments

    project = tomli.loads(PROJECT.read_text("utf-8"))["project"]
    assert _instruments[0] in checks.SUPPORTED
    assert project["optional-dependencies"]["mlflow"] == [checks.FOR_A_STORE]
    assert "opentelemetry-sdk ~= 1.37" in project["dependencies"]


def test_a_variable_that_is_misspelt(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_DSPY_WRITEAHEAD", "true")
    monkeypatch.setenv("MLFLOW_DSPY_SAMPLING_RATE", "1")
    [detail] = found(mlflow_bridge.doctor(SERVER, send=False), "settings")["warn"]
    assert detail.startswith("MLFLOW_DSPY_WRITEAHEAD is set")
