# Copyright The opentelemetry-instrumentation-dspy Authors
# SPDX-License-Identifier: Apache-2.0
"""Fixtures of tests with an instrumented DSPy; a conftest.py imports them."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from opentelemetry.instrumentation.dspy import _guarding as guarding
from tests.support.fake_openai import FakeOpenAI
from tests.support.memory import watched_spans
from tests.support.registry import faults_of
from tests.support.traced import Traced, uninstrument

# Since 3.4 every custom LM is told so, and most LMs here are custom.
DEPRECATED = r"ignore:(Implementing custom LMs|Passing OpenAI-style):DeprecationWarning"

TraceWith = Callable[..., Traced]


class TelemetryLog(logging.Handler):
    """The warnings of the instrumentation and of the OTel context; a test takes what it expects."""

    loggers = ("opentelemetry.instrumentation.dspy", "opentelemetry.context")

    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self._records: list[logging.LogRecord] = []

    def emit(self, record: logging.LogRecord) -> None:
        self._records.append(record)

    def take(self) -> list[str]:
        """The messages so far; they are expected from now on."""
        taken, self._records = self._records, []
        return [record.getMessage() for record in taken]

    def left(self) -> str:
        formatter = logging.Formatter("%(name)s: %(message)s")
        return "\n".join(formatter.format(record) for record in self._records)


@pytest.fixture(autouse=True)
def telemetry_log() -> Iterator[TelemetryLog]:
    """No test passes while the instrumentation complains of something it did not expect."""
    guarding._logged.clear()
    log = TelemetryLog()
    for name in log.loggers:
        logging.getLogger(name).addHandler(log)
    yield log
    for name in log.loggers:
        logging.getLogger(name).removeHandler(log)
    assert log.left() == ""


@pytest.fixture(autouse=True)
def every_span(request: pytest.FixtureRequest) -> Iterator[None]:
    """Every span has ended at the end of its test, and has what the registry allows and no more.

    A test whose redaction returns values of any shape has the mark ``any_shape``.
    """
    with watched_spans() as watch:
        yield
    # A test's own spans and those of the fake server's clients are not ours to judge.
    ours = [span for span in watch.ended() if _is_ours(span)]
    shapes = request.node.get_closest_marker("any_shape") is None
    faults = {f"{span.name}: {fault}" for span in ours for fault in faults_of(span, shapes=shapes)}
    assert faults == set()


@pytest.fixture
def trace_with() -> Iterator[TraceWith]:
    """Makes an instrumented `Traced`; a second one takes the place of the first.

    In the end DSPy is uninstrumented.
    """

    def make(**settings: Any) -> Traced:
        uninstrument()
        return Traced(**settings)

    yield make
    uninstrument()


def _is_ours(span: Any) -> bool:
    return span.instrumentation_scope.name == "opentelemetry.instrumentation.dspy"


@pytest.fixture
def traced(trace_with: TraceWith) -> Traced:
    """DSPy instrumented with content on spans."""
    return trace_with()


@pytest.fixture
def server() -> Iterator[FakeOpenAI]:
    with FakeOpenAI() as running:
        yield running
