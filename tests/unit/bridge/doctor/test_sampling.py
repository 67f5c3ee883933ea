# Copyright The opentelemetry-instrumentation-dspy Authors
# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import pytest
from opentelemetry.sdk.trace.sampling import ALWAYS_OFF

import mlflow_bridge
from mlflow_bridge import DSPySampler
from mlflow_bridge.doctor.sampling import check_sampling
from tests.unit.bridge.fake_exporter import GlobalProvider

RATIO = "MLFLOW_BRIDGE_SAMPLING_RATIO"


@pytest.fixture(autouse=True)
def provider(monkeypatch: pytest.MonkeyPatch) -> GlobalProvider:
    return GlobalProvider(monkeypatch)


def test_before_there_is_a_provider(monkeypatch: pytest.MonkeyPatch) -> None:
    [check] = check_sampling()
    assert (check.name, check.state) == ("sampling", "ok")
    assert "ParentBased{root:AlwaysOnSampler" in check.detail
    monkeypatch.setenv(RATIO, "0.1")
    [check] = check_sampling()
    assert check.detail == "traces are chosen by DSPySampler{ratio=0.1}"


def test_the_provider_of_the_process(
    monkeypatch: pytest.MonkeyPatch, provider: GlobalProvider
) -> None:
    sdk = provider.use_sdk()
    sdk.sampler = ALWAYS_OFF
    [check] = check_sampling()
    assert (check.state, check.detail) == ("ok", "traces are chosen by AlwaysOffSampler")
    monkeypatch.setenv(RATIO, "0.1")
    [check] = check_sampling()
    assert check.state == "warn"
    assert check.detail.startswith(f"{RATIO}: no effect")
    sdk.sampler = DSPySampler()
    [check] = check_sampling()
    assert check.state == "ok"


def test_a_setting_that_cannot_be_used(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(RATIO, "10 %")
    [check] = check_sampling()
    assert check.state == "warn"
    assert RATIO in check.detail
    assert check.detail.endswith("Every trace is recorded")


def test_it_is_a_part_of_the_report() -> None:
    report = mlflow_bridge.doctor("http://127.0.0.1:1", send=False)
    assert [check.state for check in report.checks if check.name == "sampling"] == ["ok"]
