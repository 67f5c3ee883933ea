# Copyright The opentelemetry-instrumentation-dspy Authors
# SPDX-License-Identifier: Apache-2.0
"""The hash of a program's compiled state, which identifies the version that made a trace."""

from __future__ import annotations

import hashlib
import weakref
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache, partial
from typing import Any, TypeAlias

import dspy
from opentelemetry.instrumentation.dspy._content.encoder import canonical_json
from opentelemetry.instrumentation.dspy._operations.modules.signature import describe_signature
from opentelemetry.instrumentation.dspy._operations.reading import (
    NO_MODULES,
    instance_dict,
    items_in,
)
from opentelemetry.instrumentation.dspy.semconv import DSPY_PROGRAM_HASH

_Sources: TypeAlias = "tuple[Callable[[], Any], ...]"

# The types of most attributes of a module, which cannot contain modules.
_SCALARS = frozenset({str, int, float, bool, type(None)})
# Limit for nested collections, since a collection may contain itself.
_MAX_NESTING = 3


def program_hash(program: Any) -> str | None:
    """First 12 hex digits of a SHA-256 over each predictor's path, signature, demos and options.

    The hash is the same in every process and for copies of the program. It changes if compiling,
    loading or the user's code changes one of these. None for a program without predictors.
    """
    if issubclass(type(program), dspy.Predict):
        parts = [("", _digest(program))]
    else:
        parts = sorted([(path, _digest(predictor)) for path, predictor in _predictors(program)])
    if not parts:
        return None
    return _hash_of(tuple(parts))


def put_program_hash(attributes: dict[str, Any], program: Any) -> None:
    """Add the hash of a program to attributes, if the program is a module with predictors."""
    digest = program_hash(program) if isinstance(program, dspy.Module) else None
    if digest is not None:
        attributes[DSPY_PROGRAM_HASH] = digest


@lru_cache(maxsize=256)
def _hash_of(parts: tuple[tuple[str, str], ...]) -> str:
    return hashlib.sha256(repr(list(parts)).encode()).hexdigest()[:12]


def _predictors(program: Any) -> Iterator[tuple[str, Any]]:
    pending: list[tuple[str, Any]] = [("", program)]
    seen: set[int] = set()
    while pending:
        path, module = pending.pop()
        if id(module) in seen:
            continue
        seen.add(id(module))
        if issubclass(type(module), dspy.Predict):
            yield path, module
        else:
            attributes = instance_dict(module).items()
            items = [
                (f"{path}.{name}", value)
                for name, value in attributes
                if type(value) not in _SCALARS and name not in NO_MODULES
            ]
            pending.extend(_modules(items, _MAX_NESTING))


def _modules(items: Iterable[tuple[str, Any]], depth: int) -> Iterator[tuple[str, Any]]:
    """The modules among the items and in their collections."""
    for path, value in items:
        if type(value) in _SCALARS:
            continue
        if issubclass(type(value), dspy.Module):
            yield path, value
        elif depth:
            inner = [(path + place, item) for place, item in items_in(value)]
            yield from _modules(inner, depth - 1)


@dataclass(frozen=True, slots=True)
class _State:
    """A predictor's digest and its sources: what returns the objects themselves, if they exist.

    The objects may refer to the predictor, which the cache would then keep alive.
    """

    fingerprint: str
    demos: _Sources
    options: _Sources
    digest: str


_states: weakref.WeakKeyDictionary[Any, _State] = weakref.WeakKeyDictionary()


def _digest(predictor: Any) -> str:
    own = instance_dict(predictor)
    signature = describe_signature(own.get("signature"))
    fingerprint = signature.fingerprint if signature is not None else ""
    demos = own.get("demos") or ()
    options = _options(own)
    # Only predictors hashed by identity are cached, since any other hash runs user code.
    remembers = type(predictor).__hash__ is object.__hash__
    state = _states.get(predictor) if remembers else None
    if (
        state is None
        or state.fingerprint != fingerprint
        or not _same(state.demos, demos)
        or not _same(state.options, options)
    ):
        demos = tuple(demos)
        text = canonical_json([fingerprint, demos, own.get("config"), own.get("fields")])
        digest = hashlib.sha256(text).hexdigest()[:16]
        if remembers:
            _remember(predictor, fingerprint, demos, options, digest)
        return digest
    return state.digest


def _remember(
    predictor: Any, fingerprint: str, demos: Sequence[Any], options: Sequence[Any], digest: str
) -> None:
    sources = _sources(demos), _sources(options)
    if sources[0] is None or sources[1] is None:
        _states.pop(predictor, None)
    else:
        _states[predictor] = _State(fingerprint, sources[0], sources[1], digest)


def _sources(objects: Sequence[Any]) -> _Sources | None:
    """Functions that return the objects and keep no others alive; None if that is not possible."""
    found: list[Callable[[], Any]] = []
    for item in objects:
        if _is_plain(item, _MAX_NESTING):
            found.append(partial(_itself, item))
        else:
            try:
                found.append(weakref.ref(item))
            except TypeError:
                return None
    return tuple(found)


def _itself(item: Any) -> Any:
    return item


def _is_plain(item: Any, depth: int) -> bool:
    """Whether an object is JSON's own, and so refers to nothing of the program."""
    kind: type[Any] = type(item)  # type: ignore[reportUnknownVariableType]
    if kind in _SCALARS:
        return True
    if kind not in (list, dict, tuple) or not depth:
        return False
    inner: Iterable[Any] = item
    if kind is dict:
        inner = [part for pair in item.items() for part in pair]
    return all(_is_plain(part, depth - 1) for part in inner)


def _options(own: dict[str, Any]) -> tuple[Any, ...]:
    # "fields" holds the criteria of decisions since dspy 3.4.
    config: dict[str, Any] = own.get("config") or {}
    fields: dict[str, Any] = own.get("fields") or {}
    if not config and not fields:
        return ()
    items = [*config.items(), *fields.items()]
    return tuple(part for item in items for part in item)


def _same(known: _Sources, given: Sequence[Any]) -> bool:
    if not known:
        return not given
    if len(known) != len(given):
        return False
    return all(source() is item for source, item in zip(known, given, strict=True))
