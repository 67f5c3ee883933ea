# Copyright The opentelemetry-instrumentation-dspy Authors
# SPDX-License-Identifier: Apache-2.0
"""A second call of `instrument()` says what it does not do, and otherwise says nothing."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from typing import Any

import pytest
from opentelemetry.sdk.trace import TracerProvider

from opentelemetry.instrumentation.dspy import DSPyInstrumentor
from tests.support.instrumented import TelemetryLog

PROVIDER = TracerProvider(shutdown_on_exit=False)


@pytest.fixture(autouse=True)
def instrumented() -> Iterator[DSPyInstrumentor]:
    instrumentor = DSPyInstrumentor()
    instrumentor.instrument(
        tracer_provider=PROVIDER, capture_content="SPAN_ONLY", skip_dep_check=True
    )
    yield instrumentor
    instrumentor.uninstrument()


@pytest.mark.parametrize(
    "arguments",
    [
        {},
        {"skip_dep_check": True, "raise_exception_on_conflict": True},
        {"capture_content": "SPAN_ONLY"},
        {"tracer_provider": PROVIDER, "capture_content": True},
    ],
)
def test_a_call_that_asks_for_what_is_in_use_is_silent(
    instrumented: DSPyInstrumentor, caplog: pytest.LogCaptureFixture, arguments: dict[str, Any]
) -> None:
    with caplog.at_level(logging.DEBUG):
        instrumented.instrument(**arguments)
    assert caplog.messages == []


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        ({"capture_content": "NO_CONTENT", "skip_dep_check": True}, "capture_content"),
        (
            {"capture_content": "SPAN_ONLY", "max_content_length": 100},
            "capture_content, max_content_length",
        ),
        ({"tracer_provider": TracerProvider(shutdown_on_exit=False)}, "tracer_provider"),
    ],
)
def test_a_call_that_asks_for_others_is_named(
    instrumented: DSPyInstrumentor,
    telemetry_log: TelemetryLog,
    arguments: dict[str, Any],
    named: str,
) -> None:
    before = instrumented.settings
    instrumented.instrument(**arguments)
    [message] = telemetry_log.take()
    assert f"have no effect: {named}. " in message
    assert instrumented.settings is before
