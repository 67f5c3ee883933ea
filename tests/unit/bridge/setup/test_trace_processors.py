# Copyright The opentelemetry-instrumentation-dspy Authors
# SPDX-License-Identifier: Apache-2.0
"""Trace processors of the client that `autolog` returns."""

from __future__ import annotations

import logging
import threading
from collections.abc import Iterator
from importlib import import_module
from typing import Any

import pytest
from opentelemetry.sdk.trace import TracerProvider

from mlflow_bridge import (
    AutologClient,
    ConfigurationError,
    FinishedTrace,
    TraceProcessorStatus,
    autolog,
    disable_autolog,
)
from mlflow_bridge._setup import zero_code
from tests.unit.bridge.fake_exporter import (
    FakeExporterModule,
    GlobalProvider,
    install_fake_exporter,
)
from tests.unit.bridge.setup.test_autolog import FakeInstrumentor

PATIENCE = 60.0


@pytest.fixture(autouse=True)
def fresh_process(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """As if autolog() had never been called here, with nothing of MLflow and DSPy."""
    module = import_module("mlflow_bridge._setup.autolog")
    monkeypatch.setattr(module, "_session", type(module._session)())
    monkeypatch.setattr(zero_code, "_adopted", [])
    monkeypatch.setattr("opentelemetry.instrumentation.dspy.DSPyInstrumentor", FakeInstrumentor())
    monkeypatch.setenv("MLFLOW_USE_DEFAULT_TRACER_PROVIDER", "true")
    yield
    disable_autolog()


@pytest.fixture(autouse=True)
def exporters(monkeypatch: pytest.MonkeyPatch) -> FakeExporterModule:
    return install_fake_exporter(monkeypatch)


@pytest.fixture
def provider(monkeypatch: pytest.MonkeyPatch) -> GlobalProvider:
    return GlobalProvider(monkeypatch)


class Seen:
    """A trace processor that keeps what it gets."""

    def __init__(self) -> None:
        self.traces: list[FinishedTrace] = []

    def __call__(self, trace: FinishedTrace) -> None:
        self.traces.append(trace)

    @property
    def names(self) -> list[str]:
        return [trace.name for trace in self.traces]


@pytest.fixture
def seen() -> Seen:
    return Seen()


def processors_of(provider: GlobalProvider) -> int:
    sdk: Any = provider.current
    assert isinstance(sdk, TracerProvider)
    return len(sdk._active_span_processor._span_processors)


def test_a_processor_gets_what_goes_to_mlflow(
    provider: GlobalProvider, exporters: FakeExporterModule, seen: Seen
) -> None:
    client = autolog()
    client.add_trace_processor(seen)
    provider.record("one")
    assert client.flush(PATIENCE)
    assert seen.names == exporters.made[0].names == ["one"]
    assert client.trace_processor_status() == (
        TraceProcessorStatus(
            "tests.unit.bridge.setup.test_trace_processors.Seen",
            processed=1,
            failed=0,
            missed=0,
            waiting=0,
        ),
    )


def test_without_a_processor_the_provider_has_nothing_more(
    provider: GlobalProvider, seen: Seen
) -> None:
    client = autolog()
    before = processors_of(provider)
    client.remove_trace_processor(seen)
    assert client.trace_processor_status() == ()
    assert processors_of(provider) == before
    client.add_trace_processor(seen)
    client.add_trace_processor(Seen())
    assert processors_of(provider) == before + 1


def test_a_processor_that_was_removed_gets_nothing(provider: GlobalProvider, seen: Seen) -> None:
    client = autolog()
    client.add_trace_processor(seen)
    client.remove_trace_processor(seen)
    provider.record("one")
    assert client.flush(PATIENCE)
    client.add_trace_processor(seen)
    provider.record("two")
    assert client.flush(PATIENCE)
    assert seen.names == ["two"]


def test_processors_survive_other_settings(
    provider: GlobalProvider, exporters: FakeExporterModule, seen: Seen
) -> None:
    client = autolog(tracking_uri="sqlite:///a.db")
    client.add_trace_processor(seen)
    sdk = provider.current
    with sdk.get_tracer("test").start_as_current_span("between"):
        assert autolog(tracking_uri="sqlite:///b.db") is client
    provider.record("after")
    assert client.flush(PATIENCE)
    assert seen.names == ["between", "after"]


def test_no_trace_is_missed_or_given_twice_while_settings_change_under_load(
    provider: GlobalProvider, exporters: FakeExporterModule, seen: Seen
) -> None:
    client = autolog(tracking_uri="sqlite:///0.db")
    client.add_trace_processor(seen)

    def work(thread: int) -> None:
        tracer = provider.current.get_tracer("test")
        for index in range(100):
            with tracer.start_as_current_span(f"{thread}/{index}"):
                tracer.start_span("step").end()

    threads = [threading.Thread(target=work, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for number in range(10):
        autolog(tracking_uri=f"sqlite:///{number % 3}.db", max_queue_size=10_000 + number)
    for thread in threads:
        thread.join()
    assert client.flush(PATIENCE)
    expected = {f"{thread}/{index}" for thread in range(8) for index in range(100)}
    assert (len(seen.names), set(seen.names)) == (800, expected)
    assert {(len(found.spans), found.complete) for found in seen.traces} == {(2, True)}


def test_processors_follow_the_setting_of_traces(provider: GlobalProvider, seen: Seen) -> None:
    client = autolog(traces="genai")
    client.add_trace_processor(seen)
    provider.record("health check")
    assert client.flush(PATIENCE)
    autolog(traces="all")
    provider.record("any")
    assert client.flush(PATIENCE)
    assert seen.names == ["any"]


def test_processors_follow_a_tracer_provider_that_takes_the_place_of_one_that_ended(
    provider: GlobalProvider, seen: Seen
) -> None:
    client = autolog()
    client.add_trace_processor(seen)
    provider.record("first")
    assert isinstance(provider.current, TracerProvider)
    provider.current.shutdown()
    provider.use_sdk()
    autolog()
    provider.record("second")
    assert client.flush(PATIENCE)
    assert seen.names == ["first", "second"]


def test_the_end_of_the_client_ends_its_processors(provider: GlobalProvider, seen: Seen) -> None:
    with autolog() as client:
        client.add_trace_processor(seen)
        provider.record("before the end")
    assert seen.names == ["before the end"]
    autolog()
    provider.record("of the next client")
    again = autolog()
    assert again.flush(PATIENCE)
    assert (seen.names, again.trace_processor_status()) == (["before the end"], ())


def test_a_closed_client_takes_no_processor(
    provider: GlobalProvider, seen: Seen, caplog: pytest.LogCaptureFixture
) -> None:
    client = autolog()
    client.close()
    client.add_trace_processor(seen)
    client.remove_trace_processor(seen)
    assert "Call autolog() again" in caplog.text


def test_a_hanging_processor_delays_neither_the_delivery_nor_the_end(
    provider: GlobalProvider, exporters: FakeExporterModule, caplog: pytest.LogCaptureFixture
) -> None:
    released = threading.Event()
    client = autolog(exit_timeout_seconds=0.2)
    client.add_trace_processor(lambda _: released.wait(PATIENCE))
    try:
        provider.record("one")
        assert not client.flush(0.5)
        assert exporters.made[0].names == ["one"]
        client.close()
        assert [record.levelno for record in caplog.records] == [logging.WARNING]
    finally:
        released.set()


def test_wrong_arguments_of_a_search_are_refused_before_the_flush(
    provider: GlobalProvider, exporters: FakeExporterModule
) -> None:
    client = autolog(schedule_delay_seconds=3600)
    provider.record("one")
    with pytest.raises(ConfigurationError, match=r"accepted: span\.name"):
        client.get_traces(filter_string="spans.name = 'a'")
    with pytest.raises(ConfigurationError, match="since of get_traces"):
        client.get_traces(since="yesterday")
    assert exporters.made[0].names == []


def test_a_coroutine_function_is_refused(provider: GlobalProvider) -> None:
    async def look(_: FinishedTrace) -> None: ...

    client = autolog()
    with pytest.raises(ConfigurationError, match="the trace processor is a coroutine function"):
        client.add_trace_processor(look)


def test_where_opentelemetry_is_switched_off_a_processor_gets_nothing(
    provider: GlobalProvider, seen: Seen, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OTEL_SDK_DISABLED", "true")
    client = autolog()
    client.add_trace_processor(seen)
    assert client.flush(PATIENCE)
    assert seen.names == []


def test_session_tags_and_user_of_a_block_are_on_the_trace(
    provider: GlobalProvider, seen: Seen
) -> None:
    from mlflow_bridge import trace_context

    client: AutologClient = autolog()
    client.add_trace_processor(seen)
    with trace_context(session_id="chat-7", user_id="ada", tags={"channel": "web"}, name="chat"):
        provider.record("one")
    assert client.flush(PATIENCE)
    [found] = seen.traces
    assert (found.name, found.session_id, found.user_id) == ("chat", "chat-7", "ada")
    assert found.tags["channel"] == "web"
