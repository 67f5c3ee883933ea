# Copyright The opentelemetry-instrumentation-dspy Authors
# SPDX-License-Identifier: Apache-2.0
"""Reading the objects of DSPy and of the program: attributes, items, and parts of collections."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from functools import lru_cache
from typing import Any, cast

_MAX_ITEMS = 256

NO_MODULES = frozenset({"history", "callbacks"})
"""Attributes that DSPy gives to every module, in which there is no other module to be found."""


def instance_dict(instance: object) -> dict[str, Any]:
    """What stands in the object itself, live; nothing from its class, no property is run."""
    # Not vars(): dspy.Module has a __getattribute__ in Python, which that would run.
    return object.__getattribute__(instance, "__dict__")


def value(source: Any, name: str, default: Any = None) -> Any:
    """An item of a mapping or an attribute of an object, whichever a release hands out."""
    kind: type[Any] = type(source)  # type: ignore[reportUnknownVariableType]
    if kind is dict or _is_mapping(kind):
        return source.get(name, default)
    return getattr(source, name, default)


@lru_cache(maxsize=512)
def _is_mapping(kind: type) -> bool:
    # Asking an abstract class is slow.
    return issubclass(kind, Mapping)


def items_in(value: Any) -> Iterable[tuple[str, Any]]:
    """Items of a list, tuple or dict of any class, each with its place as in ``named_parameters``.

    Nothing for anything else and for large collections, which hold data and not modules;
    ``[...]`` for a key of a dict that is not a text.
    """
    # The methods of the plain types, not the object's own; and a copy made in one go, since the
    # program may be changing the collection in another thread.
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
