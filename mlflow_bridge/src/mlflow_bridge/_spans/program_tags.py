# Copyright The opentelemetry-instrumentation-dspy Authors
# SPDX-License-Identifier: Apache-2.0
"""Tags of a trace that say which program ran: MLflow's metrics and charts filter by tags only."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from opentelemetry.sdk.trace import ReadableSpan

from mlflow_bridge._spans.names import TRACE_TAG_PREFIX
from opentelemetry.instrumentation.dspy.semconv import DSPY_PROGRAM_HASH, DSPY_VERSION

PROGRAM_HASH_TAG: Final = f"{TRACE_TAG_PREFIX}{DSPY_PROGRAM_HASH}"
DSPY_VERSION_TAG: Final = f"{TRACE_TAG_PREFIX}{DSPY_VERSION}"


def program_tags_of(span: ReadableSpan) -> Mapping[str, str]:
    """The tags, as attributes of a root, if the span is the outermost module of a trace."""
    program = (span.attributes or {}).get(DSPY_PROGRAM_HASH)
    if program is None:
        return {}
    tags = {PROGRAM_HASH_TAG: str(program)}
    scope = span.instrumentation_scope
    version = None if scope is None else (scope.attributes or {}).get(DSPY_VERSION)
    if version is not None:
        tags[DSPY_VERSION_TAG] = str(version)
    return tags
