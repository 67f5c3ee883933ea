# Copyright The opentelemetry-instrumentation-dspy Authors
# SPDX-License-Identifier: Apache-2.0
"""Attributes of objects and items of collections, read without running any code of theirs."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, cast

_MAX_ITEMS = 256


def own_attributes(instance: object) -> dict[str, Any]:
    """What stands in the object itself, live; nothing from its class, no property is run."""
    return vars(instance)


def items_in(value: Any) -> Iterable[tuple[str, Any]]:
    """Items of a list, tuple or dict of any class, each with its place as in ``named_parameters``.

    Nothing for anything else and for large collections, which hold data and not modules;
    ``[...]`` for a key of a dict that is not a text.
    """
    # The methods of the plain types, not the object's own; and a copy made in one go, since the
    # program may be changing the collection in another thread.
    if isinstance(value, list):
        return _numbered(list[Any].copy(cast("list[Any]", value)))
    if isinstance(value, tuple):
        return _numbered(list(tuple[Any, ...].__iter__(cast("tuple[Any, ...]", value))))
    if isinstance(value, dict):
        items = list(dict[Any, Any].items(cast("dict[Any, Any]", value)))
        return [(_place(key), item) for key, item in items] if len(items) <= _MAX_ITEMS else ()
    return ()


def _numbered(items: list[Any]) -> Iterable[tuple[str, Any]]:
    if len(items) > _MAX_ITEMS:
        return ()
    return ((f"[{index}]", item) for index, item in enumerate(items))


def _place(key: Any) -> str:
    return f"[{key!r}]" if type(key) is str else "[...]"
