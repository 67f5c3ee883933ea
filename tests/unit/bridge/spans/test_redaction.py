# Copyright The opentelemetry-instrumentation-dspy Authors
# SPDX-License-Identifier: Apache-2.0
"""Spans of other origin pass the setting ``redact`` before a processor gets them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import pytest
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.trace import Link, SpanContext, Status, StatusCode, TraceFlags

from mlflow_bridge._spans.annotation import Annotation, annotation_of, is_annotation
from mlflow_bridge._spans.redaction import _Watch, follow_redaction, held_redaction, redacted
from opentelemetry.instrumentation.dspy import DSPyInstrumentor, SpanRedactor

SSN, EMAIL, HIDDEN = "078-05-1120", "ann@example.org", "[REDACTED]"


@pytest.fixture
def redactor() -> Iterator[SpanRedactor]:
    """What is in use with these rules."""
    DSPyInstrumentor().instrument(redact="field:ssn,email", skip_dep_check=True)
    follow_redaction(Processor())
    assert _Watch.redactor is not None
    yield _Watch.redactor
    if DSPyInstrumentor().is_instrumented_by_opentelemetry:
        DSPyInstrumentor().uninstrument()


def ended(scope: str = "mlflow", **attributes: Any) -> ReadableSpan:
    tracer = TracerProvider().get_tracer(scope)
    link = Link(SpanContext(1, 2, False, TraceFlags(1)), {"to": EMAIL})
    span: Any = tracer.start_span(f"serve {EMAIL}", attributes=attributes, links=[link])
    span.add_event("log", {"text": f"of {EMAIL}", "count": 3})
    span.add_event("exception", {"exception.message": f"of {EMAIL}"})
    span.set_status(Status(StatusCode.ERROR, f"failed for {EMAIL}"))
    span.end()
    return span


def plain(span: ReadableSpan) -> Mapping[str, Any]:
    return dict(span.attributes or {})


def test_every_part_of_a_span(redactor: SpanRedactor) -> None:
    span = ended(
        **{
            "mlflow.spanInputs": f'{{"customer":{{"ssn":"{SSN}"}},"text":"of {SSN}","n":7}}',
            "mlflow.spanType": '"CHAIN"',
            "ssn": 781120,
            "customer.ssn": (SSN,),
            "list": ("a", EMAIL),
            "count": 5,
            "of": "the number 781120",
        }
    )
    shown = redacted(span, redactor)
    assert plain(shown) == {
        "mlflow.spanInputs": f'{{"customer":{{"ssn":"{HIDDEN}"}},"text":"of {HIDDEN}","n":7}}',
        "mlflow.spanType": '"CHAIN"',
        "ssn": HIDDEN,
        "customer.ssn": HIDDEN,
        "list": ("a", HIDDEN),
        "count": 5,
        "of": f"the number {HIDDEN}",
    }
    assert shown.name == f"serve {HIDDEN}"
    assert shown.status.description == f"failed for {HIDDEN}"
    assert [dict(event.attributes or {}) for event in shown.events] == [
        {"text": f"of {HIDDEN}", "count": 3},
        {"exception.message": f"of {HIDDEN}"},
    ]
    assert [dict(link.attributes or {}) for link in shown.links] == [{"to": HIDDEN}]
    same = ("context", "parent", "kind", "resource", "start_time", "end_time")
    for part in (*same, "instrumentation_scope"):
        assert getattr(shown, part) is getattr(span, part) or part.endswith("time")
    assert (shown.start_time, shown.end_time) == (span.start_time, span.end_time)
    assert SSN in str(plain(span)), "the span of the program is unchanged"


def test_a_span_of_dspy_has_what_others_put_on_it_redacted(redactor: SpanRedactor) -> None:
    span = ended(
        "opentelemetry.instrumentation.dspy",
        **{"user.id": EMAIL, "mlflow.traceTag.to": EMAIL, "dspy.module.input": "redacted before"},
    )
    shown = redacted(span, redactor)
    assert plain(shown) == {
        "user.id": HIDDEN,
        "mlflow.traceTag.to": HIDDEN,
        "dspy.module.input": "redacted before",
    }


def test_a_redaction_that_fails_withholds_the_span(caplog: pytest.LogCaptureFixture) -> None:
    class Broken:
        def span_attributes(self, trace_id: int, attributes: Mapping[str, Any]) -> Any:
            raise RuntimeError(EMAIL)

        span_text = span_name = span_attributes

    span = ended(**{"mlflow.spanType": '"CHAIN"', "text": EMAIL})
    shown = redacted(span, Broken())
    assert plain(shown) == {"mlflow.spanType": '"CHAIN"'}
    assert (shown.name, list(shown.events), list(shown.links)) == ("redacted", [], [])
    assert (shown.status.status_code, shown.status.description) == (StatusCode.ERROR, None)
    [line] = caplog.messages
    assert "RuntimeError" in line
    assert EMAIL not in line


def test_a_function_does_not_make_spans_nameless() -> None:
    instrumentor = DSPyInstrumentor()
    processor = Processor()
    follow_redaction(processor)
    instrumentor.instrument(redact=lambda *_: "-", skip_dep_check=True)
    processor.on_end(ended(text="private"))
    instrumentor.uninstrument()
    [span] = processor.spans
    assert span.name.startswith("serve ")
    assert plain(span)["text"] == "-"


class Processor:
    def __init__(self) -> None:
        self.spans: list[ReadableSpan] = []

    def on_end(self, span: ReadableSpan) -> None:
        self.spans.append(span)


def test_a_processor_redacts_while_the_setting_is_in_use() -> None:
    processor, span = Processor(), ended(text=EMAIL)
    follow_redaction(processor)
    assert "on_end" not in vars(processor), "no step more without redaction"
    instrumentor = DSPyInstrumentor()
    instrumentor.instrument(redact="email", skip_dep_check=True)
    processor.on_end(span)
    later = Processor()
    follow_redaction(later)
    later.on_end(span)
    with held_redaction():
        instrumentor.uninstrument()
        processor.on_end(span)
        instrumentor.instrument(redact="field:other", skip_dep_check=True)
    processor.on_end(span)
    instrumentor.uninstrument()
    assert "on_end" not in vars(processor)
    processor.on_end(span)
    texts = [plain(given)["text"] for given in (*later.spans, *processor.spans)]
    assert texts == [HIDDEN, HIDDEN, HIDDEN, EMAIL, EMAIL]
    assert processor.spans[-1] is span


def test_an_assessment_stays_an_assessment(redactor: SpanRedactor) -> None:
    content = {
        "assessment_id": "a-1",
        "feedback": {"value": {"ssn": SSN}},
        "rationale": f"as {EMAIL} says",
    }
    span = Annotation("tr-1", assessment=content).as_span(1)
    shown = redacted(span, redactor)
    assert is_annotation(shown)
    assert annotation_of(shown).assessment == {
        "assessment_id": "a-1",
        "feedback": {"value": {"ssn": HIDDEN}},
        "rationale": f"as {HIDDEN} says",
    }
    tag = redacted(Annotation("tr-1", tag=("mail", EMAIL)).as_span(1), redactor)
    assert annotation_of(tag).tag == ("mail", HIDDEN)


def test_metadata_is_redacted_and_ids_are_not(redactor: SpanRedactor) -> None:
    shown = redacted(
        ended(
            **{
                "mlflow_bridge.trace_metadata.asked by": EMAIL,
                "mlflow_bridge.request_preview": f"of {EMAIL}",
                "mlflow.modelId": "m-0785112",
            }
        ),
        redactor,
    )
    assert plain(shown) == {
        "mlflow_bridge.trace_metadata.asked by": HIDDEN,
        "mlflow_bridge.request_preview": f"of {HIDDEN}",
        "mlflow.modelId": "m-0785112",
    }


def test_an_assessment_that_cannot_be_redacted_is_no_span_either() -> None:
    class Failing:
        def span_attributes(self, *_: object) -> Any:
            raise RuntimeError

    span = Annotation("tr-1", tag=("mail", EMAIL)).as_span(1)
    failing: Any = Failing()
    shown = redacted(span, failing)
    assert (is_annotation(shown), plain(shown)) == (True, {})
    with pytest.raises(ValueError):
        annotation_of(shown)
