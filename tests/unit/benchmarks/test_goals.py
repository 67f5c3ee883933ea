# Copyright The opentelemetry-instrumentation-dspy Authors
# SPDX-License-Identifier: Apache-2.0
"""Goals are held against what was measured, and nothing is glossed over."""

from __future__ import annotations

from benchmarks.goals import Goal, goals, goals_table

UNSAMPLED = {
    "root_us": 9.0,
    "nested_module_us": 1.5,
    "programs": {"Predict": {"added_us": 40.0, "operations_below": 4, "operation_us": 7.0}},
    "left_behind": {"Predict": {"bytes": 0, "blocks": 0}},
}


def test_a_goal_is_reached_at_its_limit_and_missed_above() -> None:
    assert Goal("what", 1.5, 1.5).reached
    assert not Goal("what", 1.51, 1.5).reached


def test_a_missed_goal_says_so() -> None:
    reached = {goal.what: goal.reached for goal in goals({"unsampled": UNSAMPLED})}

    assert reached == {
        "module below an unsampled root": True,
        "Predict below an unsampled root, each operation": False,
        "Predict sampled out, blocks left by 300 calls": True,
    }
    last = [row[-1] for row in goals_table({"unsampled": UNSAMPLED}).rows]
    assert last == ["yes", "**no**", "yes"]


def test_start_up_is_held_against_an_exporter_without_mlflow() -> None:
    small, large = {"cpu_ms": 400.0, "rss_mib": 65.0}, {"cpu_ms": 4_000.0, "rss_mib": 290.0}
    startup = {"without": small, "with": small, "console": small}
    for named, reached in ((small, [True] * 4), (large, [True, True, False, False])):
        found = goals({"startup": {**startup, "named": named}})
        assert [goal.reached for goal in found] == reached


def test_parts_that_were_not_measured_have_no_goals() -> None:
    assert goals({}) == []
    assert goals({"instructions": {}}) == []
