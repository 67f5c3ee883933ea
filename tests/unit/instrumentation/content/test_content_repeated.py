# Copyright The opentelemetry-instrumentation-dspy Authors
# SPDX-License-Identifier: Apache-2.0
"""A long text that stands in many places of a trace is turned into JSON once."""

from __future__ import annotations

import gc
import operator
import sys
from collections import Counter
from typing import Any

import dspy
import orjson
import pytest

from opentelemetry.instrumentation.dspy._content import long_texts
from opentelemetry.instrumentation.dspy._content.encoder import ContentEncoder
from opentelemetry.instrumentation.dspy._content.long_texts import LONG_TEXT, LongTextCache
from opentelemetry.instrumentation.dspy._settings import Settings
from tests.support.lms import EchoLM
from tests.support.traced import Traced
from tests.unit.instrumentation.conftest import TraceWith

LONG = 'A line with "quotes", umlauts (ä) and a break.\n' * (LONG_TEXT // 40)


@pytest.fixture
def encodings(monkeypatch: pytest.MonkeyPatch) -> Counter[str]:
    """How often each text was turned into JSON by itself."""
    counts: Counter[str] = Counter()

    class Counting:
        JSONEncodeError = orjson.JSONEncodeError

        @staticmethod
        def dumps(value: Any) -> bytes:
            if isinstance(value, str):
                counts[value] += 1
            return orjson.dumps(value)

    monkeypatch.setattr(long_texts, "orjson", Counting)
    return counts


@pytest.mark.parametrize(
    "value",
    [
        LONG,
        {"context": LONG, "question": "short"},
        {"demos": [], "inputs": {"a": LONG, "b": (LONG, "x\0y", 1.5, None, True)}},
        [{"role": "user", "content": LONG}, {"role": "system", "content": LONG[1:]}],
        {"a\0b": LONG, "\0": "\0", "c": "\\u0000" + LONG},
        [LONG] * 100,
        {"deep": [[[[LONG]]]]},
    ],
)
def test_the_json_is_that_of_the_value(value: Any) -> None:
    assert LongTextCache().dumps(value) == orjson.dumps(value).decode()


def test_a_lone_surrogate_is_told() -> None:
    with pytest.raises(orjson.JSONEncodeError):
        LongTextCache().dumps([LONG + "\ud800"])


def test_each_long_text_of_a_trace_is_encoded_once(traced: Traced, encodings: Counter[str]) -> None:
    with dspy.context(lm=EchoLM()):
        dspy.Predict("context, question -> answer")(context=LONG, question="?")
    inputs = traced.content("ChatAdapter", "dspy.adapter.input")["inputs"]
    assert inputs == {"context": LONG, "question": "?"}
    messages = traced.content("chat echo", "gen_ai.input.messages")
    assert LONG in messages[1]["parts"][0]["content"]
    # The context, and the prompt around it, though each stands in two spans at least.
    assert [count for text, count in encodings.items() if LONG in text] == [1, 1]


def references_kept(text: str) -> int:
    """How many references to a text are there for longer than a program that was given it."""
    before = sys.getrefcount(text)
    with dspy.context(lm=EchoLM(), disable_history=True, max_trace_size=0):
        dspy.Predict("context -> answer")(context=text)
    gc.collect()
    return sys.getrefcount(text) - before


def test_nothing_is_kept_beyond_the_outermost_call(trace_with: TraceWith) -> None:
    dspys_own = references_kept(LONG + "alone")  # some releases keep the last prompt
    trace_with()
    assert references_kept(LONG + "traced") == dspys_own


def test_the_texts_that_are_kept_are_bounded() -> None:
    texts = LongTextCache()
    long = [LONG + str(number) for number in range(200)]
    before = [sys.getrefcount(text) for text in long]
    for text in long:
        texts.dumps([text])
    after = [sys.getrefcount(text) for text in long]
    assert 0 < sum(map(operator.gt, after, before)) <= 64


def test_an_image_is_read_once(monkeypatch: pytest.MonkeyPatch) -> None:
    read: list[str] = []

    def shorten(uri: str) -> str:
        read.append(uri)
        return "short"

    monkeypatch.setattr(long_texts, "shorten_data_uris", shorten)
    encoder = ContentEncoder(Settings())
    image = "data:image/png;base64," + "A" * 10_000
    attributes: dict[str, Any] = {}
    encoder.put(attributes, "one", "lm", {"image": image})
    encoder.put(attributes, "two", "lm", [{"url": image}])
    assert attributes == {"one": '{"image":"short"}', "two": '[{"url":"short"}]'}
    assert read == [image]
    encoder.clear_cache()
    encoder.put(attributes, "three", "lm", [image])
    assert read == [image, image]
