# Copyright The opentelemetry-instrumentation-dspy Authors
# SPDX-License-Identifier: Apache-2.0
"""Ctrl-C while telemetry is at work: it gets through, and leaves nothing behind."""

from __future__ import annotations

from typing import Any

import dspy
import pytest
from opentelemetry import context as context_api

from tests.unit.instrumentation.conftest import TraceWith


class Interrupting:
    """A redaction hook in which Ctrl-C arrives once, at one field of one operation."""

    def __init__(self, operation: str, field: str) -> None:
        self.place: tuple[str, str] | None = (operation, field)
        self.seen: set[tuple[str, str]] = set()

    def __call__(self, operation: str, field: str, value: Any) -> Any:
        self.seen.add((operation, field))
        if self.place == (operation, field):
            self.place = None
            raise KeyboardInterrupt
        return value


class Program(dspy.Module):
    def __init__(self) -> None:
        super().__init__()
        self.tool = dspy.Tool(self.divide, name="divide")

    def divide(self, number: int) -> float:
        return 1 / number

    def forward(self, number: int) -> float:
        return self.tool(number=number)

    async def aforward(self, number: int) -> float:
        return self.tool(number=number)


PLACES = [
    ("tool", "number", 1),
    ("tool", "result", 1),
    ("module", "number", 1),
    ("module", "output", 1),
    ("exception", "message", 0),
]


@pytest.mark.parametrize("mode", ["sync", "async"])
@pytest.mark.parametrize(("operation", "field", "number"), PLACES)
async def test_an_interrupted_call_is_over(
    trace_with: TraceWith, operation: str, field: str, number: int, mode: str
) -> None:
    redact = Interrupting(operation, field)
    traced = trace_with(redact=redact)
    before = context_api.get_current()
    with pytest.raises(KeyboardInterrupt):
        if mode == "sync":
            Program()(number=number)
        else:
            await Program().acall(number=number)
    assert redact.place is None, redact.seen
    assert context_api.get_current() == before
    traced.clear()
    Program()(number=1)
    assert traced.tree() == "invoke_workflow Program\n└─ execute_tool divide"
