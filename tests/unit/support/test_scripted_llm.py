# Copyright The opentelemetry-instrumentation-dspy Authors
# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import json

from examples.scripted_llm import Rule, ScriptedLLM
from tests.support.http_client import post, post_json

_SCRIPT = [
    Rule(lambda system, last: "capital" in last, "Paris"),
    Rule(lambda system, last: "brief" in system, "Yes."),
]


def _ask(question: str, system: str = "Be brief. " * 20) -> dict[str, object]:
    messages = [{"role": "system", "content": system}, {"role": "user", "content": question}]
    return {"model": "gpt-4o-mini", "messages": messages}


def test_first_rule_that_fits_answers() -> None:
    with ScriptedLLM(_SCRIPT, latency=0) as llm:
        url = f"{llm.base_url}/chat/completions"
        capital = post_json(url, _ask("capital?"))
        other = post_json(url, _ask("really?"))
    texts = [body["choices"][0]["message"]["content"] for body in (capital, other)]
    assert texts == ["Paris", "Yes."]
    assert capital["id"] != other["id"]


def test_tokens_follow_the_length_and_a_known_system_prompt_is_cached() -> None:
    with ScriptedLLM(_SCRIPT, latency=0) as llm:
        url = f"{llm.base_url}/chat/completions"
        first, second = (post_json(url, _ask("capital?"))["usage"] for _ in range(2))
    assert first["prompt_tokens"] == 50 + 2
    assert first["completion_tokens"] == 1
    assert first["total_tokens"] == 53
    assert first["prompt_tokens_details"] == {"cached_tokens": 0}
    assert second["prompt_tokens_details"] == {"cached_tokens": 50}


def test_text_parts_are_read() -> None:
    parts = [{"type": "text", "text": "capital"}]
    with ScriptedLLM(_SCRIPT, latency=0) as llm:
        ask = {"model": "m", "messages": [{"role": "user", "content": parts}]}
        body = post_json(f"{llm.base_url}/chat/completions", ask)
    assert body["choices"][0]["message"]["content"] == "Paris"


def test_what_the_script_does_not_know_is_an_error() -> None:
    with ScriptedLLM(_SCRIPT, latency=0) as llm:
        status, body = post(f"{llm.base_url}/chat/completions", _ask("hm?", system="x"))
    assert status == 400
    assert json.loads(body)["error"]["message"] == "the script has no answer to: hm?"
