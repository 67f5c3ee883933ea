# Copyright The opentelemetry-instrumentation-dspy Authors
# SPDX-License-Identifier: Apache-2.0
"""Statistics of a series of interleaved rounds, as pure functions over samples.

Rounds are interleaved, and figures compared within a round, so that a slow moment of the machine
affects all compared figures.
"""

from __future__ import annotations

import statistics
from collections.abc import Iterator, Sequence
from typing import TypeVar

T = TypeVar("T")


def added(alone: Sequence[float], together: Sequence[float]) -> float:
    """The median over rounds of the added cost, in the unit of the samples."""
    return statistics.median(b - a for a, b in zip(alone, together, strict=True))


def ratio(alone: Sequence[float], together: Sequence[float], floor: Sequence[float]) -> float:
    """The median over rounds of the added cost, as a multiple of the floor of that round."""
    pairs = zip(alone, together, floor, strict=True)
    return statistics.median((b - a) / max(unit, 1e-9) for a, b, unit in pairs)


def quartiles(samples: Sequence[float]) -> tuple[float, float]:
    """The first and the third quartile; twice the sample if there is only one."""
    if len(samples) < 2:
        return samples[0], samples[0]
    first, _, third = statistics.quantiles(samples, n=4, method="inclusive")
    return first, third


def in_turns(things: Sequence[T], rounds: int) -> Iterator[tuple[int, Sequence[T]]]:
    """Yield the number of each round and the things, rotated by one place each round."""
    for number in range(rounds):
        start = number % len(things)
        yield number, [*things[start:], *things[:start]]


def slope(xs: Sequence[float], ys: Sequence[float]) -> float:
    """The slope of y over x, by least squares."""
    return statistics.linear_regression(xs, ys).slope
