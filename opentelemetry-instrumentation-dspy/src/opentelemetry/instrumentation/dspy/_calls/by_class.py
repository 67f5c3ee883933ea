# Copyright The opentelemetry-instrumentation-dspy Authors
# SPDX-License-Identifier: Apache-2.0
"""Facts of a class, computed once."""

from __future__ import annotations

import weakref
from collections.abc import Callable
from typing import TypeVar

_Result = TypeVar("_Result")


def cached_by_class(compute: Callable[[type], _Result]) -> Callable[[type], _Result]:
    """``compute``, with a cache that does not keep classes alive, unlike `functools.lru_cache`.

    A class keeps the globals of its methods, and so the whole module of a program that may long
    have been replaced by a new one. The result must not refer to the class either.
    """
    # By id, since a metaclass may define equality.
    known: dict[int, tuple[weakref.ref[type], _Result]] = {}

    def look_up(kind: type) -> _Result:
        entry = known.get(id(kind))
        if entry is not None and entry[0]() is kind:
            return entry[1]
        key, result = id(kind), compute(kind)
        known[key] = weakref.ref(kind, lambda _: known.pop(key, None)), result
        return result

    return look_up
