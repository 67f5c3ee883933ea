# Copyright The opentelemetry-instrumentation-dspy Authors
# SPDX-License-Identifier: Apache-2.0
"""Spans of single ASGI messages are left out of what goes to MLflow."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.trace import Span, SpanKind, set_span_in_context

from mlflow_bridge._delivery.spool.spool import Spool
from mlflow_bridge._spans.asgi_io import AsgiIo
from tests.support.fake_delivery import PATIENCE, DeliveryProcessor, FakeDelivery
from tests.support.memory import span_memory

ASGI = "opentelemetry.instrumentation.asgi"
MESSAGE = {"asgi.event.type": "http.response.body"}


class Web:
    def __init__(self, **options: Any) -> None:
        self.delivery = FakeDelivery()
        settings: dict[str, Any] = {"schedule_delay_seconds": 0.005, "traces": "all"}
        self.processor = DeliveryProcessor(
            self.delivery, exit_timeout_seconds=PATIENCE, **{**settings, **options}
        )
        self.provider = TracerProvider(shutdown_on_exit=False)
        self.provider.add_span_processor(self.processor)

    def start(self, name: str, above: Span | None, scope: str = ASGI, **options: Any) -> Span:
        context = None if above is None else set_span_in_context(above)
        return self.provider.get_tracer(scope).start_span(name, context, **options)

    def stored(self) -> list[str]:
        self.provider.shutdown()
        return self.delivery.names


@pytest.mark.parametrize("traces", ["genai", "all"])
@pytest.mark.parametrize("spooled", [False, True])
def test_messages_are_filtered_and_counted(tmp_path: Path, traces: str, spooled: bool) -> None:
    spool = Spool(tmp_path, write_ahead=True) if spooled else None
    web = Web(traces=traces, spool=spool)
    root = web.start("GET /ask", None, kind=SpanKind.SERVER)
    web.start("GET /ask http receive", root, attributes=MESSAGE).end()
    web.start("chat", root, "app", attributes={"gen_ai.operation.name": "chat"}).end()
    for _ in range(30):
        web.start("GET /ask http send", root, attributes=MESSAGE).end()
    root.end()
    assert web.stored() == ["chat", "GET /ask"]
    status = web.processor.status()
    assert (status.filtered, status.stored, status.accepted, status.missing) == (31, 2, 33, 0)
    assert status.spool_bytes == 0


@pytest.mark.parametrize(
    "options",
    [
        {"scope": "app"},
        {"attributes": {}},
        {"kind": SpanKind.CLIENT},
    ],
)
def test_other_spans_are_kept(options: dict[str, Any]) -> None:
    web = Web()
    root = web.start("root", None)
    web.start("other", root, **{"attributes": MESSAGE, **options}).end()
    root.end()
    assert web.stored() == ["other", "root"]


def test_a_message_without_a_request_is_kept() -> None:
    web = Web()
    web.start("http send", None, attributes=MESSAGE).end()
    assert web.stored() == ["http send"]


def test_the_setting_keeps_messages() -> None:
    web = Web(drop_asgi_io_spans=False)
    root = web.start("root", None)
    web.start("http send", root, attributes=MESSAGE).end()
    root.end()
    assert web.stored() == ["http send", "root"]


@pytest.mark.parametrize("ends", ["before", "after", "much later"])
def test_a_message_with_a_child_is_kept(ends: str) -> None:
    web = Web()
    root = web.start("root", None)
    message = web.start("http send", root, attributes=MESSAGE)
    child = web.start("child", message, "app")
    for span in (child, message) if ends == "before" else (message, child):
        span.end()
        if ends == "much later":
            assert web.processor.force_flush()
    root.end()
    assert sorted(web.stored()) == ["child", "http send", "root"]


def ended_pair() -> Sequence[ReadableSpan]:
    """A message and its child, which ended after it."""
    provider, memory = span_memory()
    tracer = provider.get_tracer(ASGI)
    root = tracer.start_span("root")
    message = tracer.start_span("http send", set_span_in_context(root), attributes=MESSAGE)
    child = tracer.start_span("child", set_span_in_context(message))
    message.end()
    child.end()
    return memory.get_finished_spans()


@pytest.mark.parametrize("where", ["open", "waiting", "seen", "nowhere"])
def test_a_child_is_found_wherever_it_is(where: str) -> None:
    message, child = ended_pair()
    asgi_io = AsgiIo(lambda: [child] if where == "open" else [])
    if where == "seen":
        asgi_io.begin(lambda: [child])
        assert not asgi_io.is_left_out(child)
    asgi_io.begin(lambda: [message, child] if where == "waiting" else [message])
    assert asgi_io.is_left_out(message) == (where == "nowhere")
