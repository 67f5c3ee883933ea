# Copyright The opentelemetry-instrumentation-dspy Authors
# SPDX-License-Identifier: Apache-2.0
"""The assessments of traces in flight, as MLflow will have them when it has stored them."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable
from typing import Any, Final

from mlflow_bridge._process.forks import call_in_child

_MAX_ASSESSMENTS: Final = 16_384
_MIN_FORGOTTEN: Final = 256
"""Assessments from which on those of stored traces are forgotten."""

Record = dict[str, Any]


class KeptAssessments:
    """The newest assessments that the program has logged for traces in flight. Thread-safe.

    Args:
        is_in_flight: Whether a trace, by MLflow's id, is not stored yet.
    """

    def __init__(self, is_in_flight: Callable[[str], bool]) -> None:
        self._is_in_flight = is_in_flight
        self._renew()
        call_in_child(self._renew)

    def _renew(self) -> None:
        # A signal handler may log an assessment while its thread holds the lock.
        self._lock = threading.RLock()
        self._records: OrderedDict[tuple[str, str], Record] = OrderedDict()
        self._forget_at = _MIN_FORGOTTEN

    def get(self, trace_id: str, assessment_id: object) -> Record | None:
        """The record of an assessment; None if it was not logged for a trace in flight."""
        return self._records.get((trace_id, str(assessment_id)))

    def put(self, trace_id: str, record: Record) -> None:
        """Add or replace an assessment. The assessment that it overrides is valid no more."""
        with self._lock:
            self._set_valid(trace_id, record.get("overrides"), is_valid=False)
            self._records[trace_id, str(record["assessment_id"])] = record
            if len(self._records) >= self._forget_at:
                self._forget_stored()
            if len(self._records) > _MAX_ASSESSMENTS:
                self._records.popitem(last=False)

    def _forget_stored(self) -> None:
        """Forget the assessments that MLflow has: it answers for them."""
        stored = [key for key in self._records if not self._is_in_flight(key[0])]
        for key in stored:
            del self._records[key]
        self._forget_at = max(_MIN_FORGOTTEN, 2 * len(self._records))

    def __len__(self) -> int:
        return len(self._records)

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
