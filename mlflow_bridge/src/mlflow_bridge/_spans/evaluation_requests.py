# Copyright The opentelemetry-instrumentation-dspy Authors
# SPDX-License-Identifier: Apache-2.0
"""Ids of examples, by which MLflow pairs the rows of two evaluations of the same examples."""

from __future__ import annotations

import hashlib
from collections import Counter, OrderedDict
from collections.abc import Mapping
from typing import Any, Final

import orjson

from opentelemetry.instrumentation.dspy import semconv

_MAX_EVALUATIONS: Final = 256
_DIGITS: Final = 32


class EvaluationRequests:
    """Gives each example of an evaluation an id of its own. Used by one thread at a time.

    The id is a hash of what is recorded of the example. Equal examples of one evaluation get a
    number in addition. Without content, the id is the position of the example.
    """

    def __init__(self) -> None:
        self._counts: OrderedDict[str, Counter[str]] = OrderedDict()

    def id_of(self, attributes: Mapping[str, Any]) -> str:
        """The id of the example whose trace begins with a span with these attributes."""
        content = attributes.get(semconv.DSPY_EXAMPLE_INPUT)
        if not isinstance(content, str):
            return f"example-{attributes.get(semconv.DSPY_EXAMPLE_INDEX)}"
        digest = hashlib.sha256(_canonical(content)).hexdigest()[:_DIGITS]
        counts = self._counts_of(str(attributes.get(semconv.DSPY_EVALUATE_SPAN_ID)))
        before = counts[digest]
        counts[digest] += 1
        return f"{digest}-{before}" if before else digest

    def _counts_of(self, evaluation: str) -> Counter[str]:
        counts = self._counts.setdefault(evaluation, Counter())
        self._counts.move_to_end(evaluation)
        if len(self._counts) > _MAX_EVALUATIONS:
            self._counts.popitem(last=False)
        return counts


def _canonical(content: str) -> bytes:
    """JSON with its keys in order: the fields of an example may come in any order."""
    text = content.encode("utf-8", "replace")
    try:
        return orjson.dumps(orjson.loads(text), option=orjson.OPT_SORT_KEYS)
    except ValueError:
        return text
