# Copyright The opentelemetry-instrumentation-dspy Authors
# SPDX-License-Identifier: Apache-2.0
"""``autolog()`` again with other settings of what is recorded, with the real instrumentor."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Iterator
from importlib import import_module
from typing import Any

import dspy
import pytest

from mlflow_bridge import (
    AutologClient,
    ConfigurationError,
    MLflowDSPyConfig,
    autolog,
    disable_autolog,
    get_autolog_client,
)
from mlflow_bridge._setup import zero_code
from mlflow_bridge._setup.instrumentation import instrument_again, set_instrument_defaults
from opentelemetry.instrumentation.dspy import DSPyInstrumentor, set_default_arguments
from tests.support.instrumented import DEPRECATED
from tests.support.lms import EchoLM
from tests.unit.bridge.fake_exporter import (
    FakeExporterModule,
    GlobalProvider,
    install_fake_exporter,
)

import_module("mlflow_bridge._setup.processor")  # before its exporter is replaced
pytestmark = pytest.mark.filterwarnings(DEPRECATED)
CANARY = "canary-4711-0815"


class Inner(dspy.Module):
    def __init__(self) -> None:
        super().__init__()
        self.predict = dspy.Predict("question -> answer")

    def forward(self, question: str) -> Any:
        return self.predict(question=question)


class Outer(dspy.Module):
    def __init__(self) -> None:
        super().__init__()
        self.inner = Inner()

    def forward(self, question: str) -> Any:
        return self.inner(question)


@pytest.fixture
def exporters(monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeExporterModule]:
    """As if autolog() had never been called here."""
    module = import_module("mlflow_bridge._setup.autolog")
    monkeypatch.setattr(module, "_session", type(module._session)())
    monkeypatch.setattr(zero_code, "_adopted", [])
    monkeypatch.setenv("MLFLOW_USE_DEFAULT_TRACER_PROVIDER", "true")
    GlobalProvider(monkeypatch)
    yield install_fake_exporter(monkeypatch)
    disable_autolog()
    if DSPyInstrumentor().is_instrumented_by_opentelemetry:
        DSPyInstrumentor().uninstrument()
    set_default_arguments()


def run(question: str = "why?") -> None:
    with dspy.context(lm=EchoLM(), adapter=dspy.ChatAdapter()):
        Outer()(question)


def delivered(client: AutologClient, exporters: FakeExporterModule) -> list[str]:
    assert client.flush(60)
    names = [name for exporter in exporters.made for name in exporter.names]
    for exporter in exporters.made:
        exporter.names.clear()
    return names


WHOLE = ["chat echo", "ChatAdapter", "Predict inner", "Inner", "invoke_workflow Outer"]


def test_each_setting_acts_again(exporters: FakeExporterModule) -> None:
    client = autolog(module_filter="Inner")
    run()
    assert delivered(client, exporters) == ["chat echo", "ChatAdapter", "invoke_workflow Inner"]
    autolog(module_filter=lambda name: name == "Outer")
    run()
    assert delivered(client, exporters) == ["chat echo", "ChatAdapter", "invoke_workflow Outer"]
    autolog(trace_condition=lambda inputs: inputs["question"] == "why?")
    run()
    run("secret")
    assert delivered(client, exporters) == WHOLE
    autolog()
    run("secret")
    assert delivered(client, exporters) == WHOLE
    assert client.config == MLflowDSPyConfig()


def test_a_sanitizer_acts_again(exporters: FakeExporterModule) -> None:
    client = autolog(input_sanitizer=lambda inputs: {})
    run(CANARY)
    assert delivered(client, exporters) == WHOLE
    attributes = [one for exporter in exporters.made for one in exporter.attributes]
    assert CANARY not in repr(attributes)
    autolog(output_sanitizer=lambda outputs: {})
    run(CANARY)
    assert client.flush(60)
    attributes = [one for exporter in exporters.made for one in exporter.attributes]
    assert CANARY in repr(attributes)


def test_what_is_recorded_changes_without_a_new_delivery(exporters: FakeExporterModule) -> None:
    client = autolog()
    autolog(module_filter="Inner", log_inputs=False)
    assert len(exporters.made) == 1
    assert client.config.module_filter == "Inner"
    run()
    assert delivered(client, exporters) == ["chat echo", "ChatAdapter", "invoke_workflow Inner"]
    autolog(module_filter="Inner", max_batch_size=5)
    assert len(exporters.made) == 2


@pytest.mark.parametrize("switches", [60, pytest.param(1_000, marks=pytest.mark.scale)])
def test_switches_under_load_lose_and_divide_no_trace(
    exporters: FakeExporterModule, switches: int
) -> None:
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
    for number in range(switches):
        chosen = ("Outer", "Outer,Inner", "Out*", None)[number % 4]
        autolog(max_queue_size=1_000_000, module_filter=chosen)
    stop.set()
    for thread in threads:
        thread.join()
    names = Counter(delivered(client, exporters))
    assert names["invoke_workflow Outer"] == names["chat echo"] == sum(calls.values())
    assert names["ChatAdapter"] == names["chat echo"]
    assert names["Predict inner"] <= names["Inner"] <= names["chat echo"]
    assert names.keys() <= set(WHOLE)
    assert len(exporters.made) == 1


def test_what_zero_code_has_instrumented_changes_in_place(exporters: FakeExporterModule) -> None:
    set_instrument_defaults([MLflowDSPyConfig(module_filter="Inner")])
    instrumentor = DSPyInstrumentor()
    instrumentor.instrument(request_hook=print)
    runtime = instrumentor._runtime
    instrument_again(MLflowDSPyConfig(module_filter="Outer", trace_condition=bool))
    settings = instrumentor.settings
    assert settings is not None
    assert settings.module_filter is not None
    assert (settings.module_filter.patterns, settings.trace_condition) == (("Outer",), bool)
    assert settings.request_hook is print
    assert instrumentor._runtime is runtime


def test_a_wrong_argument_changes_nothing(exporters: FakeExporterModule) -> None:
    client = autolog(module_filter="Inner")
    for name in ("module_filter", "trace_condition", "input_sanitizer", "output_sanitizer"):
        with pytest.raises(ConfigurationError, match=f"argument {name}"):
            autolog(**{name: 7})
    assert client is get_autolog_client()
    run()
    assert delivered(client, exporters) == ["chat echo", "ChatAdapter", "invoke_workflow Inner"]
