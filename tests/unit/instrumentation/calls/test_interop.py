# Copyright The opentelemetry-instrumentation-dspy Authors
# SPDX-License-Identifier: Apache-2.0
"""Client instrumentations that build on ``opentelemetry-util-genai``: one span, one count.

The first part needs nothing but this distribution: a client's instrumentation is played by what
the package does for it. The second part needs ``opentelemetry-util-genai``, the last one
``opentelemetry-instrumentation-genai-openai``; they are left out where those are not installed.
"""

from __future__ import annotations

import importlib
import logging
import sys
import threading
from collections.abc import Iterator
from dataclasses import dataclass, fields
from types import SimpleNamespace
from typing import Any

import dspy
import pytest
from opentelemetry import context
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader
from opentelemetry.sdk.trace.sampling import ALWAYS_OFF, ALWAYS_ON, Sampler

from tests.support.fake_openai import FakeOpenAI, Reply, Usage
from tests.support.lms import EchoLM, completion, served
from tests.support.traced import Traced, uninstrument
from tests.unit.instrumentation.conftest import TraceWith

MODULE = "opentelemetry.util.genai.invocation"
KEY = "test.inference"


@dataclass
class Data:
    """The part of ``InferenceData`` that matters."""

    response_id: str | None = None
    response_model: str | None = None
    response_finish_reasons: list[str] | None = None
    response_time_to_first_chunk: float | None = None
    server_address: str | None = None
    server_port: int | None = None
    usage_input_tokens: int | None = None
    usage_output_tokens: int | None = None

    def merge(self, other: Any, *, overwrite: bool = True) -> None:
        for field in fields(self):
            value = getattr(other, field.name)
            if value is not None and (overwrite or getattr(self, field.name) is None):
                setattr(self, field.name, value)


@pytest.fixture
def package(monkeypatch: pytest.MonkeyPatch) -> Any:
    """A replacement of the package, as if it had been imported."""
    module = SimpleNamespace(
        CLIENT_INFERENCE_CONTEXT_KEY=KEY,
        InferenceData=Data,
        CLIENT_EMBEDDING_CONTEXT_KEY="test.embedding",
        EmbeddingData=Data,
    )
    monkeypatch.setitem(sys.modules, MODULE, module)
    return module


class Client(EchoLM):
    """An LM whose client is instrumented, and that keeps what the client says for itself."""

    def __init__(self, *reports: Data) -> None:
        super().__init__()
        self.reports = reports
        self.announced: list[Any] = []

    def forward(self, prompt: Any = None, messages: Any = None, **kwargs: Any) -> Any:
        data: Any = context.get_value(KEY)
        self.announced.append(data)
        for report in self.reports:
            data.merge(report)
        return completion("hi", usage={}, id=None, model=None)


REPORT = Data("r-1", "m-1", ["stop"], 0.25, "api.example.com", 443, 10, 2)


def test_a_report_is_taken_over(traced: Traced, package: Any) -> None:
    lm = Client(REPORT)
    lm("hello")
    attributes = traced.attributes("chat echo")
    assert isinstance(lm.announced[0], Data)
    assert (
        attributes.items()
        >= {
            "gen_ai.response.id": "r-1",
            "gen_ai.response.model": "m-1",
            "gen_ai.response.finish_reasons": ("stop",),
            "gen_ai.response.time_to_first_chunk": 0.25,
            "gen_ai.usage.input_tokens": 10,
            "gen_ai.usage.output_tokens": 2,
            "server.address": "api.example.com",
            "server.port": 443,
        }.items()
    )


def test_tokens_of_several_requests_are_added_up(traced: Traced, package: Any) -> None:
    second = Data(response_id="r-2", usage_input_tokens=30, usage_output_tokens=5)
    Client(REPORT, Data(), second)("hello")
    attributes = traced.attributes("chat echo")
    assert attributes["gen_ai.response.id"] == "r-2"
    assert attributes["gen_ai.usage.input_tokens"] == 40
    assert attributes["gen_ai.usage.output_tokens"] == 7


def test_tokens_of_requests_in_threads(traced: Traced, package: Any) -> None:
    class Many(Client):
        def forward(self, *args: Any, **kwargs: Any) -> Any:
            data: Any = context.get_value(KEY)
            report = Data(usage_input_tokens=1)
            threads = [
                threading.Thread(target=lambda: [data.merge(report) for _ in range(200)])
                for _ in range(8)
            ]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()
            return super().forward(*args, **kwargs)

    Many()("hello")
    assert traced.attributes("chat echo")["gen_ai.usage.input_tokens"] == 1600


def test_what_dspy_knows_stands(traced: Traced, package: Any) -> None:
    class Knowing(Client):
        def forward(self, *args: Any, **kwargs: Any) -> Any:
            super().forward(*args, **kwargs)
            return completion("hi")

    Knowing(REPORT)("hello")
    attributes = traced.attributes("chat echo")
    assert attributes["gen_ai.response.id"] == "response-1"
    assert attributes["gen_ai.response.model"] == "echo-2025"
    assert attributes["gen_ai.usage.input_tokens"] == 3
    assert attributes["gen_ai.usage.output_tokens"] == 2


def test_each_call_has_a_place_of_its_own(traced: Traced, package: Any) -> None:
    inner = Client(REPORT)

    class Outer(Client):
        def forward(self, *args: Any, **kwargs: Any) -> Any:
            inner("inner")
            return super().forward(*args, **kwargs)

    outer = Outer()
    outer("outer")
    assert inner.announced[0] is not outer.announced[0]
    below, above = traced.spans
    assert (below.attributes or {})["gen_ai.response.id"] == "r-1"
    assert "gen_ai.response.id" not in (above.attributes or {})
    assert context.get_value(KEY) is None


@pytest.mark.parametrize("sampler", [ALWAYS_ON, ALWAYS_OFF], ids=["on", "off"])
def test_a_report_counts_in_metrics(trace_with: TraceWith, package: Any, sampler: Sampler) -> None:
    reader = InMemoryMetricReader()
    provider = MeterProvider([reader], shutdown_on_exit=False)
    trace_with(sampler=sampler, meter_provider=provider)

    class Program(dspy.Module):
        def forward(self) -> None:
            Client(REPORT)("hello")

    Program()()
    assert tokens(reader) == {"input": 10, "output": 2}


def tokens(reader: InMemoryMetricReader) -> dict[str, int]:
    data = reader.get_metrics_data()
    points = [
        point
        for resource in (data.resource_metrics if data else [])
        for scope in resource.scope_metrics
        for metric in scope.metrics
        if metric.name == "gen_ai.client.token.usage"
        for point in metric.data.data_points
    ]
    # Of any origin: a second point of one type would be a second count.
    kinds = [str((point.attributes or {})["gen_ai.token.type"]) for point in points]
    assert len(kinds) == len(set(kinds))
    return dict(zip(kinds, (point.sum for point in points), strict=True))  # type: ignore[union-attr]


def test_nothing_is_imported(traced: Traced, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in sys.modules if name.startswith("opentelemetry.util.genai")]:
        monkeypatch.delitem(sys.modules, name)
    EchoLM("hi")("hello")
    assert MODULE not in sys.modules


class Frozen:
    """No place to add anything to."""


@pytest.mark.parametrize(
    "changed",
    [
        {"InferenceData": None},
        {"InferenceData": Frozen},
        {"CLIENT_INFERENCE_CONTEXT_KEY": ...},
    ],
    ids=["no class", "another class", "no key"],
)
def test_names_that_have_moved_cost_no_span(
    traced: Traced, package: Any, changed: Any, caplog: pytest.LogCaptureFixture
) -> None:
    for name, value in changed.items():
        if value is ...:
            delattr(package, name)
        else:
            setattr(package, name, value)
    with caplog.at_level(logging.DEBUG, logger="opentelemetry.instrumentation.dspy"):
        EchoLM("hi")("hello")
    assert traced.names() == ["chat echo"]
    assert "InferenceData" in caplog.text


def test_with_the_names_of_the_package() -> None:
    module = pytest.importorskip(MODULE)
    assert isinstance(module.CLIENT_INFERENCE_CONTEXT_KEY, str)
    assert isinstance(module.CLIENT_EMBEDDING_CONTEXT_KEY, str)
    names = {field.name for field in fields(module.InferenceData)}
    assert {field.name for field in fields(Data)} <= names


@pytest.fixture
def openai_traced(trace_with: TraceWith) -> Iterator[tuple[Traced, InMemoryMetricReader]]:
    """DSPy and the OpenAI client, both instrumented with the same providers."""
    instrumentation = pytest.importorskip("opentelemetry.instrumentation.genai.openai")
    reader = InMemoryMetricReader()
    provider = MeterProvider([reader], shutdown_on_exit=False)
    traced = trace_with(meter_provider=provider)
    instrumentor = instrumentation.OpenAIInstrumentor()
    instrumentor.instrument(tracer_provider=traced.provider, meter_provider=provider)
    yield traced, reader
    instrumentor.uninstrument()


class OpenAIClientLM(dspy.BaseLM):
    """Asks the provider twice for each call, and tells DSPy of neither."""

    def __init__(self, server: FakeOpenAI) -> None:
        super().__init__("custom", cache=False)
        openai = importlib.import_module("openai")
        self.client = openai.OpenAI(base_url=server.base_url, api_key="x")

    def forward(self, prompt: Any = None, messages: Any = None, **kwargs: Any) -> Any:
        messages = messages or [{"role": "user", "content": prompt}]
        for _ in range(2):
            answer = self.client.chat.completions.create(model="gpt-4o-mini", messages=messages)
        return completion(answer.choices[0].message.content, usage={}, id=None, model=None)


def test_the_openai_client_below_a_custom_lm(
    openai_traced: tuple[Traced, InMemoryMetricReader], server: FakeOpenAI
) -> None:
    traced, reader = openai_traced
    server.reply_with(Reply("hi", usage=Usage(10, 2)), Reply("ho", usage=Usage(20, 3)))
    assert OpenAIClientLM(server)("hello") == ["ho"]
    assert traced.names() == ["chat custom"]
    attributes = traced.attributes("chat custom")
    assert attributes["gen_ai.response.id"] == "chatcmpl-2"
    assert attributes["gen_ai.usage.input_tokens"] == 30
    assert attributes["gen_ai.usage.output_tokens"] == 5
    assert attributes["server.address"] == "127.0.0.1"
    assert tokens(reader) == {"input": 30, "output": 5}


def test_the_openai_client_below_dspys_own_lm(
    openai_traced: tuple[Traced, InMemoryMetricReader], server: FakeOpenAI
) -> None:
    traced, reader = openai_traced
    server.reply_with(Reply("hi", usage=Usage(10, 2)))
    served(server)("hello")
    assert traced.names() == ["chat gpt-4o-mini"]
    assert tokens(reader) == {"input": 10, "output": 2}


def test_without_us_the_client_has_its_own_span(
    openai_traced: tuple[Traced, InMemoryMetricReader], server: FakeOpenAI
) -> None:
    traced, _ = openai_traced
    uninstrument()
    OpenAIClientLM(server)("hello")
    assert traced.names() == ["chat gpt-4o-mini", "chat gpt-4o-mini"]
