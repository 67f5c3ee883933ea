# Copyright The opentelemetry-instrumentation-dspy Authors
# SPDX-License-Identifier: Apache-2.0
"""Counting what the interpreter executes."""

from __future__ import annotations

import sys

from benchmarks.steps import count_steps


def _some() -> int:
    return sum(number * number for number in range(20))


def _more() -> None:
    for _ in range(10):
        _some()


def test_the_count_is_the_same_each_time() -> None:
    assert count_steps(_some) == count_steps(_some) > 20


def test_ten_times_the_work_counts_about_ten_times() -> None:
    assert 9 < count_steps(_more) / count_steps(_some) < 12


def test_calls_of_c_functions_count() -> None:
    values = list(range(10))

    def with_calls() -> None:
        for _ in range(5):
            len(values)

    def without_calls() -> None:
        for _ in range(5):
            _ = values

    assert count_steps(with_calls) - count_steps(without_calls) >= 5


def test_hooks_that_were_there_are_there_again() -> None:
    before = sys.gettrace(), sys.getprofile()

    count_steps(_some)

    assert (sys.gettrace(), sys.getprofile()) == before
