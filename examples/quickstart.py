# Copyright The opentelemetry-instrumentation-dspy Authors
# SPDX-License-Identifier: Apache-2.0
"""Answer a question from a few documents, then let an agent check the answer with a tool.

This program has no code for telemetry. To see its trace, run it under ``opentelemetry-instrument``
or with ``make demo``. Without ``--model`` the language model follows a script and needs no key.
With a real model, for example ``--model openai/gpt-4o-mini``, DSPy reads the key from the
environment as usual.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from contextlib import contextmanager

import dspy
from scripted_llm import Rule, ScriptedLLM

QUESTION = "How tall is the Eiffel Tower, in feet?"

DOCUMENTS = [
    "The Eiffel Tower in Paris has been 330 metres tall since an antenna was added in 2022.",
    "The Eiffel Tower was built for the world's fair of 1889 by the company of Gustave Eiffel.",
    "Tokyo Tower, a lattice tower from 1958, is 333 metres tall and painted orange and white.",
    "The Statue of Liberty was a gift from France; its iron frame is by Gustave Eiffel.",
]


class KeywordRetriever(dspy.Retrieve):
    """Ranks documents by the number of words that they share with the query."""

    def forward(self, query: str, k: int | None = None) -> dspy.Prediction:
        ranked = sorted(DOCUMENTS, key=lambda text: len(_words(query) & _words(text)), reverse=True)
        return dspy.Prediction(passages=ranked[: k or self.k])


def metres_to_feet(metres: float) -> float:
    """Convert a length from metres to feet."""
    return round(metres / 0.3048, 1)


class RAG(dspy.Module):
    """Retrieve documents, draft an answer, and let an agent check it."""

    def __init__(self) -> None:
        super().__init__()
        self.retrieve = KeywordRetriever(k=2)
        self.generate = dspy.ChainOfThought("context: list[str], question: str -> answer: str")
        self.check = dspy.ReAct("question, draft -> answer", tools=[metres_to_feet], max_iters=4)

    def forward(self, question: str) -> dspy.Prediction:
        context = self.retrieve(question).passages
        draft = self.generate(context=context, question=question)
        checked = self.check(question=question, draft=draft.answer)
        return dspy.Prediction(answer=checked.answer)


def _words(text: str) -> set[str]:
    return {word.strip(".,?'").lower() for word in text.split()}


SCRIPT = [
    Rule(
        when=lambda system, last: "[[ ## context ## ]]" in last,
        reply="[[ ## reasoning ## ]]\nThe first passage gives the height in metres: 330.\n\n"
        "[[ ## answer ## ]]\nThe Eiffel Tower is 330 metres tall.\n\n[[ ## completed ## ]]",
    ),
    Rule(
        when=lambda system, last: "next_thought" in last and "observation_0" not in last,
        reply="[[ ## next_thought ## ]]\nThe draft is in metres, the question asks for feet.\n\n"
        "[[ ## next_tool_name ## ]]\nmetres_to_feet\n\n"
        '[[ ## next_tool_args ## ]]\n{"metres": 330}\n\n[[ ## completed ## ]]',
    ),
    Rule(
        when=lambda system, last: "next_thought" in last,
        reply="[[ ## next_thought ## ]]\nI have the height in feet.\n\n"
        "[[ ## next_tool_name ## ]]\nfinish\n\n"
        "[[ ## next_tool_args ## ]]\n{}\n\n[[ ## completed ## ]]",
    ),
    Rule(
        when=lambda system, last: "[[ ## trajectory ## ]]" in last,
        reply="[[ ## reasoning ## ]]\n330 metres are 1082.7 feet.\n\n"
        "[[ ## answer ## ]]\nThe Eiffel Tower is 1,082.7 feet tall.\n\n[[ ## completed ## ]]",
    ),
]


@contextmanager
def language_model(model: str | None) -> Iterator[dspy.LM]:
    """The model with this name; the scripted model if the name is None."""
    if model is not None:
        yield dspy.LM(model)
        return
    with ScriptedLLM(SCRIPT) as server:
        yield dspy.LM("openai/gpt-4o-mini", api_base=server.base_url, api_key="unused")


def main() -> None:
    parser = argparse.ArgumentParser(description="Answer a question, and check the answer.")
    parser.add_argument("--model", help="a real model as DSPy names it; the default is scripted")
    parser.add_argument("--question", default=QUESTION, help="needs --model (default: %(default)s)")
    options = parser.parse_args()
    if options.question != QUESTION and options.model is None:
        parser.error("the script knows one question only; --question needs --model")
    with language_model(options.model) as lm:
        dspy.configure(lm=lm)
        print(RAG()(question=options.question).answer)


if __name__ == "__main__":
    main()
