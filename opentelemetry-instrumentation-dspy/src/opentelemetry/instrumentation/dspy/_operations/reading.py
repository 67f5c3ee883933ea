# Copyright The opentelemetry-instrumentation-dspy Authors
# SPDX-License-Identifier: Apache-2.0
"""Access to objects of DSPy and of the program: attributes, items, and items of collections."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, cast

from opentelemetry.instrumentation.dspy._calls.by_class import cached_by_class

_MAX_ITEMS = 256

NO_MODULES = frozenset({"history", "callbacks"})
"""Attributes that DSPy adds to every module and that contain no other module."""


def instance_dict(instance: object) -> dict[str, Any]:
    """The object's ``__dict__`` itself, not a copy; runs no property and no code of the class."""
    # Not vars(): it would run the __getattribute__ that dspy.Module has in Python.
    return object.__getattribute__(instance, "__dict__")


def value(source: Any, name: str, default: Any = None) -> Any:
    """An item of a mapping or an attribute of any other object; releases of DSPy use both."""
    kind: type[Any] = type(source)  # type: ignore[reportUnknownVariableType]
    if kind is dict or _is_mapping(kind):
        return source.get(name, default)
    return getattr(source, name, default)


@cached_by_class
def _is_mapping(kind: type) -> bool:
    # Cached: subclass checks of abstract classes are slow.
    return issubclass(kind, Mapping)


def items_in(value: Any) -> Iterable[tuple[str, Any]]:
    """Items of a list, tuple or dict of any class, with their path as in ``named_parameters``.

    Empty for other values and for large collections, which contain data, not modules. The path
    of a dict's item is ``[...]`` if its key is not a str.
    """
    # Methods of the builtin types, so that no code of the object runs. The copy is made in one
    # call, since the program may change the collection in another thread.
    kind: type[Any] = type(value)  # type: ignore[reportUnknownVariableType]
    if issubclass(kind, list):
        if list[Any].__len__(cast("list[Any]", value)) > _MAX_ITEMS:
            return ()
        return _numbered(list[Any].copy(cast("list[Any]", value)))
    if issubclass(kind, tuple):
        if tuple[Any, ...].__len__(cast("tuple[Any, ...]", value)) > _MAX_ITEMS:
            return ()
        return _numbered(list(tuple[Any, ...].__iter__(cast("tuple[Any, ...]", value))))
    if issubclass(kind, dict):
        if dict[Any, Any].__len__(cast("dict[Any, Any]", value)) > _MAX_ITEMS:
            return ()
        items = list(dict[Any, Any].items(cast("dict[Any, Any]", value)))
        return [(_place(key), item) for key, item in items]
    return ()


def _numbered(items: list[Any]) -> Iterable[tuple[str, Any]]:
    return ((f"[{index}]", item) for index, item in enumerate(items))


def _place(key: Any) -> str:
    return f"[{key!r}]" if type(key) is str else "[...]"
