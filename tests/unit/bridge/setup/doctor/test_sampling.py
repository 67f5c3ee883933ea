# Copyright The opentelemetry-instrumentation-dspy Authors
# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import pytest
from opentelemetry.sdk.trace.sampling import TraceIdRatioBased

import mlflow_bridge
from mlflow_bridge import DSPySampler, MLflowDSPyConfig
from mlflow_bridge._setup.doctor.sampling import check_sampling
from tests.unit.bridge.fake_exporter import GlobalProvider

RATE = "MLFLOW_DSPY_SAMPLING_RATE"
SAMPLER = "OTEL_TRACES_SAMPLER"
SHARE = "OTEL_TRACES_SAMPLER_ARG"


@pytest.fixture(autouse=True)
def provider(monkeypatch: pytest.MonkeyPatch) -> GlobalProvider:
    return GlobalProvider(monkeypatch)


def test_before_there_is_a_provider(monkeypatch: pytest.MonkeyPatch) -> None:
    [check] = check_sampling(MLflowDSPyConfig())
    assert (check.name, check.state) == ("sampling", "ok")
    assert "chosen by AlwaysOnSampler, and by the parent" in check.detail
    monkeypatch.setenv(RATE, "0.001")
    [check] = check_sampling(MLflowDSPyConfig())
    assert (check.state, check.detail) == ("ok", "traces are chosen by DSPySampler{rate=0.001}")


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
        ({RATE: "0"}, "warn"),
        ({RATE: "0", "MLFLOW_DSPY_SAMPLING_KEY": "session"}, "warn"),
        ({"MLFLOW_DSPY_SAMPLING_EVALUATIONS": "off"}, "ok"),
    ],
)
def test_a_sampler_that_leaves_everything_out(
    monkeypatch: pytest.MonkeyPatch, variables: dict[str, str], state: str
) -> None:
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    [check] = check_sampling(MLflowDSPyConfig())
    assert check.state == state
    assert state == "ok" or SAMPLER in check.detail


def test_the_provider_of_the_process(
    monkeypatch: pytest.MonkeyPatch, provider: GlobalProvider
) -> None:
    sdk = provider.use_sdk()
    sdk.sampler = TraceIdRatioBased(0.5)
    [check] = check_sampling(MLflowDSPyConfig())
    assert (check.state, check.detail) == ("ok", "traces are chosen by TraceIdRatioBased{0.5}")
    monkeypatch.setenv(RATE, "0.1")
    unused, chosen = check_sampling(MLflowDSPyConfig())
    assert (unused.state, chosen.state) == ("warn", "ok")
    assert unused.detail.startswith(f"{RATE}: no effect")
    sdk.sampler = DSPySampler()
    [check] = check_sampling(MLflowDSPyConfig())
    assert check.state == "ok"


def test_it_is_a_part_of_the_report() -> None:
    report = mlflow_bridge.doctor("http://127.0.0.1:1", send=False)
    assert [check.state for check in report.checks if check.name == "sampling"] == ["ok"]


@pytest.mark.parametrize(
    ("settings", "state", "detail"),
    [
        ({"tail_rate": 0.01}, "ok", "tail sampling by error, rate 0.01"),
        (
            {"tail_slower_than_seconds": 5},
            "warn",
            "error, slow, rate 1: every trace is kept (MLFLOW_DSPY_TAIL_RATE)",
        ),
        ({"tail_keep_errors": False, "tail_rate": 0}, "ok", "by no rule, rate 0"),
    ],
)
def test_tail_sampling(settings: dict[str, float], state: str, detail: str) -> None:
    _, check = check_sampling(MLflowDSPyConfig(**settings))
    assert (check.name, check.state) == ("tail sampling", state)
    assert detail in check.detail
