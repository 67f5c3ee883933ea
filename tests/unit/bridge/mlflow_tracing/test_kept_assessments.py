# Copyright The opentelemetry-instrumentation-dspy Authors
# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

from mlflow_bridge._mlflow_tracing.kept_assessments import KeptAssessments


def test_assessments_of_stored_traces_are_forgotten() -> None:
    in_flight = {"tr-0"}
    kept = KeptAssessments(in_flight.__contains__)
    kept.put("tr-0", {"assessment_id": "first"})
    for number in range(1, 5000):
        kept.put(f"tr-{number}", {"assessment_id": "a"})
    assert len(kept) < 300
    assert kept.get("tr-0", "first") is not None


def test_an_overridden_assessment_is_valid_again_without_its_successor() -> None:
    kept = KeptAssessments(lambda _: True)
    kept.put("tr-1", {"assessment_id": "old"})
    kept.put("tr-1", {"assessment_id": "new", "overrides": "old"})
    assert (kept.get("tr-1", "old") or {}).get("valid") is False
    assert kept.remove("tr-1", "new") is not None
    assert (kept.get("tr-1", "old") or {}).get("valid") is True
    assert kept.remove("tr-1", "new") is None


def test_the_number_of_assessments_is_bounded() -> None:
    kept = KeptAssessments(lambda _: True)
    for number in range(20_000):
        kept.put("tr-1", {"assessment_id": str(number)})
    assert len(kept) == 16_384
