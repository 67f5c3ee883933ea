# Copyright The opentelemetry-instrumentation-dspy Authors
# SPDX-License-Identifier: Apache-2.0
"""Settings that are functions: given as such, or in the environment by their place."""

from __future__ import annotations

import importlib
import inspect
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Any, Final, TypeAlias, cast

from opentelemetry.instrumentation.dspy._guarding import pass_by_value

ModulePredicate: TypeAlias = Callable[[str], Any]
"""Called with the name of a module's class; the result is true if its calls are recorded."""

TraceCondition: TypeAlias = Callable[[Mapping[str, Any]], Any]
"""Called with the arguments of an outermost call; the result is true if the call is recorded."""

Sanitizer: TypeAlias = Callable[[dict[str, Any]], Mapping[str, Any]]
"""Called with a copy of inputs or outputs by name; returns what to record instead."""

ModuleFilterSetting: TypeAlias = (
    "str | ModulePredicate | ModuleFilter | Sequence[str | ModulePredicate]"
)

_PLACE: Final = "package.module:function"
_ACCEPTED_FUNCTION: Final = f"a function that is not async, or {_PLACE} as text"
_ACCEPTED_FILTER: Final = (
    "the name of a class, a pattern such as Chat*, a function that is not async, "
    f"{_PLACE} as text, or a list of these"
)


@dataclass(frozen=True, slots=True)
class ModuleFilter:
    """The modules whose calls are recorded: those that one of the parts selects.

    Attributes:
        patterns: Names of classes, and patterns as in `fnmatch`; upper and lower case differ.
        predicates: Functions that get the name of a class.
    """

    patterns: tuple[str, ...] = ()
    predicates: tuple[ModulePredicate, ...] = ()

    def has_name(self, name: str) -> bool:
        """Whether a pattern selects this name."""
        return any(fnmatchcase(name, pattern) for pattern in self.patterns)


def parse_module_filter(setting: Any) -> ModuleFilter:
    """The parts in a value of ``module_filter``.

    Raises:
        ValueError: A part is not accepted or cannot be imported, or there is none.
    """
    if isinstance(setting, ModuleFilter):
        return setting
    patterns: list[str] = []
    predicates: list[ModulePredicate] = []
    for item in _items(setting):
        if not isinstance(item, str):
            predicates.append(_checked("module_filter", item, _ACCEPTED_FILTER))
        elif "." in item or ":" in item:  # which no name of a class has
            found = function_at("module_filter", item, _ACCEPTED_FILTER)
            predicates.append(_checked("module_filter", found, _ACCEPTED_FILTER))
        else:
            patterns.append(item)
    if not patterns and not predicates:
        raise ValueError(f"module_filter is {setting!r}; accepted: {_ACCEPTED_FILTER}")
    return ModuleFilter(tuple(patterns), tuple(predicates))


def parse_function(name: str, setting: Any) -> Callable[..., Any]:
    """The function in the value of a setting.

    Raises:
        ValueError: The value is neither a function nor the place of one.
    """
    found = function_at(name, setting, _ACCEPTED_FUNCTION) if isinstance(setting, str) else setting
    return _checked(name, found, _ACCEPTED_FUNCTION)


def function_at(name: str, place: str, accepted: str) -> Callable[..., Any]:
    """The function at ``package.module:function`` or ``package.module.function``.

    Raises:
        ValueError: There is none, or its import fails.
    """
    text = place.strip()
    module, separator, path = text.partition(":")
    if not separator:
        module, separator, path = text.rpartition(".")
    if not (module and separator and path):
        raise ValueError(f"{name} is {place!r}; accepted: {accepted}")
    try:
        found: Any = importlib.import_module(module)
        for part in path.split("."):
            found = getattr(found, part)
    except BaseException as error:  # a module may raise anything, SystemExit included
        pass_by_value(error)
        raise ValueError(
            f"{name} is {place!r}, which cannot be imported ({type(error).__name__}: {error}); "
            f"accepted: {accepted}"
        ) from None
    if not callable(found):
        raise ValueError(f"{name} is {place!r}, which is not a function; accepted: {accepted}")
    return found


def select_nothing(name: str) -> bool:
    """The predicate in place of a ``module_filter`` that cannot be used: nothing is recorded."""
    return False


def record_nothing(inputs: Mapping[str, Any]) -> bool:
    """The condition in place of a ``trace_condition`` that cannot be used."""
    return False


def _items(setting: Any) -> Iterable[Any]:
    if isinstance(setting, str):
        return filter(None, (part.strip() for part in setting.split(",")))
    if isinstance(setting, (list, tuple, set, frozenset)):
        given = cast("Iterable[Any]", setting)
        return [part for item in given for part in (_items(item) if type(item) is str else [item])]
    return (setting,)


def _checked(name: str, setting: Any, accepted: str) -> Callable[..., Any]:
    # The result of an async function would count as true.
    if not callable(setting) or _is_async(setting) or _is_async(type(setting).__call__):
        raise ValueError(f"{name} is {setting!r}; accepted: {accepted}")
    return setting


def _is_async(function: Any) -> bool:
    return inspect.iscoroutinefunction(function) or inspect.isasyncgenfunction(function)
