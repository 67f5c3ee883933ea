# Copyright The opentelemetry-instrumentation-dspy Authors
# SPDX-License-Identifier: Apache-2.0
"""Settings of the bridge that are functions: given as such, or as text by their place."""

from __future__ import annotations

from collections.abc import Callable
from importlib import import_module
from inspect import isasyncgenfunction, iscoroutinefunction
from typing import Any, Final

_ACCEPTED: Final = "accepted: a function that is not async, or package.module:function as text"


def checked_function(name: str, value: Any) -> Callable[..., Any]:
    """The function in the value of a setting.

    Args:
        name: The name of the setting, for the error.
        value: A function, or the place of one.

    Raises:
        ValueError: There is no such function. The message names the setting and the value.
    """
    found = _function_at(name, value) if isinstance(value, str) else value
    if not callable(found) or _is_async(found) or _is_async(type(found).__call__):
        raise ValueError(f"{name} is {value!r}; {_ACCEPTED}")
    return found


def _function_at(name: str, place: str) -> Any:
    module, separator, path = place.strip().partition(":")
    if not separator:
        module, separator, path = place.strip().rpartition(".")
    if not (module and separator and path):
        raise ValueError(f"{name} is {place!r}; {_ACCEPTED}")
    try:
        found: Any = import_module(module)
        for part in path.split("."):
            found = getattr(found, part)
    # SystemExit too: a script without a guard may end the process while it is imported.
    except (Exception, SystemExit) as error:
        # Without the message of the error, which a module of the program may have filled.
        raise ValueError(
            f"{name} is {place!r}, which cannot be imported ({type(error).__name__}); {_ACCEPTED}"
        ) from None
    return found


def _is_async(function: Any) -> bool:
    return iscoroutinefunction(function) or isasyncgenfunction(function)
