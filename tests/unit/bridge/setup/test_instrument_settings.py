# Copyright The opentelemetry-instrumentation-dspy Authors
# SPDX-License-Identifier: Apache-2.0
"""Settings of the bridge that the instrumentation carries out, with the real instrumentor."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from mlflow_bridge import MLflowDSPyConfig
from mlflow_bridge._setup.instrumentation import (
    instrument_again,
    other_instrument_settings,
    set_instrument_defaults,
    warn_of_unused_instrument_settings,
)
from opentelemetry.instrumentation.dspy import (
    ContentMode,
    DSPyInstrumentor,
    Settings,
    set_default_arguments,
)


def redact(operation: str, field: str, value: Any) -> Any:
    return value


@pytest.fixture
def instrumentor() -> Iterator[DSPyInstrumentor]:
    instrumentor = DSPyInstrumentor()
    yield instrumentor
    if instrumentor.is_instrumented_by_opentelemetry:
        instrumentor.uninstrument()
    set_default_arguments()


def in_use(instrumentor: DSPyInstrumentor) -> Settings:
    assert instrumentor.settings is not None
    return instrumentor.settings


def test_what_zero_code_has_instrumented_gets_what_autolog_is_given(
    instrumentor: DSPyInstrumentor,
) -> None:
    set_instrument_defaults([MLflowDSPyConfig(max_content_length=500)])
    instrumentor.instrument(request_hook=print)

    instrument_again(MLflowDSPyConfig(capture_content=False, redact=redact))

    settings = in_use(instrumentor)
    assert (settings.content_mode, settings.redact) == (ContentMode.NO_CONTENT, redact)
    assert (settings.max_content_length, settings.request_hook) == (500, print)


def test_without_a_setting_that_is_given_nothing_is_instrumented_again(
    instrumentor: DSPyInstrumentor,
) -> None:
    instrument_again(MLflowDSPyConfig(capture_content=False))
    assert instrumentor.settings is None
    instrumentor.instrument()
    before = in_use(instrumentor)
    instrument_again(MLflowDSPyConfig(max_batch_size=5))
    assert in_use(instrumentor) is before


def test_settings_that_the_program_did_not_pass_on_are_named(
    instrumentor: DSPyInstrumentor, caplog: pytest.LogCaptureFixture
) -> None:
    config = MLflowDSPyConfig(log_inputs=False, max_content_length=100)
    assert other_instrument_settings(config) == []
    instrumentor.instrument(max_content_length=100)
    # Content is on by default where spans go to MLflow.
    assert other_instrument_settings(config) == ["capture_content", "log_inputs"]
    for _ in range(2):
        warn_of_unused_instrument_settings(config)
    [line] = caplog.messages
    assert line.startswith("log_inputs: no effect")
    instrumentor.uninstrument()
    instrumentor.instrument(**config.instrument_arguments())
    assert other_instrument_settings(config) == []
