# Copyright The opentelemetry-instrumentation-dspy Authors
# SPDX-License-Identifier: Apache-2.0
"""The process behind ``dspy.PythonInterpreter``, without Deno and without being a sandbox.

It takes the place of Deno with DSPy's runner and speaks the protocols of dspy 3.0 to 3.4 on its
standard input and output; the code runs in its own Python::

    with PythonInterpreter(deno_command=DENO_COMMAND) as interpreter:
        interpreter.execute("print(1 + 1)")
"""

from __future__ import annotations

import contextlib
import io
import json
import sys
from collections.abc import Callable
from typing import Any

DENO_COMMAND = [sys.executable, "-I", __file__]

_ERROR_CODES = {"SyntaxError": -32000, "NameError": -32001, "TypeError": -32002}
_OTHER_ERROR = -32099


class _SubmittedError(Exception):
    """What SUBMIT raises to leave the code."""


class _Sandbox:
    def __init__(self) -> None:
        self._names: dict[str, Any] = {"SUBMIT": _submit}
        self._calls = 0

    def serve(self) -> None:
        while line := sys.stdin.readline():
            message = json.loads(line)
            if message.get("shutdown") or message.get("method") == "shutdown":
                return
            if "jsonrpc" in message:
                self._answer(message)
            else:
                _send(self._plain_outcome(message["code"]))

    def _answer(self, message: dict[str, Any]) -> None:
        parameters = message.get("params", {})
        if message["method"] == "execute":
            outcome = self._outcome(parameters["code"])
        else:
            for tool in parameters.get("tools", ()):
                self._names[tool["name"]] = self._tool(tool["name"])
            outcome = {"result": {}}
        _send({"jsonrpc": "2.0", "id": message["id"], **outcome})

    def _outcome(self, code: str) -> dict[str, Any]:
        try:
            return {"result": {"output": self._run(code)}}
        except _SubmittedError as submitted:
            return {"result": {"final": submitted.args[0]}}
        except Exception as error:
            kind = type(error).__name__
            data = {"type": kind, "args": [str(arg) for arg in error.args]}
            number = _ERROR_CODES.get(kind, _OTHER_ERROR)
            return {"error": {"code": number, "message": str(error), "data": data}}

    def _plain_outcome(self, code: str) -> dict[str, Any]:
        """In the protocol of dspy 3.0."""
        try:
            return {"output": self._run(code)}
        except Exception as error:
            return {"error": str(error), "errorType": type(error).__name__}

    def _run(self, code: str) -> str:
        printed = io.StringIO()
        with contextlib.redirect_stdout(printed):
            exec(compile(code, "<sandbox>", "exec"), self._names)
        return printed.getvalue()

    def _tool(self, name: str) -> Callable[..., Any]:
        def call(**kwargs: Any) -> Any:
            self._calls += 1
            parameters = {"name": name, "args": [], "kwargs": kwargs}
            request = {"jsonrpc": "2.0", "method": "tool_call", "params": parameters}
            _send({**request, "id": f"tool-{self._calls}"})
            reply = json.loads(sys.stdin.readline())
            if "error" in reply:
                raise RuntimeError(reply["error"]["message"])
            result = reply["result"]
            return json.loads(result["value"]) if result["type"] == "json" else result["value"]

        return call


def _submit(**values: Any) -> None:
    raise _SubmittedError(values)


def _send(message: dict[str, Any]) -> None:
    print(json.dumps(message), file=sys.__stdout__, flush=True)


if __name__ == "__main__":
    _Sandbox().serve()
