# Copyright The opentelemetry-instrumentation-dspy Authors
# SPDX-License-Identifier: Apache-2.0
"""NumPy's values: numbers as numbers, small arrays as lists, others by shape and type."""

from __future__ import annotations

from typing import Any

import pytest

from tests.unit.instrumentation.encoding import encoded

numpy: Any = pytest.importorskip("numpy", reason="optional for DSPy since 3.3")


class Raising:
    def __repr__(self) -> str:
        raise RuntimeError("no repr")


@pytest.mark.parametrize(
    ("value", "read"),
    [
        (numpy.float64(0.5), 0.5),
        (numpy.float32(0.5), 0.5),
        (numpy.int64(3), 3),
        (numpy.bool_(True), True),
        (numpy.array([[1, 2], [3, 4]]), [[1, 2], [3, 4]]),
        (numpy.array([]), []),
        (numpy.array([0.5, numpy.nan]), [0.5, None]),
        (numpy.zeros((100, 100)), "[ndarray of shape (100, 100), float64]"),
        (numpy.array([Raising()], dtype=object), ["[unreadable Raising]"]),
    ],
    ids=lambda value: type(value).__name__,
)
def test_arrays(value: Any, read: Any) -> None:
    assert encoded({"array": value}) == ({"array": read}, [])


@pytest.mark.parametrize("limit", [64, 100])
def test_a_small_array_within_a_small_limit(limit: int) -> None:
    _, truncated = encoded(numpy.zeros(200), limit)
    assert truncated == ["a.input"]
