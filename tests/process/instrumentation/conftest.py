# Copyright The opentelemetry-instrumentation-dspy Authors
# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

from pathlib import Path

import pytest

from tests.support.instrumented import (
    DEPRECATED,
    every_span,
    server,
    telemetry_log,
    trace_with,
    traced,
)

__all__ = [
    "every_span",
    "server",
    "telemetry_log",
    "trace_with",
    "traced",
]


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if item.path.is_relative_to(Path(__file__).parent):
            item.add_marker(pytest.mark.filterwarnings(DEPRECATED))
