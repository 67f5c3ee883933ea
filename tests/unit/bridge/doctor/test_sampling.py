# Copyright The opentelemetry-instrumentation-dspy Authors
# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import pytest
from opentelemetry.sdk.trace.sampling import TraceIdRatioBased

import mlflow_bridge
from mlflow_bridge import DSPySampler
from mlflow_bridge.doctor.sampling import check_sampling
from tests.unit.bridge.fake_exporter import GlobalProvider

RATIO = "MLFLOW_DSPY_SAMPLING_RATIO"
SAMPLER = "OTEL_TRACES_SAMPLER"
SHARE = "OTEL_TRACES_SAMPLER_ARG"


@pytest.fixture(autouse=True)
def provider(monkeypatch: pytest.MonkeyPatch) -> GlobalProvider:
    return GlobalProvider(monkeypatch)


def test_before_there_is_a_provider(monkeypatch: pytest.MonkeyPatch) -> None:
    [check] = check_sampling()
    assert (check.name, check.state) == ("sampling", "ok")
    assert "ParentBased{root:AlwaysOnSampler" in check.detail
    monkeypatch.setenv(RATIO, "0.001")
    [check] = check_sampling()
    assert (check.state, check.detail) == ("ok", "traces are chosen by DSPySampler{ratio=0.001}")


@pytest.mark.parametrize(
    ("variables", "state"),
    [
        ({SAMPLER: "always_off"}, "fail"),
        ({SAMPLER: "traceidratio", SHARE: "0"}, "fail"),
        ({SAMPLER: "traceidratio", SHARE: "0.001"}, "ok"),
        ({SAMPLER: "parentbased_always_off"}, "warn"),
        (
            {SAMPLER: "parentbased_traceidratio", SHARE: "0"},
            "warn",
        ),
        ({RATIO: "0"}, "warn"),
        ({RATIO: "0", "MLFLOW_DSPY_SAMPLING_KEY": "session"}, "warn"),
        ({"MLFLOW_DSPY_SAMPLING_EVALUATIONS": "off"}, "ok"),
    ],
)
def test_a_sampler_that_leaves_everything_out(
    monkeypatch: pytest.MonkeyPatch, variables: dict[str, str], state: str
) -> None:
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    [check] = check_sampling()
    assert check.state == state
    assert state == "ok" or SAMPLER in check.detail


def test_the_provider_of_the_process(
    monkeypatch: pytest.MonkeyPatch, provider: GlobalProvider
) -> None:
    sdk = provider.use_sdk()
    sdk.sampler = TraceIdRatioBased(0.5)
    [check] = check_sampling()
    assert (check.state, check.detail) == ("ok", "traces are chosen by TraceIdRatioBased{0.5}")
    monkeypatch.setenv(RATIO, "0.1")
    unused, chosen = check_sampling()
    assert (unused.state, chosen.state) == ("warn", "ok")
    assert unused.detail.startswith(f"{RATIO}: no effect")
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
