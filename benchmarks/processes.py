# Copyright The opentelemetry-instrumentation-dspy Authors
# SPDX-License-Identifier: Apache-2.0
"""Separate processes for measurements, so that no instrumentation meets another."""

from __future__ import annotations

import os
import traceback
from collections.abc import Callable, Mapping
from importlib import import_module
from multiprocessing import get_context
from multiprocessing.connection import Connection
from types import TracebackType
from typing import Any

_SPAWN = get_context("spawn")

QUIET = {
    # litellm would fetch its price list from the network.
    "LITELLM_LOCAL_MODEL_COST_MAP": "True",
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "DO_NOT_TRACK": "true",
    "MLFLOW_LOGGING_LEVEL": "CRITICAL",
    "PYTHONWARNINGS": "ignore",
    "PYTHONHASHSEED": "0",
}


class RemoteError(RuntimeError):
    """An exception of a measured process, with its traceback."""


class Worker:
    """An object in a new interpreter that runs one method at a time.

    Args:
        path: ``module:Class`` of the object.
        arguments: Arguments of the class.
        environment: Variables that are set before its module is imported.
    """

    def __init__(
        self, path: str, *arguments: Any, environment: Mapping[str, str] | None = None
    ) -> None:
        ours, theirs = _SPAWN.Pipe()
        self._pipe: Connection = ours
        self._process = _SPAWN.Process(
            target=_serve, args=(theirs, path, arguments, dict(environment or {})), daemon=False
        )
        self._process.start()
        theirs.close()
        self._receive()

    @property
    def process_id(self) -> int:
        assert self._process.pid is not None
        return self._process.pid

    def call(self, method: str, *arguments: Any) -> Any:
        """Call a method of the object, and return its result.

        Raises:
            RemoteError: The method raised.
        """
        self._pipe.send((method, arguments))
        return self._receive()

    def close(self) -> None:
        """End the process; its exit handlers run."""
        if not self._pipe.closed:
            self._pipe.close()
        self._process.join(60)
        if self._process.is_alive():
            self._process.kill()
            self._process.join()

    def __enter__(self) -> Worker:
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def _receive(self) -> Any:
        try:
            worked, result = self._pipe.recv()
        except EOFError:
            raise RemoteError("the measured process ended") from None
        if not worked:
            raise RemoteError(result)
        return result


def apart(
    path: str, *arguments: Any, environment: Mapping[str, str] | None = None, **options: Any
) -> Any:
    """Call ``module:function`` in a separate process, and return its result."""
    caller = "benchmarks.processes:Caller"
    with Worker(caller, path, arguments, options, environment=environment) as worker:
        return worker.call("result")


class Caller:
    """A function call that is made later."""

    def __init__(self, path: str, arguments: tuple[Any, ...], options: dict[str, Any]) -> None:
        self._function, self._arguments, self._options = _find(path), arguments, options

    def result(self) -> Any:
        return self._function(*self._arguments, **self._options)


def _serve(
    pipe: Connection, path: str, arguments: tuple[Any, ...], environment: dict[str, str]
) -> None:
    os.environ.update(QUIET)
    os.environ.update(environment)
    if not (made := _reply(pipe, lambda: _find(path)(*arguments), keep=True)):
        return
    target = made[0]
    while True:
        try:
            method, given = pipe.recv()
        except EOFError:
            return
        _reply(pipe, lambda m=method, g=given: getattr(target, m)(*g))


def _reply(pipe: Connection, function: Callable[[], Any], *, keep: bool = False) -> list[Any]:
    """Call the function; send the result, or keep it. Returns [result], or [] if it raised."""
    try:
        result = function()
    except Exception:
        pipe.send((False, traceback.format_exc()))
        return []
    pipe.send((True, None if keep else result))
    return [result]


def _find(path: str) -> Any:
    module, _, name = path.partition(":")
    return getattr(import_module(module), name)
