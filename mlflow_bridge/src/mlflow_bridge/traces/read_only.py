# Copyright The opentelemetry-instrumentation-dspy Authors
# SPDX-License-Identifier: Apache-2.0
"""Values that cannot be changed, since several threads have the same finished trace.

The values are a `dict` and a `list` all the same: they compare, encode as JSON and pickle like
those that a program has itself.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NoReturn, cast


def _refuse(self: object, *_: object, **__: object) -> NoReturn:
    raise TypeError("a finished trace cannot be changed; make a copy of the value: dict(...)")


class ReadOnlyDict(dict[str, Any]):
    """A mapping that cannot be changed; ``copy()`` returns a dict that can be."""

    __slots__ = ()

    __setitem__ = __delitem__ = __ior__ = _refuse
    clear = pop = popitem = setdefault = update = _refuse  # pyright: ignore[reportAssignmentType]

    def __reduce__(self) -> tuple[Any, ...]:
        return ReadOnlyDict, (dict(self),)


class ReadOnlyList(list[Any]):
    """A list that cannot be changed; ``copy()`` returns a list that can be."""

    __slots__ = ()

    __setitem__ = __delitem__ = __iadd__ = __imul__ = _refuse  # pyright: ignore[reportAssignmentType]
    append = extend = insert = remove = clear = _refuse
    pop = sort = reverse = _refuse

    def __reduce__(self) -> tuple[Any, ...]:
        return ReadOnlyList, (list(self),)


def read_only(value: Any) -> Any:
    """The value with each mapping and list in it replaced by a copy that cannot be changed."""
    if isinstance(value, Mapping):
        return read_only_mapping(cast("Mapping[Any, Any]", value))
    if isinstance(value, (list, tuple)):
        return ReadOnlyList(map(read_only, cast("list[Any]", value)))
    return value


def read_only_mapping(value: Mapping[Any, Any]) -> ReadOnlyDict:
    """A copy of a mapping that cannot be changed, with text as keys."""
    return ReadOnlyDict({str(key): read_only(item) for key, item in value.items()})
