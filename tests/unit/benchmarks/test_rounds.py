# Copyright The opentelemetry-instrumentation-dspy Authors
# SPDX-License-Identifier: Apache-2.0
"""What interleaved rounds are made to say."""

from __future__ import annotations

import pytest

from benchmarks import rounds


def test_one_slow_round_moves_neither_what_is_added_nor_the_ratio() -> None:
    alone = [10.0, 100.0, 10.0, 10.0, 10.0]
    together = [16.0, 900.0, 16.0, 16.0, 16.0]
    floor = [3.0, 30.0, 3.0, 3.0, 3.0]

    assert rounds.added(alone, together) == 6.0
    assert rounds.ratio(alone, together, floor) == 2.0


def test_rounds_of_different_length_are_refused() -> None:
    with pytest.raises(ValueError, match="argument"):
        rounds.added([1.0], [1.0, 2.0])


def test_each_comes_first_in_turn_and_none_is_left_out() -> None:
    orders = [list(order) for _, order in rounds.in_turns(["a", "b", "c"], 4)]

    assert [order[0] for order in orders] == ["a", "b", "c", "a"]
    assert all(sorted(order) == ["a", "b", "c"] for order in orders)


def test_quartiles() -> None:
    assert rounds.quartiles([1.0, 2.0, 3.0, 4.0, 5.0]) == (2.0, 4.0)
    assert rounds.quartiles([7.0]) == (7.0, 7.0)


def test_slope_is_what_one_more_costs() -> None:
    assert rounds.slope([1, 11, 21], [30.0, 50.0, 70.0]) == pytest.approx(2.0)
