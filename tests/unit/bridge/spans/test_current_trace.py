# Copyright The opentelemetry-instrumentation-dspy Authors
# SPDX-License-Identifier: Apache-2.0
"""Values that a program gives to the trace that is running."""

from __future__ import annotations

import logging
from contextlib import ExitStack

import pytest
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.trace import Tracer, set_span_in_context

from mlflow_bridge import trace_context, update_current_trace
from mlflow_bridge._config import base
from tests.support.fake_delivery import DeliveryProcessor, FakeDelivery, closing


def attributes_of(tracer: Tracer, names: str) -> dict[str, object]:
    """Call the function inside of nested spans, and return the attributes of the outermost."""
    with ExitStack() as spans:
        opened = [spans.enter_context(tracer.start_as_current_span(name)) for name in names]
        update_current_trace(
            tags={"answered": True},
            metadata={"release": 7},
            session_id=["s1", "s2"],
            user_id="u1",
        )
        return dict(getattr(opened[0], "attributes"))  # noqa: B009


@pytest.mark.parametrize("names", ["a", "ab", "abcd"])
def test_the_values_go_on_the_first_span_of_the_trace(names: str) -> None:
    with closing(DeliveryProcessor(FakeDelivery())) as tracer:
        assert attributes_of(tracer, names) == {
            "mlflow.traceTag.answered": "True",
            "mlflow_bridge.trace_metadata.release": "7",
            "session.id": '["s1", "s2"]',
            "user.id": "u1",
        }


def test_a_later_value_replaces_an_earlier_value() -> None:
    with closing(DeliveryProcessor(FakeDelivery())) as tracer, trace_context(session_id="before"):
        with tracer.start_as_current_span("root") as root:
            update_current_trace(session_id="first", tags={"a": "1", "b": "1"})
            update_current_trace(session_id="second", tags={"b": "2"})
        attributes = getattr(root, "attributes")  # noqa: B009
    assert attributes == {
        "session.id": "second",
        "mlflow.traceTag.a": "1",
        "mlflow.traceTag.b": "2",
    }


def test_without_a_trace_nothing_happens(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.DEBUG):
        update_current_trace(tags={"a": "1"})
    assert caplog.text == ""


def test_a_trace_whose_first_span_has_ended_is_reported_once(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(base, "_reported", set())
    with closing(DeliveryProcessor(FakeDelivery())) as tracer:
        root = tracer.start_span("root")
        with tracer.start_as_current_span("child", context=set_span_in_context(root)) as child:
            root.end()
            update_current_trace(tags={"a": "1"})
            update_current_trace(tags={"a": "1"})
        assert getattr(child, "attributes") == {}  # noqa: B009
    assert caplog.text.count("update_current_trace() was called in a trace whose") == 1


def test_a_value_that_cannot_be_text_is_reported(caplog: pytest.LogCaptureFixture) -> None:
    class Secretive:
        def __str__(self) -> str:
            raise RuntimeError("secret")

    tracer = TracerProvider(shutdown_on_exit=False).get_tracer("test")
    with tracer.start_as_current_span("root"):
        update_current_trace(metadata={"a": Secretive()})
    assert "A Secretive has no text for a tag or metadata: RuntimeError" in caplog.text
    assert "secret" not in caplog.text
