# Copyright The opentelemetry-instrumentation-dspy Authors
# SPDX-License-Identifier: Apache-2.0
"""What the guard lets through."""

from __future__ import annotations

from benchmarks import guard

CHEAP = {"ours": 200.0, "OpenTelemetry's": 100.0}


def _counts(
    added: float, sampled_out: float = 10.0, steps_added: float = 150.0
) -> dict[str, dict[str, float]]:
    figures = {
        "added": added,
        "floor": 100.0,
        "no_content_added": added,
        "no_content_floor": 100.0,
        "adapter_steps_added": steps_added,
        "adapter_steps_floor": 100.0,
        "sampled_out": sampled_out,
    }
    deep = {**figures, "sampled_out": sampled_out * 11}
    return {name: deep if name == "nested 11" else figures for name in guard.PROGRAMS}


def test_what_costs_as_much_as_the_floor_passes() -> None:
    assert guard.exceeded(guard.ratios(_counts(added=100.0), CHEAP)) == []


def test_every_program_that_is_over_its_limit_is_named() -> None:
    over = guard.exceeded(guard.ratios(_counts(100_000.0, steps_added=10_000.0), CHEAP))

    assert [line.partition(":")[0] for line in over] == [
        name for name in guard.limits() if not name.startswith(("sampled out", "span processor"))
    ]


def test_operations_below_an_unsampled_root_have_a_limit_of_their_own() -> None:
    found = guard.ratios(_counts(added=100.0, sampled_out=1_000.0), CHEAP)

    assert found["sampled out, steps for each operation"] == 1_000.0
    assert len(guard.exceeded(found)) == 1


def test_there_is_a_limit_for_everything_that_is_looked_at() -> None:
    assert guard.limits().keys() == guard.ratios(_counts(added=1.0), CHEAP).keys()


def test_the_processor_is_compared_with_that_of_opentelemetry() -> None:
    costly = {"ours": 500.0, "OpenTelemetry's": 100.0}

    [line] = guard.exceeded(guard.ratios(_counts(added=100.0), costly))

    assert line == "span processor, beside OpenTelemetry's: 5.00 is over the limit of 3.6"
