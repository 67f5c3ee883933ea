# Copyright The opentelemetry-instrumentation-dspy Authors
# SPDX-License-Identifier: Apache-2.0
"""Values that a program gives to the trace that is running."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from typing import Final

from opentelemetry.sdk.trace import Span
from opentelemetry.trace import get_current_span

from mlflow_bridge._config.base import report_once
from mlflow_bridge._process.interruption import belongs_to_program
from mlflow_bridge._spans.enrichment import trace_attributes
from mlflow_bridge._spans.local_root import open_local_root
from mlflow_bridge._spans.open_spans import open_span
from mlflow_bridge._spans.trace_context import session_text, texts_of
from opentelemetry.instrumentation.dspy.semconv import SESSION_ID, USER_ID

_logger = logging.getLogger(__name__)

_TOO_LATE: Final = (
    "update_current_trace() was called in a trace whose first span has ended, or has been dropped "
    "by the sampler: it has no effect. Call it before that span ends."
)


def update_current_trace(
    *,
    tags: Mapping[str, object] | None = None,
    metadata: Mapping[str, object] | None = None,
    session_id: str | Sequence[str] | None = None,
    user_id: str | None = None,
) -> None:
    """Give tags, metadata, session or user to the trace that runs in the current context.

    May be called from anywhere inside of a traced call, such as a tool, a metric or an adapter.
    Values of an earlier call or of `trace_context` with the same keys are replaced; other values
    stay. Without a recorded span in the current context, the call has no effect.

    Args:
        tags: Tags of the trace in MLflow. Values that are not strings become strings.
        metadata: Metadata of the trace in MLflow, which cannot be changed once it is stored. Values
            that are not strings become strings.
        session_id: Groups traces into a session (``session.id``). Several ids are stored as a JSON
            array.
        user_id: The user of the program (``user.id``).

    Example:
        >>> def search(query: str) -> str:
        ...     update_current_trace(tags={"searched": "yes"})
        ...     return "..."
    """
    try:
        span = get_current_span()
        if isinstance(span, Span) and span.is_recording():
            identity = {SESSION_ID: session_text(session_id), USER_ID: user_id}
            known = {key: value for key, value in identity.items() if value is not None}
            _update(span, {**known, **trace_attributes(texts_of(tags), texts_of(metadata))})
    except Exception as error:
        if belongs_to_program(error):
            raise
        _logger.warning("The current trace could not be updated: %s", type(error).__name__)


def _update(span: Span, attributes: dict[str, str]) -> None:
    """Set attributes of the local root above a span."""
    if not attributes:
        return
    root = open_local_root(span, open_span)
    if root is None:
        report_once(_TOO_LATE)
    else:
        root.set_attributes(attributes)
