# Copyright The opentelemetry-instrumentation-dspy Authors
# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import pytest

from mlflow_bridge._config import base


@pytest.fixture(autouse=True)
def _what_is_reported_once_is_reported_once_a_test(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(base, "_reported", set())
