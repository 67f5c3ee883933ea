# Copyright The opentelemetry-instrumentation-dspy Authors
# SPDX-License-Identifier: Apache-2.0
"""Agents: their steps, and the reason why they stop.

DSPy's agents loop inside ``forward``, so a step is only visible as a call of its predictor. This
module knows the names of these predictors and the meaning of their answers and errors.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import dspy
from opentelemetry.instrumentation.dspy import semconv
from opentelemetry.instrumentation.dspy._calls.call import Attributes
from opentelemetry.instrumentation.dspy._operations.reading import instance_dict, value
from opentelemetry.instrumentation.dspy._operations.services.tool_definitions import definition_of

# By class name, since older releases lack some of them; CodeAct is also a ReAct.
# The second item names the attributes that hold the predictors of a step.
_STEP_PREDICTORS = {
    "CodeAct": ("codeact",),
    "ReActV2": ("react",),
    "ReAct": ("react",),
    "ProgramOfThought": ("code_generate", "code_regenerate"),
    "RLM": ("generate_action",),
}
_CONTEXT_WINDOW_ERROR = "ContextWindowExceededError"


@dataclass(slots=True)
class AgentRecord:
    """One call of an agent so far.

    Attributes:
        kind: Name of DSPy's agent class.
        agent: The agent.
        max_steps: Maximum number of steps.
        steps: Number of steps started.
    """

    kind: str
    agent: Any
    max_steps: int | None
    steps: int = 0
    _last_error: str | None = None
    _last_answer: Any = None
    _extracted: bool = False
    _tool_calls: list[tuple[str, str]] = field(default_factory=list["tuple[str, str]"])

    @property
    def step_index(self) -> int | None:
        """Index, from 0, of the step in progress; None before the first step."""
        return self.steps - 1 if self.steps else None

    def start_step(self, module: Any, arguments: Mapping[str, Any]) -> int | None:
        """Record that the agent calls one of its modules; returns the index if it is a step."""
        if not self._is_step(module):
            self._extracted = self._extracted or instance_dict(self.agent).get("extract") is module
            return None
        if self._is_forced(arguments):
            return None
        # ReAct repeats a step with a shorter trajectory if the context window was exceeded.
        if self._last_error != _CONTEXT_WINDOW_ERROR:
            self.steps += 1
        self._last_error = self._last_answer = None
        return self.step_index

    def record_answer(self, module: Any, arguments: Mapping[str, Any], answer: Any) -> None:
        """Record the answer of a step's predictor."""
        if not self._is_step(module):
            return
        if self.kind == "ReActV2":
            self._record_tool_calls(answer)
        if not self._is_forced(arguments):
            self._last_answer = answer

    def record_error(self, module: Any, error: BaseException) -> None:
        """Record that one of the agent's modules failed."""
        if self._is_step(module):
            self._last_error = type(error).__name__

    def ends_with(self, tool: Any) -> bool:
        """Whether the agent ends by calling this tool."""
        name = _ENDING_TOOLS.get(self.kind)
        tools = instance_dict(self.agent).get("tools")
        return name is not None and value(tools, name) is tool

    def pop_tool_call_id(self, tool_name: str) -> str | None:
        """The id of the model's next call of this tool, if the agent knows ids."""
        for index, (name, call_id) in enumerate(self._tool_calls):
            if name == tool_name:
                del self._tool_calls[index]
                return call_id
        return None

    def definitions(self) -> list[dict[str, Any]]:
        """The tools of the agent, without the tool by which it ends."""
        tools = _tools_of(self.agent)
        return [definition_of(tool) for tool in tools if not self.ends_with(tool)]

    def attributes(self, result: Any, error: BaseException | None) -> Attributes:
        """The number of steps and the reason of the end, as attributes."""
        attributes: Attributes = {
            semconv.DSPY_AGENT_STEP_COUNT: self.steps,
            semconv.DSPY_AGENT_TERMINATION: self._termination(result, error),
        }
        if self.max_steps is not None:
            attributes[semconv.DSPY_AGENT_MAX_STEPS] = self.max_steps
        return attributes

    def _termination(self, result: Any, error: BaseException | None) -> str:
        if error is not None:
            if type(error).__name__ == _CONTEXT_WINDOW_ERROR:
                return semconv.AgentTerminations.CONTEXT_WINDOW
            gave_up = self.kind == "ProgramOfThought" and isinstance(error, RuntimeError)
            exhausted = gave_up and self._used_up()
            return (
                semconv.AgentTerminations.MAX_ITERS
                if exhausted
                else semconv.AgentTerminations.ERROR
            )
        if self._finished(result):
            return semconv.AgentTerminations.FINISH
        if self._last_error == _CONTEXT_WINDOW_ERROR:
            return semconv.AgentTerminations.CONTEXT_WINDOW
        if self._last_error is not None:
            return semconv.AgentTerminations.ERROR
        return (
            semconv.AgentTerminations.MAX_ITERS
            if self._used_up()
            else semconv.AgentTerminations.NO_TOOL_CALL
        )

    def _finished(self, result: Any) -> bool:
        if self.kind == "ReAct":
            return (
                self._last_error is None and value(self._last_answer, "next_tool_name") == "finish"
            )
        if self.kind == "ReActV2":
            return value(result, "termination_reason") == "submit"
        if self.kind == "CodeAct":
            return bool(value(self._last_answer, "finished"))
        return self.kind == "ProgramOfThought" or not self._extracted

    def _is_step(self, module: Any) -> bool:
        own = instance_dict(self.agent)
        return any(own.get(name) is module for name in _STEP_PREDICTORS[self.kind])

    def _used_up(self) -> bool:
        return self.max_steps is not None and self.steps >= self.max_steps

    def _is_forced(self, arguments: Mapping[str, Any]) -> bool:
        # ReActV2's last attempt, after its steps: it forces the model to call "submit".
        return self.kind == "ReActV2" and "tool_choice" in (arguments.get("config") or ())

    def _record_tool_calls(self, answer: Any) -> None:
        calls = value(value(answer, "tool_calls"), "tool_calls") or ()
        self._tool_calls = list(self._identified(calls))

    def _identified(self, calls: Iterable[Any]) -> Iterable[tuple[str, str]]:
        tools: Any = instance_dict(self.agent).get("tools") or ()
        for index, call in enumerate(calls):
            name = str(value(call, "name"))
            if name in tools:
                # The id that ReActV2 assigns to a call without one.
                yield name, value(call, "id") or f"call_{self.step_index}_{index}"


_ENDING_TOOLS = {"ReAct": "finish", "ReActV2": "submit"}


def agent_kind(module_type: type) -> str | None:
    """Name of the DSPy agent that a class is or derives from; None for other modules."""
    kinds = (name for name in _STEP_PREDICTORS if issubclass(module_type, getattr(dspy, name, ())))
    return next(kinds, None)


def agent_record(kind: str, agent: Any, arguments: Mapping[str, Any]) -> AgentRecord:
    """The record of an agent's call that starts."""
    own = instance_dict(agent)
    # The name of RLM's option up to dspy 3.2.
    limit = arguments.get("max_iters", own.get("max_iters", own.get("max_iterations")))
    return AgentRecord(kind, agent, limit if isinstance(limit, int) else None)


def parameters_of_tools(agent: Any) -> Iterator[str]:
    """The parameter names of an agent's tools."""
    for tool in _tools_of(agent):
        yield from tool.args or ()


def _tools_of(agent: Any) -> Iterator[Any]:
    tools: Any = instance_dict(agent).get("tools") or ()
    held: Iterable[Any] = tools.values() if issubclass(type(tools), dict) else tools
    return (tool for tool in held if issubclass(type(tool), dspy.Tool))
