# Copyright The opentelemetry-instrumentation-dspy Authors
# SPDX-License-Identifier: Apache-2.0
"""Settings of sampling at the first call of ``autolog()`` and later, in any tracer provider."""

from __future__ import annotations

import logging
import random
import threading
from collections import Counter
from collections.abc import Iterator
from importlib import import_module
from typing import Any

import dspy
import pytest
from opentelemetry import trace
from opentelemetry.context import Context
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.sdk.trace.id_generator import IdGenerator
from opentelemetry.sdk.trace.sampling import (
    ALWAYS_ON,
    DEFAULT_OFF,
    DEFAULT_ON,
    Decision,
    ParentBased,
    TraceIdRatioBased,
)

from mlflow_bridge import DSPySampler, MLflowDSPyConfig, autolog, disable_autolog, trace_context
from mlflow_bridge._config import base
from mlflow_bridge._setup import zero_code
from mlflow_bridge.sampling.keys import is_in_share, number_of
from opentelemetry.instrumentation.dspy import DSPyCall, DSPyInstrumentor, set_default_arguments
from tests.support.instrumented import DEPRECATED
from tests.support.lms import EchoLM
from tests.unit.bridge.fake_exporter import (
    FakeExporterModule,
    GlobalProvider,
    install_fake_exporter,
)
from tests.unit.bridge.setup.test_recording_at_run_time import WHOLE, Outer, delivered, run

import_module("mlflow_bridge._setup.processor")  # before its exporter is replaced
pytestmark = pytest.mark.filterwarnings(DEPRECATED)
RATES = (0.1, 0.5, 0.9)


class Seeded(IdGenerator):
    """Trace ids that repeat, and are known before."""

    def __init__(self, seed: int = 7) -> None:
        self._random = random.Random(seed)

    def generate_trace_id(self) -> int:
        return self._random.getrandbits(128) or 1

    def generate_span_id(self) -> int:
        return random.Random().getrandbits(64) or 1


def ids(count: int) -> list[int]:
    """The trace ids that a `Seeded` makes first."""
    generator = Seeded()
    return [generator.generate_trace_id() for _ in range(count)]


def kept(count: int, rate: float) -> set[int]:
    """Those among them that OpenTelemetry's ratio sampler keeps."""
    sampler = TraceIdRatioBased(rate)
    decisions = {one: sampler.should_sample(None, one, "span").decision for one in ids(count)}
    return {one for one, decision in decisions.items() if decision is not Decision.DROP}


class Quick(dspy.Module):
    """A program without a model."""

    def forward(self, number: int = 0) -> int:
        return number


@pytest.fixture
def provider(monkeypatch: pytest.MonkeyPatch) -> GlobalProvider:
    return GlobalProvider(monkeypatch)


@pytest.fixture
def exporters(
    monkeypatch: pytest.MonkeyPatch, provider: GlobalProvider
) -> Iterator[FakeExporterModule]:
    """As if autolog() had never been called here."""
    module = import_module("mlflow_bridge._setup.autolog")
    monkeypatch.setattr(module, "_session", type(module._session)())
    monkeypatch.setattr(zero_code, "_adopted", [])
    monkeypatch.setattr(base, "_reported", set[str]())
    monkeypatch.setenv("MLFLOW_USE_DEFAULT_TRACER_PROVIDER", "true")
    yield install_fake_exporter(monkeypatch)
    disable_autolog()
    if DSPyInstrumentor().is_instrumented_by_opentelemetry:
        DSPyInstrumentor().uninstrument()
    set_default_arguments()


def watched(**settings: Any) -> tuple[TracerProvider, InMemorySpanExporter]:
    """A provider of the program's own, and what another exporter gets of it."""
    memory = InMemorySpanExporter()
    provider = TracerProvider(shutdown_on_exit=False, **settings)
    provider.add_span_processor(SimpleSpanProcessor(memory))
    return provider, memory


def traces_in(memory: InMemorySpanExporter) -> set[int]:
    return {span.get_span_context().trace_id for span in memory.get_finished_spans()}


def test_a_rate_acts_at_the_first_call_and_at_each_later_one(
    exporters: FakeExporterModule, caplog: pytest.LogCaptureFixture
) -> None:
    client = autolog(sampling_rate=0)
    run()
    assert delivered(client, exporters) == []
    client.reconfigure(sampling_rate=1)
    run()
    assert delivered(client, exporters) == WHOLE
    autolog(sampling_rate=0)
    run()
    assert delivered(client, exporters) == []
    autolog()
    run()
    assert delivered(client, exporters) == WHOLE
    assert len(exporters.made) == 1
    assert caplog.messages == []


def test_a_setting_that_a_later_call_does_not_give_has_its_default_again(
    exporters: FakeExporterModule, provider: GlobalProvider
) -> None:
    autolog(sampling_rate=0.5, sampling_key="session")
    sdk: Any = provider.current
    assert sdk.sampler.get_description() == "DSPySampler{rate=0.5,key=session}"
    autolog(sampling_rate=0.5)
    assert sdk.sampler.get_description() == "DSPySampler{rate=0.5}"
    autolog()
    assert sdk.sampler.get_description() in ("DSPySampler{}", DEFAULT_ON.get_description())


def test_a_trace_that_began_under_the_old_rate_keeps_to_it(
    exporters: FakeExporterModule,
) -> None:
    client = autolog(sampling_rate=1)
    tracer = trace.get_tracer_provider().get_tracer("program")
    with tracer.start_as_current_span("kept"):
        client.reconfigure(sampling_rate=0)
        run()
    with tracer.start_as_current_span("left out"):
        client.reconfigure(sampling_rate=1)
        run()
    assert delivered(client, exporters) == [*WHOLE, "kept"]


@pytest.mark.parametrize("named", ["always_on", "parentbased_traceidratio"])
def test_a_sampler_that_the_environment_names_stays(
    exporters: FakeExporterModule, monkeypatch: pytest.MonkeyPatch, named: str
) -> None:
    monkeypatch.setenv("OTEL_TRACES_SAMPLER", named)
    client = autolog()
    run()
    client.reconfigure(sampling_rate=0)
    trace.get_tracer_provider().get_tracer("program").start_span("of another library").end()
    run()
    assert delivered(client, exporters) == [*WHOLE, "of another library"]


@pytest.mark.parametrize("rate", RATES)
@pytest.mark.parametrize("is_own", [False, True], ids=["made by autolog", "made by the program"])
def test_the_ratio_samplers_traces_are_kept(
    exporters: FakeExporterModule,
    provider: GlobalProvider,
    monkeypatch: pytest.MonkeyPatch,
    rate: float,
    is_own: bool,
) -> None:
    memory = InMemorySpanExporter()
    if is_own:
        provider.current, memory = watched(id_generator=Seeded())
        autolog(sampling_rate=rate)
    else:
        monkeypatch.setattr("opentelemetry.sdk.trace.RandomIdGenerator", Seeded)
        autolog(sampling_rate=rate)
        sdk: Any = provider.current
        sdk.add_span_processor(SimpleSpanProcessor(memory))
    program = Quick()
    for number in range(10_000):
        program(number)
    assert traces_in(memory) == kept(10_000, rate)


def test_in_a_program_s_own_provider_one_line_says_what_the_settings_decide(
    exporters: FakeExporterModule, provider: GlobalProvider, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, logger="mlflow_bridge")
    own, memory = watched(sampler=ParentBased(ALWAYS_ON))
    provider.current = own
    sampler = own.sampler
    client = autolog(sampling_rate=0)
    run()
    own.get_tracer("program").start_span("of another library").end()
    assert [span.name for span in memory.get_finished_spans()] == ["of another library"]
    client.reconfigure(sampling_rate=0)
    client.reconfigure(sampling_rate=1)
    run()
    assert delivered(client, exporters) == ["of another library", *WHOLE]
    assert own.sampler is sampler
    lines = [line for line in caplog.messages if "own sampler" in line]
    assert len(lines) == 1
    assert lines[0].startswith("sampling_rate: decide about outermost calls of DSPy")
    assert not any("no effect" in line for line in caplog.messages)


def test_below_a_span_of_another_library_the_trace_id_decides_as_well(
    exporters: FakeExporterModule, provider: GlobalProvider
) -> None:
    provider.current, memory = watched(id_generator=Seeded())
    autolog(sampling_rate=0.5)
    tracer, program = provider.current.get_tracer("web"), Quick()
    for number in range(200):
        with tracer.start_as_current_span("request", context=Context()):
            program(number)
    spans = memory.get_finished_spans()
    of_dspy = {s.get_span_context().trace_id for s in spans if s.name != "request"}
    assert len([span for span in spans if span.name == "request"]) == 200
    assert of_dspy == kept(200, 0.5)


def test_a_provider_s_own_sampler_has_the_last_word(
    exporters: FakeExporterModule, provider: GlobalProvider
) -> None:
    provider.current, memory = watched(sampler=DEFAULT_OFF)
    autolog(sampling_rate=1)
    run()
    assert memory.get_finished_spans() == ()


def rate_of(call: DSPyCall) -> float | None:
    """The share of calls of `Quick`, by its argument."""
    number = call.args[0] if call.args else 0
    return None if number < 0 else float(number % 2)


def key_of(call: DSPyCall) -> object:
    """The key of a call: its argument."""
    return call.args[0]


@pytest.mark.parametrize("is_own", [False, True])
@pytest.mark.parametrize("is_text", [False, True])
def test_functions_that_decide_are_settings(
    exporters: FakeExporterModule,
    provider: GlobalProvider,
    monkeypatch: pytest.MonkeyPatch,
    is_own: bool,
    is_text: bool,
) -> None:
    if is_own:
        provider.use_sdk()
    if is_text:
        monkeypatch.setenv("MLFLOW_DSPY_SAMPLING_RATE_OF", f"{__name__}:rate_of")
        client = autolog(sampling_rate=0)
    else:
        client = autolog(sampling_rate=0, sampling_rate_of=rate_of)
    for number in (-1, 0, 1, 2, 3):
        Quick()(number)
    assert delivered(client, exporters) == ["invoke_workflow Quick"] * 2
    client.reconfigure(
        sampling_rate=0.5,
        sampling_rate_of=None,
        sampling_key_of=f"{__name__}.key_of" if is_text else key_of,
    )
    for number in [*range(40)] * 2:
        Quick()(number)
    chosen = [number for number in range(40) if is_in_share(number_of(number), 0.5)]
    assert len(delivered(client, exporters)) == 2 * len(chosen)


@pytest.mark.parametrize("is_own", [False, True])
def test_a_key_keeps_a_session_together(
    exporters: FakeExporterModule, provider: GlobalProvider, is_own: bool
) -> None:
    if is_own:
        provider.use_sdk()
    client = autolog(sampling_rate=0.5, sampling_key="session")
    sessions = [f"session-{number}" for number in range(40)]
    for session in sessions * 2:
        with trace_context(session_id=session):
            Quick()()
    assert client.flush(60)
    counted = Counter(str(one["session.id"]) for one in exporters.made[0].attributes)
    expected = [one for one in sessions if is_in_share(number_of(one), 0.5)]
    assert counted == dict.fromkeys(expected, 2)
    assert 0 < len(expected) < 40


def test_after_the_end_a_program_s_provider_decides_alone(
    exporters: FakeExporterModule, provider: GlobalProvider
) -> None:
    own, memory = watched()
    provider.current = own
    autolog(sampling_rate=0)
    disable_autolog()
    DSPyInstrumentor().instrument(tracer_provider=own)
    Quick()()
    assert len(memory.get_finished_spans()) == 1


def test_a_sampler_that_the_program_has_given_settings_keeps_them(
    exporters: FakeExporterModule, provider: GlobalProvider, caplog: pytest.LogCaptureFixture
) -> None:
    own, memory = watched(sampler=DSPySampler(MLflowDSPyConfig(sampling_rate=1)))
    provider.current = own
    autolog(sampling_rate=0)
    Quick()()
    assert len(memory.get_finished_spans()) == 1
    [line] = caplog.messages
    assert "MLFLOW_DSPY_SAMPLING_RATE: no effect" in line


@pytest.mark.parametrize("is_own", [False, True])
def test_switches_under_load_divide_no_trace(
    exporters: FakeExporterModule, provider: GlobalProvider, is_own: bool
) -> None:
    if is_own:
        provider.use_sdk()
    client = autolog(max_queue_size=1_000_000)
    stop, calls = threading.Event(), Counter[int]()

    def work(number: int) -> None:
        program = Outer()
        with dspy.context(lm=EchoLM(), adapter=dspy.ChatAdapter()):
            while not stop.is_set():
                program("why?")
                calls[number] += 1

    threads = [threading.Thread(target=work, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for number in range(100):
        client.reconfigure(sampling_rate=(0, 0.5, 1)[number % 3])
    stop.set()
    for thread in threads:
        thread.join()
    names = Counter(delivered(client, exporters))
    assert set(names.values()) == {names["chat echo"]}
    assert 0 < names["chat echo"] <= sum(calls.values())
    assert len(exporters.made) == 1


def test_zero_code_has_a_sampler_that_follows(
    exporters: FakeExporterModule, provider: GlobalProvider, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_DSPY_SAMPLING_RATE", "0")
    provider.use_sdk()
    exporters.MLflowSpanExporter(tracking_uri="sqlite:///a.db")
    zero_code.adopt_exporters()
    provider.record("left out")
    client = autolog(tracking_uri="sqlite:///a.db", sampling_rate=1)
    provider.record("recorded")
    client.reconfigure(sampling_rate=0)
    provider.record("left out again")
    assert delivered(client, exporters) == ["recorded"]
    assert len(exporters.made) == 1


@pytest.mark.parametrize("way", ["environment", "program"])
def test_zero_code_leaves_a_chosen_sampler(
    exporters: FakeExporterModule,
    provider: GlobalProvider,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    way: str,
) -> None:
    if way == "environment":
        monkeypatch.setenv("OTEL_TRACES_SAMPLER", "always_on")
        provider.use_sdk()
    else:
        provider.current, _ = watched(sampler=ALWAYS_ON)
    sdk: Any = provider.current
    exporters.MLflowSpanExporter(tracking_uri="sqlite:///a.db", sampling_rate=0)
    zero_code.adopt_exporters()
    assert sdk.sampler is ALWAYS_ON
    assert "MLFLOW_DSPY_SAMPLING_RATE: no effect" in caplog.text
