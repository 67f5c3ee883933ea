# Copyright The opentelemetry-instrumentation-dspy Authors
# SPDX-License-Identifier: Apache-2.0
"""What a trace is chosen by, as a number: the same in every process, spread evenly."""

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
    """Whether a number of 64 bits is among that share of all numbers.

    It is then also among every larger share. The ids of traces are compared as the SDK's own
    sampler does it, so that both choose the same.
    """
    return (number & TraceIdRatioBased.TRACE_ID_LIMIT) < TraceIdRatioBased.get_bound_for_rate(share)


def number_of(key: Any) -> int:
    """A number of 64 bits for a key, told by its text."""
    text = str(key).encode("utf-8", "surrogatepass")
    return int.from_bytes(hashlib.blake2b(text, digest_size=_DIGEST_BYTES).digest(), "big")


def key_in(
    kind: Key, context: Context | None, call: DSPyCall | None, attributes: Mapping[str, Any]
) -> str | None:
    """The key of this kind that a trace has which begins here; None where it has none."""
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
    """A record as a mapping, a set in an order; anything else by its type alone."""
    if isinstance(value, (set, frozenset)):
        return sorted(map(repr, cast("Iterable[object]", value)))
    items = getattr(value, "items", None)  # dspy.Example is no Mapping
    if callable(items):
        found: Any = items()
        return dict(found)
    return vars(value) if isinstance(value, BaseModel) else type(value).__qualname__
