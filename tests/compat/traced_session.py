# Copyright The opentelemetry-instrumentation-dspy Authors
# SPDX-License-Identifier: Apache-2.0
"""A pytest plugin: all tests of the session are traced to a SQL store, with content."""

from __future__ import annotations

import mlflow_bridge


def pytest_configure() -> None:
    mlflow_bridge.autolog()


def pytest_unconfigure() -> None:
    client = mlflow_bridge.get_autolog_client()
    assert client is not None
    client.flush(timeout_seconds=60.0)
    for status in client.status():
        print(f"\n{status}")
    client.close()
