# Copyright The opentelemetry-instrumentation-dspy Authors
# SPDX-License-Identifier: Apache-2.0
"""The CPU time of an instrumented program, part by part."""

from __future__ import annotations

from benchmarks.measured import MeasuredPrograms
from benchmarks.sampling import Group, profile

_DSPY = "/instrumentation/dspy/"
_GROUPS: tuple[Group, ...] = (
    ("content: values to JSON", f"{_DSPY}content.py"),
    ("content: plain values", f"{_DSPY}plain.py"),
    ("content: redaction", f"{_DSPY}redaction.py"),
    ("LM facts", f"{_DSPY}operations/lm_record.py"),
    ("LM request", f"{_DSPY}operations/lm_request.py"),
    ("LM messages", f"{_DSPY}operations/messages.py"),
    ("signature descriptions", f"{_DSPY}operations/signature.py"),
    ("other operations' attributes", f"{_DSPY}operations/"),
    ("metrics", f"{_DSPY}metrics.py"),
    ("the traced call", _DSPY),
    ("OpenTelemetry API and context", "/opentelemetry/context/"),
    ("OpenTelemetry API and context", "/opentelemetry/trace/"),
    ("OpenTelemetry SDK", "/opentelemetry/sdk/"),
    ("OpenTelemetry SDK", "/opentelemetry/attributes/"),
    ("OpenTelemetry, the rest", "/opentelemetry/"),
    ("DSPy and the rest", "/dspy/"),
    ("DSPy and the rest", "/benchmarks/"),
)
_CALLS = 200


class ProfiledPrograms(MeasuredPrograms):
    """Programs whose cost of a call is divided into parts."""

    def parts(self, name: str, seconds: float) -> dict[str, float]:
        """Measure the microseconds of each part in a call, by a profile of this CPU time."""
        self.warm_up(name, 20)
        each = self.sample(name, _CALLS).thread
        chosen = self._program(name)
        shares = profile(lambda: chosen.calls(10), seconds, _GROUPS)
        shares["DSPy and the rest"] = shares.get("DSPy and the rest", 0.0) + shares.pop("other", 0)
        return {part: share * each for part, share in shares.items()}
