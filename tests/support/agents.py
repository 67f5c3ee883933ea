# Copyright The opentelemetry-instrumentation-dspy Authors
# SPDX-License-Identifier: Apache-2.0
"""What the tests of agents share: how one is run, and what its spans say of its steps."""

from __future__ import annotations

from typing import Any

import dspy
import pytest

from tests.support.traced import Traced

QA = "question -> answer"
MODES = pytest.mark.parametrize("mode", ["sync", "async"])


def search(query: str) -> str:
    """Looks things up."""
    return f"found {query}"


async def run(agent: dspy.Module, mode: str, lm: Any, **inputs: Any) -> Any:
    with dspy.context(lm=lm):
        return agent(**inputs) if mode == "sync" else await agent.acall(**inputs)


def facts(traced: Traced, name: str) -> dict[str, Any]:
    attributes = traced.attributes(name)
    names = ("step.count", "max_steps", "termination")
    return {name: attributes.get(f"dspy.agent.{name}") for name in names}


def steps(traced: Traced, name: str) -> list[int | None]:
    """The step index of every span of a name, in the order of their end."""
    spans = [span for span in traced.spans if span.name == name]
    indices = [(span.attributes or {}).get("dspy.agent.step.index") for span in spans]
    return [index if isinstance(index, int) else None for index in indices]


FINAL = {"reasoning": "so", "answer": "blue"}
