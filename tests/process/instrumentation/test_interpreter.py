# Copyright The opentelemetry-instrumentation-dspy Authors
# SPDX-License-Identifier: Apache-2.0
"""Code that interpreters run, and the tools that it calls."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import dspy
import pytest
from dspy.primitives.python_interpreter import PythonInterpreter
from dspy.utils import DummyLM
from packaging.version import Version

from tests.support.fake_sandbox import DENO_COMMAND
from tests.support.lms import DSPY
from tests.support.span_tree import assert_one_tree
from tests.support.traced import Traced, everything_in, uninstrument

pytestmark = [
    pytest.mark.surface("PythonInterpreter"),
    pytest.mark.surface("tool of interpreted code"),
]

HAS_TOOLS = Version("3.1.2") <= DSPY
HAS_INVOKE_TOOL = Version("3.3.1") <= DSPY
HAS_ASYNC_TOOLS = Version("3.3") <= DSPY
HAS_LOCAL = Version("3.4") <= DSPY
HAS_SUBMIT = Version("3.1.2") <= DSPY

needs_tools = pytest.mark.skipif(not HAS_TOOLS, reason="dspy < 3.1.2: no tools in the sandbox")
needs_local = pytest.mark.skipif(not HAS_LOCAL, reason="dspy < 3.4: no LocalInterpreter")
needs_rlm = pytest.mark.skipif(Version("3.1.2") > DSPY, reason="dspy < 3.1.2: no RLM")


def weather(city: str) -> str:
    """The weather in a city."""
    return f"rain in {city}"


def failing(city: str) -> str:
    raise LookupError(f"no such city: {city}")


def _interpreters() -> list[Any]:
    local = pytest.param("LocalInterpreter", marks=needs_local)
    return [pytest.param("PythonInterpreter"), local]


def each(traced: Traced, name: str) -> list[Any]:
    """One attribute of all spans in the order of their end; None where a span lacks it."""
    return [(span.attributes or {}).get(name) for span in traced.spans]


def make(kind: str, **options: Any) -> Any:
    if kind == "PythonInterpreter":
        return PythonInterpreter(deno_command=DENO_COMMAND, **options)
    return dspy.LocalInterpreter(**options)


@pytest.fixture(params=_interpreters())
def kind(request: pytest.FixtureRequest) -> str:
    return request.param


@pytest.fixture
def sandbox() -> Iterator[PythonInterpreter]:
    with make("PythonInterpreter") as interpreter:
        yield interpreter


def test_code_is_one_span(traced: Traced, kind: str) -> None:
    with make(kind) as interpreter:
        result = interpreter.execute("print(x + 1)", {"x": 41})
    assert result.strip() == "42"
    assert traced.kinds() == f"run_code {kind} [INTERNAL]"
    attributes = traced.attributes(f"run_code {kind}")
    assert json.loads(attributes.pop("dspy.interpreter.output")).strip() == "42"
    assert json.loads(attributes.pop("dspy.interpreter.input")) == {
        "code": "print(x + 1)",
        "variables": {"x": 41},
    }
    assert attributes == {
        "dspy.operation": "interpreter",
        "dspy.interpreter.type": kind,
        "dspy.interpreter.language": "python",
    }


def test_calling_the_interpreter_is_the_same(traced: Traced, kind: str) -> None:
    with make(kind) as interpreter:
        interpreter("x = 1")
        interpreter(code="print(x)", variables={})
    assert traced.names() == [f"run_code {kind}"] * 2
    assert each(traced, "dspy.interpreter.input") == ['{"code":"x = 1"}', '{"code":"print(x)"}']


def test_an_error_in_the_code(traced: Traced, kind: str) -> None:
    with make(kind) as interpreter, pytest.raises(RuntimeError, match="1 is too few") as caught:
        interpreter.execute("raise ValueError('1 is too few')")
    error = type(caught.value)
    name = f"run_code {kind}"
    assert traced.attributes(name)["error.type"] == f"{error.__module__}.{error.__qualname__}"
    assert "1 is too few" in (traced.span(name).status.description or "")


def test_code_that_is_no_python(traced: Traced, kind: str) -> None:
    with make(kind) as interpreter, pytest.raises(SyntaxError):
        interpreter.execute("1 +")
    assert traced.attributes(f"run_code {kind}")["error.type"] == "SyntaxError"


@pytest.mark.skipif(not HAS_SUBMIT, reason="dspy < 3.1.2: no SUBMIT")
def test_submitting_is_said_without_content(trace_with: Any, kind: str) -> None:
    for content in (True, False):
        traced = trace_with(capture_content=content)
        with make(kind, output_fields=[{"name": "answer"}]) as interpreter:
            result = interpreter.execute("SUBMIT(answer='blue')")
        assert result.output == {"answer": "blue"}
        attributes = traced.attributes(f"run_code {kind}")
        assert attributes["dspy.interpreter.submitted"] is True
        shown = attributes.get("dspy.interpreter.output")
        assert shown == ('{"answer":"blue"}' if content else None)


@needs_tools
def test_a_function_called_by_the_code_is_a_tool(traced: Traced, kind: str) -> None:
    with make(kind, tools={"weather": weather}) as interpreter:
        result = interpreter.execute("print(weather(city='Oslo'))")
    assert result.strip() == "rain in Oslo"
    assert traced.tree() == f"run_code {kind}\n└─ execute_tool weather"
    assert_one_tree(traced.spans)
    assert traced.attributes("execute_tool weather") == {
        "dspy.operation": "tool",
        "gen_ai.operation.name": "execute_tool",
        "gen_ai.tool.name": "weather",
        "gen_ai.tool.type": "function",
        "dspy.tool.source": "function",
        "gen_ai.tool.call.arguments": '{"city":"Oslo"}',
        "gen_ai.tool.call.result": '"rain in Oslo"',
    }


@needs_local
def test_positional_arguments_of_a_tool(traced: Traced) -> None:
    with make("LocalInterpreter", tools={"weather": weather}) as interpreter:
        interpreter.execute("weather('Oslo')")
    assert traced.content("execute_tool weather", "gen_ai.tool.call.arguments") == {"city": "Oslo"}


@needs_local
def test_a_secret_by_position(traced: Traced) -> None:
    def login(user: str, password: str, *more: str) -> str:
        return f"{user} is in"

    interpreter = make("LocalInterpreter", tools={"login": login})
    code = "key = 'correct-' + 'horse'\nlogin('ada', key, 'a', 'b')"
    interpreter.execute(code)
    assert traced.content("execute_tool login", "gen_ai.tool.call.arguments") == {
        "user": "ada",
        "password": "[REDACTED]",
        "args": ["a", "b"],
    }
    assert "correct-horse" not in everything_in(traced.spans)


@pytest.mark.skipif(not HAS_ASYNC_TOOLS, reason="dspy < 3.3: no async tools in the sandbox")
def test_an_async_tool(traced: Traced, kind: str) -> None:
    async def weather(city: str) -> str:
        return f"sun in {city}"

    with make(kind, tools={"weather": weather}) as interpreter:
        interpreter.execute("print(weather(city='Rome'))")
    assert traced.content("execute_tool weather", "gen_ai.tool.call.result") == "sun in Rome"


@needs_tools
def test_a_tool_that_fails_fails_alone(traced: Traced, kind: str) -> None:
    code = "try:\n    failing(city='x')\nexcept Exception as error:\n    print('caught', error)"
    with make(kind, tools={"failing": failing}) as interpreter:
        result = interpreter.execute(code)
    assert "no such city: x" in result
    assert traced.tree() == (f"run_code {kind}\n└─ execute_tool failing ERROR(LookupError)")


@needs_tools
def test_a_dspy_tool_has_one_span(traced: Traced, kind: str) -> None:
    tool = dspy.Tool(weather)
    with make(kind, tools={"weather": tool, "bound": tool.__call__}) as interpreter:
        interpreter.execute("weather(city='Oslo')\nbound(city='Rome')")
    assert traced.tree() == (f"run_code {kind}\n├─ execute_tool weather\n└─ execute_tool weather")
    results = each(traced, "gen_ai.tool.call.result")
    assert results == ['"rain in Oslo"', '"rain in Rome"', None]


@needs_tools
def test_a_tool_that_is_gone(traced: Traced) -> None:
    code = "try:\n    weather(city='Oslo')\nexcept Exception as error:\n    print(error)"
    with make("PythonInterpreter", tools={"weather": weather}) as interpreter:
        interpreter.execute("print(weather(city='Oslo'))")
        del interpreter.tools["weather"]
        result = interpreter.execute(code)
    assert "Unknown tool: weather" in result
    unknown = traced.attributes("execute_tool unknown")
    assert unknown["error.type"].endswith(".CodeInterpreterError")


@needs_tools
def test_the_interpreter_is_the_tools_own(traced: Traced) -> None:
    """A tool that looks at its interpreter, and puts another tool in its place, sees no other."""
    seen: list[Any] = []

    def replacing() -> str:
        seen.append((type(interpreter.tools), interpreter.tools["replacing"] is replacing))
        interpreter.tools["replacing"] = lambda: "another"
        return "first"

    tools = {"replacing": replacing}
    with make("PythonInterpreter", tools=tools) as interpreter:
        assert interpreter.execute("print(replacing(), replacing())").strip() == "first another"
    assert seen == [(dict, True)]
    assert traced.names()[:2] == ["execute_tool replacing"] * 2


@pytest.mark.skipif(not HAS_INVOKE_TOOL, reason="dspy < 3.3.1: no invoke_tool")
def test_a_tool_that_is_not_there(traced: Traced, kind: str) -> None:
    arguments = [{}] if kind == "PythonInterpreter" else [[], {}]
    with make(kind) as interpreter, pytest.raises(RuntimeError, match="Unknown tool"):
        interpreter.invoke_tool("made_up_by_the_code", *arguments)
    assert traced.names() == ["execute_tool unknown"]


@needs_rlm
def test_the_tools_of_an_agent_in_the_sandbox(traced: Traced) -> None:
    code = "found = weather(city='Oslo')\nSUBMIT(answer=found + ', ' + llm_query(prompt='sure?'))"
    lm = DummyLM([{"reasoning": "Look it up.", "code": code}, {"answer": "yes"}])
    sandbox = {"interpreter": make("PythonInterpreter")}
    if Version("3.3") <= DSPY:
        sandbox = {"interpreter_factory": lambda: make("PythonInterpreter")}
    with dspy.context(lm=lm):
        rlm = dspy.RLM("question -> answer", tools=[weather], **sandbox)
        answer = rlm(question="How is the weather in Oslo?").answer
    assert answer.startswith("rain in Oslo, ")
    assert assert_one_tree(traced.spans).name == "invoke_agent RLM question -> answer"
    tools = [name for name in traced.names() if name.startswith("execute_tool")]
    assert tools == ["execute_tool weather", "execute_tool llm_query"]
    weathers = traced.attributes("execute_tool weather")
    assert weathers["gen_ai.tool.call.arguments"] == '{"city":"Oslo"}'
    assert weathers["gen_ai.tool.call.result"] == '"rain in Oslo"'
    assert weathers["dspy.agent.step.index"] == 0


@needs_local
def test_an_agent_that_writes_code(traced: Traced) -> None:
    """RLM calls its tools through closures of its own around ``dspy.Tool``."""
    code = "found = weather(city='Oslo')\nSUBMIT(answer=found + ', ' + llm_query('sure?'))"
    lm = DummyLM([{"reasoning": "Look it up.", "code": code}, {"answer": "yes"}])
    rlm = dspy.RLM("question -> answer", tools=[weather], interpreter_factory=dspy.LocalInterpreter)
    with dspy.context(lm=lm):
        answer = rlm(question="How is the weather in Oslo?").answer
    assert answer.startswith("rain in Oslo, ")
    root = assert_one_tree(traced.spans)
    assert root.name == "invoke_agent RLM question -> answer"
    tools = [name for name in traced.names() if name.startswith("execute_tool")]
    assert tools == ["execute_tool weather", "execute_tool llm_query"]
    assert each(traced, "dspy.interpreter.submitted").count(True) == 1


def test_no_content(trace_with: Any, kind: str) -> None:
    traced = trace_with(capture_content=False)
    canary = "canary-5f1e"
    tools = {"tools": {"weather": weather}} if HAS_TOOLS else {}
    with make(kind, **tools) as interpreter:
        interpreter.execute(f"print('{canary}')", {"x": canary})
        if HAS_TOOLS:
            interpreter.execute(f"weather(city='{canary}')")
        with pytest.raises(RuntimeError):
            interpreter.execute(f"raise ValueError('{canary}')")
    assert len(traced.spans) == (4 if HAS_TOOLS else 2)
    assert canary not in everything_in(traced.spans)


def test_secrets_among_the_variables(traced: Traced, sandbox: PythonInterpreter) -> None:
    sandbox.execute("print(1)", {"api_key": "value-of-the-key"})
    assert "value-of-the-key" not in everything_in(traced.spans)


def test_a_subclass_that_does_it_all_itself(traced: Traced) -> None:
    class Calculator(PythonInterpreter):
        def execute(self, code: str, variables: Any = None) -> Any:
            return 42

    assert Calculator(deno_command=DENO_COMMAND).execute("6 * 7") == 42
    assert traced.attributes("run_code Calculator")["dspy.interpreter.output"] == "42"


def test_uninstrumented_as_before(trace_with: Any) -> None:
    classes = [PythonInterpreter, *([dspy.LocalInterpreter] if HAS_LOCAL else [])]
    before = [dict(vars(cls)) for cls in classes]
    traced = trace_with()
    assert [dict(vars(cls)) for cls in classes] != before
    uninstrument()
    assert [dict(vars(cls)) for cls in classes] == before
    with make("PythonInterpreter") as interpreter:
        interpreter.execute("print(1)")
    assert traced.spans == []
