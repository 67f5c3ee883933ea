# Copyright The opentelemetry-instrumentation-dspy Authors
# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

from collections import deque
from weakref import WeakKeyDictionary

import pytest

from mlflow_bridge._config import base
from mlflow_bridge._delivery import registry
from mlflow_bridge._spans import annotation


@pytest.fixture(autouse=True)
def _what_is_reported_once_is_reported_once_a_test(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(base, "_reported", set())


@pytest.fixture(autouse=True)
def _annotations_go_to_processors_of_the_test(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(annotation, "_takers", WeakKeyDictionary())


@pytest.fixture(autouse=True)
def _a_retired_processor_is_reported_in_its_own_test(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(registry, "_retired", deque(maxlen=vars(registry)["_MAX_RETIRED"]))
