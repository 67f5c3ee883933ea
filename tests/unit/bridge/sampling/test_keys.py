# Copyright The opentelemetry-instrumentation-dspy Authors
# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any

import dspy
import pytest
from opentelemetry import baggage
from opentelemetry.context import Context, get_current
from opentelemetry.sdk.trace.sampling import Decision, TraceIdRatioBased

from mlflow_bridge import trace_context
from mlflow_bridge.sampling.keys import is_in_share, key_in, number_of

SHARES = (0.0, 0.001, 0.1, 0.5, 0.999, 1.0)
NUMBERS = [number_of(f"session-{index}") for index in range(4_000)]


@dataclass
class GivenCall:
    """A call as a sampler sees it."""

    args: tuple[Any, ...] = ()
    kwargs: dict[str, Any] = field(default_factory=dict[str, Any])
    operation_name: str = "module"
    instance: Any = None
    path: str | None = None
    parent: Any = None


def inputs_key(*args: Any, **kwargs: Any) -> str | None:
    return key_in("inputs", Context(), GivenCall(args, kwargs), {})


@pytest.mark.parametrize("share", SHARES)
def test_about_that_share_of_keys_is_chosen(share: float) -> None:
    # The keys are always the same ones, and so is how many of them are chosen.
    chosen = sum(is_in_share(number, share) for number in NUMBERS)
    assert chosen == pytest.approx(share * len(NUMBERS), abs=0.02 * len(NUMBERS))
    assert share not in (0.0, 1.0) or chosen == share * len(NUMBERS)


def test_a_larger_share_has_all_of_a_smaller_one() -> None:
    chosen = [{n for n in NUMBERS if is_in_share(n, share)} for share in SHARES]
    assert all(few <= more for few, more in pairwise(chosen))


@pytest.mark.parametrize("share", SHARES)
def test_of_trace_ids_the_same_are_chosen_as_by_the_sdk(share: float) -> None:
    standard = TraceIdRatioBased(share)
    for number in NUMBERS:
        trace_id = number << 64 | number_of(number)
        decision = standard.should_sample(None, trace_id, "span").decision
        assert is_in_share(trace_id, share) == (decision is Decision.RECORD_AND_SAMPLE)


def test_a_lone_surrogate_is_a_key_like_any_other() -> None:
    assert number_of("\ud800") != number_of("\ud801")


@pytest.mark.parametrize(
    ("kind", "attribute"),
    [
        ("session", "session.id"),
        ("user", "user.id"),
        ("conversation", "gen_ai.conversation.id"),
    ],
)
def test_where_a_session_is_found(kind: Any, attribute: str) -> None:
    assert key_in(kind, Context(), None, {}) is None
    in_baggage = baggage.set_baggage(attribute, "from baggage", Context())
    assert key_in(kind, in_baggage, None, {}) == "from baggage"
    with trace_context(session_id="block", user_id="block", conversation_id="block"):
        context = baggage.set_baggage(attribute, "from baggage", get_current())
        assert key_in(kind, context, None, {}) == "block"
        assert key_in(kind, None, None, {}) == "block"
        assert key_in(kind, context, None, {attribute: "of the span"}) == "of the span"


def test_a_trace_of_its_own_has_no_key() -> None:
    assert key_in("trace", Context(), GivenCall(), {"session.id": "s"}) is None
    assert key_in("inputs", Context(), None, {}) is None


def test_the_same_arguments_are_the_same_key() -> None:
    key = inputs_key(question="Why?", context=["a", "b"], k=3)
    assert key == inputs_key(k=3, context=["a", "b"], question="Why?")
    assert key != inputs_key(question="Why not?", context=["a", "b"], k=3)
    assert inputs_key("Why?") != inputs_key(question="Why?")


def test_arguments_that_are_no_json() -> None:
    class Point:
        def __init__(self, x: int) -> None:
            self.x = x

    example = dspy.Example(question="Why?", answer="So.")
    assert inputs_key(example) == inputs_key(dspy.Example(question="Why?", answer="So."))
    assert inputs_key(example) != inputs_key(dspy.Example(question="Why?", answer="No."))
    assert inputs_key({"a", "b", "c"}) == inputs_key({"c", "b", "a"})
    assert inputs_key({1: "a"}) == inputs_key({1: "a"})
    tool_calls = dspy.ToolCalls.from_dict_list([{"name": "search", "args": {"query": "towers"}}])
    other_calls = dspy.ToolCalls.from_dict_list([{"name": "search", "args": {"query": "rivers"}}])
    assert inputs_key(tool_calls) != inputs_key(other_calls)
    # No address may get into it: it is another one in each process.
    assert inputs_key(Point(1)) == inputs_key(Point(2))
