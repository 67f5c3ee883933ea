# Copyright The opentelemetry-instrumentation-dspy Authors
# SPDX-License-Identifier: Apache-2.0
"""Sampling keys as numbers that are equal in every process and spread evenly."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from typing import Any, Final, cast

import orjson
from opentelemetry.context import Context
from opentelemetry.sdk.trace.sampling import TraceIdRatioBased
from pydantic import BaseModel

from mlflow_bridge._config.settings import Key
from mlflow_bridge._spans.trace_context import (
    identity_in,
)
from opentelemetry.instrumentation.dspy import DSPyCall, semconv

_IDENTITY: Final[Mapping[Key, str]] = {
    "session": semconv.SESSION_ID,
    "user": semconv.USER_ID,
    "conversation": semconv.GEN_AI_CONVERSATION_ID,
}
_DIGEST_BYTES: Final = 8


def is_in_share(number: int, share: float) -> bool:
    """Whether a 64-bit number belongs to this share, 0 to 1, of all numbers.

    The number then belongs to every larger share, too. Trace ids are compared as by the SDK's
    ratio sampler, so that both samplers choose the same traces.
    """
    return (number & TraceIdRatioBased.TRACE_ID_LIMIT) < TraceIdRatioBased.get_bound_for_rate(share)


def number_of(key: Any) -> int:
    """A 64-bit number for a key; keys with the same text have the same number."""
    text = str(key).encode("utf-8", "surrogatepass")
    return int.from_bytes(hashlib.blake2b(text, digest_size=_DIGEST_BYTES).digest(), "big")


def key_in(
    kind: Key, context: Context | None, call: DSPyCall | None, attributes: Mapping[str, Any]
) -> str | None:
    """The key of this kind for a trace that begins here; None if the trace has no such key."""
    name = _IDENTITY.get(kind)
    if name is not None:
        given = attributes.get(name)
        return str(given) if given is not None else identity_in(context).get(name)
    if kind == "inputs" and call is not None:
        return _inputs_of(call)
    return None


def _inputs_of(call: DSPyCall) -> str:
    given = [list(call.args), dict(call.kwargs)]
    options = orjson.OPT_SORT_KEYS | orjson.OPT_NON_STR_KEYS
    return orjson.dumps(given, default=_plain, option=options).decode()


def _plain(value: Any) -> Any:
    """A value in types that JSON has: records as dict, sets as a sorted list.

    Other values are represented by the name of their type, since their text may differ by process.
    """
    if isinstance(value, (set, frozenset)):
        return sorted(map(repr, cast("Iterable[object]", value)))
    items = getattr(value, "items", None)  # not isinstance: dspy.Example is not a Mapping
    if callable(items):
        found: Any = items()
        return dict(found)
    return vars(value) if isinstance(value, BaseModel) else type(value).__qualname__
