# Copyright The opentelemetry-instrumentation-dspy Authors
# SPDX-License-Identifier: Apache-2.0
"""The assessments of traces in flight, as MLflow will have them when it has stored them."""

from __future__ import annotations

import threading
from collections import OrderedDict
from typing import Any, Final

from mlflow_bridge._process.forks import call_in_child

_MAX_ASSESSMENTS: Final = 16_384

Record = dict[str, Any]


class KeptAssessments:
    """The newest assessments that the program has logged for traces in flight. Thread-safe."""

    def __init__(self) -> None:
        self._renew()
        call_in_child(self._renew)

    def _renew(self) -> None:
        # A signal handler may log an assessment while its thread holds the lock.
        self._lock = threading.RLock()
        self._records: OrderedDict[tuple[str, str], Record] = OrderedDict()

    def get(self, trace_id: str, assessment_id: object) -> Record | None:
        """The record of an assessment; None if it was not logged for a trace in flight."""
        return self._records.get((trace_id, str(assessment_id)))

    def put(self, trace_id: str, record: Record) -> None:
        """Add or replace an assessment. The assessment that it overrides is valid no more."""
        with self._lock:
            self._set_valid(trace_id, record.get("overrides"), is_valid=False)
            self._records[trace_id, str(record["assessment_id"])] = record
            if len(self._records) > _MAX_ASSESSMENTS:
                self._records.popitem(last=False)

    def remove(self, trace_id: str, assessment_id: object) -> Record | None:
        """Remove an assessment; the assessment that it has overridden is valid again."""
        with self._lock:
            record = self._records.pop((trace_id, str(assessment_id)), None)
            if record is not None:
                self._set_valid(trace_id, record.get("overrides"), is_valid=True)
            return record

    def _set_valid(self, trace_id: str, assessment_id: str | None, *, is_valid: bool) -> None:
        record = self._records.get((trace_id, str(assessment_id)))
        if record is not None:
            self._records[trace_id, str(assessment_id)] = {**record, "valid": is_valid}
