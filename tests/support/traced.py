# Copyright The opentelemetry-instrumentation-dspy Authors
# SPDX-License-Identifier: Apache-2.0
"""One instrumented stretch of a test, with its spans and what they look like as text."""

from __future__ import annotations

import json
from typing import Any

from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.sdk.trace.sampling import ALWAYS_ON, Sampler

from opentelemetry.instrumentation.dspy import DSPyInstrumentor
from tests.support.memory import span_memory
from tests.support.span_tree import only_span, span_tree


def uninstrument() -> None:
    """Uninstrument where it is not done yet; doing it twice would log a warning."""
    if DSPyInstrumentor().is_instrumented_by_opentelemetry:
        DSPyInstrumentor().uninstrument()


class Traced:
    """DSPy instrumented with a provider of the test's own; content is recorded unless told not."""

    def __init__(self, *, sampler: Sampler = ALWAYS_ON, **settings: Any) -> None:
        self.provider, self._exporter = span_memory(sampler)
        self._settings = {"capture_content": True, **settings}
        self.instrument()

    def instrument(self) -> None:
        """Instrument with the same settings, once more or after `uninstrument`."""
        DSPyInstrumentor().instrument(tracer_provider=self.provider, **self._settings)

    @property
    def tracer(self) -> Any:
        """A tracer for a test's own spans, by the same provider."""
        return self.provider.get_tracer("test")

    @property
    def spans(self) -> list[ReadableSpan]:
        """The spans ended since the last `clear`, those of the test itself included."""
        return list(self._exporter.get_finished_spans())

    def clear(self) -> None:
        self._exporter.clear()

    def tree(self, *attributes: str) -> str:
        """The spans as text, without their kinds; attributes by their names."""
        text = span_tree(self.spans, attributes=attributes)
        return text.replace(" [INTERNAL]", "").replace(" [CLIENT]", "")

    def kinds(self) -> str:
        return span_tree(self.spans)

    def names(self) -> list[str]:
        return [span.name for span in self.spans]

    def span(self, name: str) -> ReadableSpan:
        return only_span(self.spans, name)

    def attributes(self, name: str) -> dict[str, Any]:
        """The attributes of the one span of this name."""
        return dict(self.span(name).attributes or {})

    def content(self, name: str, attribute: str) -> Any:
        """A content attribute of the one span of this name, decoded."""
        return json.loads(self.attributes(name)[attribute])


def everything_in(spans: list[ReadableSpan]) -> str:
    """All that leaves the process with these spans, as one text to look for canaries in."""
    parts: list[str] = []
    for span in spans:
        parts.append(span.to_json())
        parts.append(repr(dict(span.attributes or {})))
        parts += [repr((event.name, dict(event.attributes or {}))) for event in span.events]
        parts.append(repr((span.name, span.status.description)))
    return "\n".join(parts)
