# Copyright The opentelemetry-instrumentation-dspy Authors
# SPDX-License-Identifier: Apache-2.0
"""Values that the trace of one example takes from the trace of its evaluation.

An evaluation runs its examples in threads of its own, where MLflow has no active run. So an example
that is a trace of its own gets the values of the evaluation's spans.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Final

from opentelemetry.sdk.trace import Span

from mlflow_bridge._spans.local_root import open_local_root
from mlflow_bridge._spans.names import (
    EXPERIMENT_ID,
    MODEL_ID,
    SOURCE_RUN,
    TRACE_METADATA_PREFIX,
    TRACE_NAME,
    TRACE_TAG_PREFIX,
)
from opentelemetry.instrumentation.dspy.semconv import (
    DSPY_EVALUATE_TRACE_ID,
    GEN_AI_CONVERSATION_ID,
    SESSION_ID,
    USER_ID,
)

_NAMES: Final = frozenset(
    {SESSION_ID, USER_ID, GEN_AI_CONVERSATION_ID, EXPERIMENT_ID, SOURCE_RUN, MODEL_ID}
)
_PREFIXES: Final = (TRACE_TAG_PREFIX, TRACE_METADATA_PREFIX)


def is_example_trace(attributes: Mapping[str, Any] | None) -> bool:
    """Whether a span with these attributes is an example that is a trace of its own."""
    return DSPY_EVALUATE_TRACE_ID in (attributes or {})


def inherited_by(example: Span, open_span: Callable[[int], Span | None]) -> dict[str, str]:
    """Attributes of the spans of an evaluation that also hold for its example.

    Args:
        example: The span of the example, with a link to the evaluation.
        open_span: Returns the open span of this process with an id.
    """
    evaluation = open_span(example.links[0].context.span_id) if example.links else None
    if evaluation is None:
        return {}
    found: dict[str, str] = {}
    for span in (open_local_root(evaluation, open_span), evaluation):
        attributes = {} if span is None else span.attributes or {}
        found.update({key: str(attributes[key]) for key in attributes if _is_inherited(key)})
    return found


def _is_inherited(key: str) -> bool:
    # The name is that of the evaluation.
    return key in _NAMES or (key.startswith(_PREFIXES) and key != TRACE_NAME)
