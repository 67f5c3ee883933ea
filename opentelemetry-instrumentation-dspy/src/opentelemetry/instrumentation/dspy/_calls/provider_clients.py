# Copyright The opentelemetry-instrumentation-dspy Authors
# SPDX-License-Identifier: Apache-2.0
"""Cooperation with the instrumentations of provider clients that build on ``util-genai``.

``opentelemetry.util.genai`` defines a key of the OTel context under which the instrumentation of a
framework announces its span for an inference. An instrumentation of the client below it (OpenAI,
Anthropic, ...) then starts no second span, counts no tokens again, and reports its data upwards.

Nothing is imported here: an instrumentation that reads the key has already imported the package.
"""

from __future__ import annotations

import functools
import logging
import sys
from collections.abc import Mapping
from typing import Any

from opentelemetry.instrumentation.dspy._guarding import new_lock, pass_on
from opentelemetry.instrumentation.dspy.semconv import (
    DSPY_LM_CACHE_HIT,
    GEN_AI_OPERATION_NAME,
    GEN_AI_RESPONSE_FINISH_REASONS,
    GEN_AI_RESPONSE_ID,
    GEN_AI_RESPONSE_MODEL,
    GEN_AI_RESPONSE_TIME_TO_FIRST_CHUNK,
    GEN_AI_USAGE_CACHE_CREATION_INPUT_TOKENS,
    GEN_AI_USAGE_CACHE_READ_INPUT_TOKENS,
    GEN_AI_USAGE_INPUT_TOKENS,
    GEN_AI_USAGE_OUTPUT_TOKENS,
    GEN_AI_USAGE_REASONING_OUTPUT_TOKENS,
    SERVER_ADDRESS,
    SERVER_PORT,
    GenAIOperations,
)

logger = logging.getLogger(__name__)

_MODULE = "opentelemetry.util.genai.invocation"
_INFERENCE = ("CLIENT_INFERENCE_CONTEXT_KEY", "InferenceData")
_EMBEDDING = ("CLIENT_EMBEDDING_CONTEXT_KEY", "EmbeddingData")
_NAMES = {
    GenAIOperations.CHAT: _INFERENCE,
    GenAIOperations.TEXT_COMPLETION: _INFERENCE,
    GenAIOperations.EMBEDDINGS: _EMBEDDING,
}

# Fields that a client's instrumentation reports -> the attribute, and its type.
_RESPONSE_FIELDS: dict[str, tuple[str, type]] = {
    "response_id": (GEN_AI_RESPONSE_ID, str),
    "response_model": (GEN_AI_RESPONSE_MODEL, str),
    "response_time_to_first_chunk": (GEN_AI_RESPONSE_TIME_TO_FIRST_CHUNK, float),
    "server_address": (SERVER_ADDRESS, str),
    "server_port": (SERVER_PORT, int),
}
_COUNTS = {
    "usage_input_tokens": GEN_AI_USAGE_INPUT_TOKENS,
    "usage_output_tokens": GEN_AI_USAGE_OUTPUT_TOKENS,
    "usage_cache_read_input_tokens": GEN_AI_USAGE_CACHE_READ_INPUT_TOKENS,
    "usage_cache_write_input_tokens": GEN_AI_USAGE_CACHE_CREATION_INPUT_TOKENS,
    "usage_reasoning_output_tokens": GEN_AI_USAGE_REASONING_OUTPUT_TOKENS,
}


def announcement(started: Mapping[str, Any]) -> tuple[str, Any] | None:
    """Context key and value that announce our span; None if no instrumentation below reads them.

    Args:
        started: The attributes that our span started with.
    """
    module = sys.modules.get(_MODULE)
    if module is None:
        return None
    names = _NAMES.get(started.get(GEN_AI_OPERATION_NAME, ""))
    if names is None:
        return None
    try:
        key, kind = (getattr(module, name) for name in names)
        return key, _summing(kind)()
    except Exception as error:
        pass_on(error)
        # The package is in beta, and its releases have added and removed these names.
        logger.debug("%s has no usable %s and %s", _MODULE, *names, exc_info=True)
        return None


def reported(data: Any, known: dict[str, Any]) -> dict[str, Any]:
    """Attributes that a client's instrumentation reported, except those already known.

    Args:
        data: The value of `announcement`.
        known: Attributes read from DSPy. Token counts come from one source, never mixed.
    """
    attributes: dict[str, Any] = {}
    for field, (attribute, kind) in _RESPONSE_FIELDS.items():
        found = getattr(data, field, None)
        if isinstance(found, kind) and attribute not in known:
            attributes[attribute] = found
    reasons: Any = getattr(data, "response_finish_reasons", None)
    if reasons and GEN_AI_RESPONSE_FINISH_REASONS not in known:
        attributes[GEN_AI_RESPONSE_FINISH_REASONS] = tuple(str(reason) for reason in reasons)
    if known.get(DSPY_LM_CACHE_HIT) or not known.keys().isdisjoint(_COUNTS.values()):
        return attributes
    for field, attribute in _COUNTS.items():
        count = getattr(data, field, None)
        if isinstance(count, int):
            attributes[attribute] = count
    return attributes


_merging = new_lock()


@functools.lru_cache(maxsize=8)
def _summing(kind: Any) -> Any:
    """The package's class, adding up tokens if one LM call makes several requests.

    The package itself keeps the last request only, which loses the tokens of the others.
    """
    take_over = kind.merge

    def merge(self: Any, other: Any, *, overwrite: bool = True) -> None:
        with _merging:
            before = {field: getattr(self, field, None) for field in _COUNTS}
            take_over(self, other, overwrite=overwrite)
            for field, count in before.items():
                added = getattr(other, field, None)
                if overwrite and isinstance(count, int) and isinstance(added, int):
                    setattr(self, field, count + added)

    return type(kind.__name__, (kind,), {"merge": merge})
