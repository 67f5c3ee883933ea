# Copyright The opentelemetry-instrumentation-dspy Authors
# SPDX-License-Identifier: Apache-2.0
"""Made-up embeddings: equal texts get equal unit vectors, in OpenAI's two encodings."""

from __future__ import annotations

import base64
import hashlib
import math
import struct
from typing import Any, cast

from tests.support.openai_messages import JSONObject, Request
from tests.support.openai_wire import tokens

DEFAULT_DIMENSIONS = 8


def embeddings_body(request: Request) -> JSONObject:
    """The answer to ``POST /v1/embeddings``, for a text, a list of texts or token ids."""
    texts = _texts(request.json.get("input"))
    size = int(request.json.get("dimensions") or DEFAULT_DIMENSIONS)
    as_base64 = request.json.get("encoding_format") == "base64"
    vectors = [embedding(text, size) for text in texts]
    used = sum(tokens(text) for text in texts)
    return {
        "object": "list",
        "model": request.model,
        "data": [
            {
                "object": "embedding",
                "index": index,
                "embedding": _packed(vector) if as_base64 else vector,
            }
            for index, vector in enumerate(vectors)
        ],
        "usage": {"prompt_tokens": used, "total_tokens": used},
    }


def embedding(text: str, size: int = DEFAULT_DIMENSIONS) -> list[float]:
    """A vector of length 1 that depends on the text alone."""
    seed = hashlib.shake_256(text.encode("utf-8", "surrogatepass")).digest(size)
    raw = [byte - 127.5 for byte in seed]
    length = math.sqrt(sum(value * value for value in raw))
    return [value / length for value in raw]


def _packed(vector: list[float]) -> str:
    return base64.b64encode(struct.pack(f"<{len(vector)}f", *vector)).decode()


def _texts(given: Any) -> list[str]:
    if not isinstance(given, list):
        return [str(given)]
    items = cast("list[object]", given)
    if items and all(isinstance(item, int) for item in items):
        return [str(items)]
    return [str(item) for item in items]
