# Copyright The opentelemetry-instrumentation-dspy Authors
# SPDX-License-Identifier: Apache-2.0
"""When MLflow's tracing is joined, and when it is left alone. Without MLflow."""

from __future__ import annotations

import logging
import os
import sys
from types import SimpleNamespace

import pytest
from opentelemetry import trace
from opentelemetry.sdk.trace import SpanProcessor, TracerProvider

from mlflow_bridge._mlflow_tracing import joining as mlflow_tracing
from mlflow_bridge._mlflow_tracing.joining import (
    SEPARATE_PROVIDER,
    follow_mlflow_tracing,
    join_mlflow_tracing,
    leave_mlflow_tracing,
)


class FakeSpansProcessor(SpanProcessor):
    def __init__(self, provider: object) -> None:
        self.active = False

    def release_annotations(self) -> None:
        pass


class Fixture:
    """MLflow and the global provider as far as the join asks for them."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.provider = TracerProvider(shutdown_on_exit=False)
        self.added: list[SpanProcessor] = []
        monkeypatch.setattr(self.provider, "add_span_processor", self.added.append)
        monkeypatch.setattr(trace, "get_tracer_provider", lambda: self.provider)
        monkeypatch.setattr(mlflow_tracing, "_joint", mlflow_tracing._Joint())
        self.active_span: object = None
        self.mlflow = SimpleNamespace(
            __version__="3.17", get_current_active_span=lambda: self.active_span
        )
        # As if MLflow was imported at the moment of the call.
        monkeypatch.setattr(
            mlflow_tracing, "register_post_import_hook", lambda hook, name: hook(self.mlflow)
        )
        monkeypatch.setitem(sys.modules, "mlflow", self.mlflow)
        spans = SimpleNamespace(MLflowSpansProcessor=FakeSpansProcessor)
        monkeypatch.setitem(sys.modules, "mlflow_bridge._mlflow_tracing.spans", spans)
        shared = SimpleNamespace(share_provider=lambda: None, give_back_provider=lambda: None)
        monkeypatch.setitem(sys.modules, "mlflow_bridge._mlflow_tracing.provider", shared)
        tokens = SimpleNamespace(share_tokens=lambda: None, give_back_tokens=lambda: None)
        monkeypatch.setitem(sys.modules, "mlflow_bridge._mlflow_tracing.context_tokens", tokens)
        # So that what the code sets is undone.
        monkeypatch.setenv(SEPARATE_PROVIDER, "")
        monkeypatch.delenv(SEPARATE_PROVIDER)

    @property
    def processors(self) -> list[FakeSpansProcessor]:
        return [added for added in self.added if isinstance(added, FakeSpansProcessor)]


@pytest.fixture
def joining(monkeypatch: pytest.MonkeyPatch) -> Fixture:
    return Fixture(monkeypatch)


def test_joining_is_undone_and_repeated_with_one_processor(joining: Fixture) -> None:
    for _ in range(2):
        join_mlflow_tracing(joining.provider)
        join_mlflow_tracing(joining.provider)
        assert os.environ[SEPARATE_PROVIDER] == "false"
        [processor] = joining.processors
        assert processor.active
        leave_mlflow_tracing()
        assert SEPARATE_PROVIDER not in os.environ
        assert not processor.active


@pytest.mark.parametrize("value", ["true", "1", "True"])
def test_a_choice_against_it_stands(joining: Fixture, value: str) -> None:
    os.environ[SEPARATE_PROVIDER] = value
    join_mlflow_tracing(joining.provider)
    leave_mlflow_tracing()
    assert os.environ[SEPARATE_PROVIDER] == value
    assert joining.processors == []


def test_a_choice_for_it_is_inherited(joining: Fixture) -> None:
    os.environ[SEPARATE_PROVIDER] = "false"
    join_mlflow_tracing(joining.provider)
    [processor] = joining.processors
    assert processor.active
    leave_mlflow_tracing()
    assert os.environ[SEPARATE_PROVIDER] == "false"


def test_another_provider_than_the_global_one_is_of_no_use(joining: Fixture) -> None:
    join_mlflow_tracing(TracerProvider(shutdown_on_exit=False))
    join_mlflow_tracing(None)
    assert SEPARATE_PROVIDER not in os.environ


def test_an_open_span_of_mlflows_is_not_torn_apart(
    joining: Fixture, caplog: pytest.LogCaptureFixture
) -> None:
    joining.active_span = object()
    join_mlflow_tracing(joining.provider)
    assert SEPARATE_PROVIDER not in os.environ
    assert "at the start of the program" in caplog.text


def test_an_mlflow_that_is_made_differently_is_one_warning(
    joining: Fixture, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setitem(sys.modules, "mlflow_bridge._mlflow_tracing.spans", None)
    with caplog.at_level(logging.INFO):
        join_mlflow_tracing(joining.provider)
    assert SEPARATE_PROVIDER not in os.environ
    [record] = caplog.records
    assert "MLflow 3.17" in record.getMessage()


def test_an_mlflow_whose_switch_cannot_be_watched_is_one_warning(
    joining: Fixture, caplog: pytest.LogCaptureFixture
) -> None:
    for _ in range(2):
        follow_mlflow_tracing(lambda _: None)
    [record] = caplog.records
    assert "With MLflow 3.17, mlflow.tracing.disable() does not stop" in record.getMessage()
    assert "reconfigure(enabled=False)" in record.getMessage()
    leave_mlflow_tracing()
