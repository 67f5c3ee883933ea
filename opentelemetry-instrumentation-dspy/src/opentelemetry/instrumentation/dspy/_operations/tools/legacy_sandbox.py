# Copyright The opentelemetry-instrumentation-dspy Authors
# SPDX-License-Identifier: Apache-2.0
"""Tools called by sandboxed code, in releases without a method for a single tool call.

Since 3.3.1 that method is ``invoke_tool``. Before, ``PythonInterpreter._handle_tool_call`` looks up
the tool in ``self.tools``, calls it, and sends its result or error to the sandbox. The patch
therefore passes it an interpreter with traced tools, without changing the real interpreter.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import wrapt

from opentelemetry.instrumentation.dspy._calls.call import Operation, Runtime
from opentelemetry.instrumentation.dspy._calls.frames import as_dspy_frame, hide_frame
from opentelemetry.instrumentation.dspy._patching.points import FunctionPatch
from opentelemetry.instrumentation.dspy._patching.replacements import traced

_FAILURE_MODULE = "dspy.primitives.code_interpreter"

ToolCall = Callable[[Any, str, tuple[Any, ...], dict[str, Any]], Any]


def tool_calls_patch(operation: Operation, effect: str) -> FunctionPatch:
    """A patch that traces the tools called by the interpreter's own handler."""

    def make(_original: Any, runtime: Runtime, owner: Any) -> Any:
        _hide, _view = hide_frame, _Interpreter
        _failure: Any = wrapt.resolve_path(_FAILURE_MODULE, "CodeInterpreterError")[2]  # type: ignore[reportUnknownMemberType]
        _call_tool = traced(_tool_call(_failure), operation, runtime, owner)

        def _handle_tool_call(self: Any, /, *args: Any, **kwargs: Any) -> Any:
            try:
                return _original(_view(self, _call_tool), *args, **kwargs)
            except BaseException as _error:
                _hide(_error)
                raise

        return as_dspy_frame(_handle_tool_call, _original)

    return FunctionPatch(
        "dspy.primitives.python_interpreter",
        "PythonInterpreter._handle_tool_call",
        make,
        effect,
        since=(3, 1, 2),
        until=(3, 3, 1),
    )


def _tool_call(failure: type[Exception]) -> ToolCall:
    # Named acall, since its result may be the coroutine of an async tool.
    def acall(
        interpreter: Any, tool_name: str, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> Any:
        if tool_name not in interpreter.tools:
            raise failure(f"Unknown tool: {tool_name}")  # like the handler itself
        return interpreter.tools[tool_name](*args, **kwargs)

    return acall


class _Interpreter:
    """An interpreter with traced tools; otherwise it behaves like the original."""

    def __init__(self, interpreter: Any, call_tool: ToolCall) -> None:
        object.__setattr__(self, "_interpreter", interpreter)
        object.__setattr__(self, "tools", _Tools(interpreter, call_tool))

    def __getattr__(self, name: str) -> Any:
        return getattr(self._interpreter, name)

    def __setattr__(self, name: str, attribute: Any) -> None:
        setattr(self._interpreter, name, attribute)


class _Tools:
    """The tools of an interpreter for its handler, which looks each up by name and calls it."""

    def __init__(self, interpreter: Any, call_tool: ToolCall) -> None:
        self._interpreter = interpreter
        self._call_tool = call_tool

    def __contains__(self, name: str) -> bool:
        return True  # the call of an unknown tool fails in its span

    def __getitem__(self, name: str) -> Callable[..., Any]:
        return partial(_spread, self._call_tool, self._interpreter, name)


def _spread(call_tool: ToolCall, interpreter: Any, name: str, *args: Any, **kwargs: Any) -> Any:
    return call_tool(interpreter, name, args, kwargs)
