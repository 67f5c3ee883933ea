# Copyright The opentelemetry-instrumentation-dspy Authors
# SPDX-License-Identifier: Apache-2.0
"""Details of a trace that MLflow takes only in a write of its own, after the spans."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from mlflow_bridge._export.mapping.storable import clean_text, parsed_json
from mlflow_bridge._spans.names import (
    CLIENT_REQUEST_ID,
    MODEL_ID,
    REQUEST_PREVIEW,
    RESPONSE_PREVIEW,
    RUNS,
    TRACE_METADATA_PREFIX,
    TRACE_STATE,
)

# The widths of the columns in MLflow's store.
_MAX_KEY: Final = 250
_MAX_VALUE: Final = 8000
_MAX_CLIENT_REQUEST_ID: Final = 50
_MAX_PREVIEW: Final = 1000

_SINGLE: Final = (CLIENT_REQUEST_ID, REQUEST_PREVIEW, RESPONSE_PREVIEW, TRACE_STATE)
_STATES: Final = ("OK", "ERROR")


@dataclass(frozen=True, slots=True)
class TraceDetails:
    """Metadata of a trace, and the fields beside it; None leaves a field as it is.

    Attributes:
        metadata: Metadata by key.
        client_request_id: The id that the client of a service gave its request.
        request_preview: The text that MLflow shows as request.
        response_preview: The text that MLflow shows as response.
        state: OK or ERROR.
        assessments: Assessments with ids, in the form of ``Assessment.to_dictionary``.
    """

    metadata: Mapping[str, str]
    client_request_id: str | None = None
    request_preview: str | None = None
    response_preview: str | None = None
    state: str | None = None
    assessments: Sequence[Mapping[str, Any]] = ()

    @property
    def fields(self) -> dict[str, str]:
        """The fields that are not None, without metadata and state, by MLflow's names."""
        found = {
            "client_request_id": self.client_request_id,
            "request_preview": self.request_preview,
            "response_preview": self.response_preview,
        }
        return {name: value for name, value in found.items() if value is not None}


def is_detail(key: str) -> bool:
    """Whether an attribute of a local root belongs to the details of its trace."""
    return key.startswith(TRACE_METADATA_PREFIX) or key in _SINGLE or key == RUNS


def details_in(
    source: Mapping[str, Any], assessments: Sequence[Mapping[str, Any]] = ()
) -> TraceDetails | None:
    """The details that the attributes of a root ask for; None if they ask for none.

    Args:
        source: The attributes.
        assessments: The assessments of the trace.
    """
    metadata = {
        clean_text(key[len(TRACE_METADATA_PREFIX) :], 4 * _MAX_KEY)[:_MAX_KEY]: metadata_text(value)
        for key, value in source.items()
        if key.startswith(TRACE_METADATA_PREFIX)
    }
    if model_id := _text(source.get(MODEL_ID), _MAX_VALUE):
        metadata[MODEL_ID] = model_id
    single = (
        _text(source.get(CLIENT_REQUEST_ID), _MAX_CLIENT_REQUEST_ID),
        _text(source.get(REQUEST_PREVIEW), _MAX_PREVIEW),
        _text(source.get(RESPONSE_PREVIEW), _MAX_PREVIEW),
    )
    state = source.get(TRACE_STATE)
    if not metadata and not any(single) and state not in _STATES and not assessments:
        return None
    return TraceDetails(metadata, *single, state if state in _STATES else None, assessments)


def metadata_text(value: object) -> str:
    """A value of metadata as text that every store accepts."""
    return clean_text(str(value), 4 * _MAX_VALUE)[:_MAX_VALUE]


def _text(value: Any, characters: int) -> str | None:
    # MLflow's own spans have their attributes as JSON.
    parsed = parsed_json(value) if isinstance(value, str) and value.startswith('"') else value
    return clean_text(str(parsed), 4 * characters)[:characters] if parsed else None
