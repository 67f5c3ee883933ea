# Copyright The opentelemetry-instrumentation-dspy Authors
# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import pytest
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.id_generator import RandomIdGenerator

from mlflow_bridge import MLflowBatchSpanProcessor, SystemRandomIdGenerator
from mlflow_bridge._setup.doctor import provider as doctor_provider
from mlflow_bridge._setup.doctor.provider import check_provider
from tests.support.fake_delivery import FakeDelivery
from tests.unit.bridge.fake_exporter import GlobalProvider

ASKED = "TracerProvider(sampler=DSPySampler(), id_generator=SystemRandomIdGenerator())"


@pytest.fixture
def provider(monkeypatch: pytest.MonkeyPatch) -> GlobalProvider:
    # Else MLflow, if another test has imported it, would stay with the provider of a test.
    monkeypatch.setenv("MLFLOW_USE_DEFAULT_TRACER_PROVIDER", "true")
    return GlobalProvider(monkeypatch)


@contextmanager
def processor_in(
    target: TracerProvider, monkeypatch: pytest.MonkeyPatch
) -> Iterator[MLflowBatchSpanProcessor]:
    processor = MLflowBatchSpanProcessor(FakeDelivery())
    # Those of other tests, which were not collected yet, are not this program's.
    monkeypatch.setattr(doctor_provider, "registered_processors", lambda: [processor])
    target.add_span_processor(processor)
    yield processor
    processor.shutdown()


def found() -> list[tuple[str, str]]:
    return [(check.state, check.detail) for check in check_provider()]


def test_without_a_processor_there_is_nothing_to_say(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor_provider, "registered_processors", list)
    assert found() == []


def test_the_global_provider_is_prepared_at_its_first_trace(
    provider: GlobalProvider, monkeypatch: pytest.MonkeyPatch
) -> None:
    sdk = provider.use_sdk()
    with processor_in(sdk, monkeypatch):
        [(state, apart), (_, seeded)] = found()
        assert (state, "have not seen a trace" in apart, ASKED in apart) == ("warn", True, True)
        assert "random.seed()" in seeded
        assert ASKED in seeded
        provider.record("span")
        assert type(sdk.id_generator) is SystemRandomIdGenerator
        # Of later traces alone.
        [(state, late)] = found()
        assert (state, "its first trace" in late, ASKED in late) == ("warn", True, True)


def test_a_provider_that_was_made_as_asked(
    provider: GlobalProvider, monkeypatch: pytest.MonkeyPatch
) -> None:
    sdk = provider.use_sdk()
    sdk.id_generator = SystemRandomIdGenerator()
    with processor_in(sdk, monkeypatch):
        provider.record("span")
        assert [state for state, _ in found()] == ["ok"]


def test_a_provider_that_is_not_the_global_one_is_left_to_the_program(
    provider: GlobalProvider, monkeypatch: pytest.MonkeyPatch
) -> None:
    provider.use_sdk()
    apart = TracerProvider(shutdown_on_exit=False)
    with processor_in(apart, monkeypatch):
        apart.get_tracer("test").start_span("span").end()
        assert type(apart.id_generator) is RandomIdGenerator
        [(state, detail), _] = found()
        assert (state, "If they belong to another provider" in detail) == ("warn", True)


def test_ids_of_the_programs_choice_stay(
    provider: GlobalProvider, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Own(RandomIdGenerator):
        pass

    sdk = provider.use_sdk()
    sdk.id_generator = Own()
    with processor_in(sdk, monkeypatch):
        provider.record("span")
        assert type(sdk.id_generator) is Own
        assert [state for state, _ in found()] == ["ok"]
