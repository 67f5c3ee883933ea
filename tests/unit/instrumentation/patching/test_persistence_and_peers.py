# Copyright The opentelemetry-instrumentation-dspy Authors
# SPDX-License-Identifier: Apache-2.0
"""Events of saved and loaded programs; the warning about other instrumentations of DSPy."""

from __future__ import annotations

import sys
import types
from inspect import signature
from pathlib import Path
from typing import Any

import dspy
import pytest
from dspy.utils import saving
from opentelemetry import trace

from opentelemetry.instrumentation.dspy import DSPyInstrumentor
from opentelemetry.instrumentation.dspy._patching.peers import PeerCheck
from tests.support.lms import answering
from tests.support.memory import span_memory
from tests.support.traced import Traced
from tests.unit.instrumentation.conftest import TelemetryLog

pytestmark = pytest.mark.surface("save and load")

# Asked for from 3.1 on.
_ALLOW = {"allow_pickle": True} if "allow_pickle" in signature(saving.load).parameters else {}


def test_saving_and_loading_are_events_of_the_current_span(tmp_path: Path) -> None:
    provider, exporter = span_memory()
    DSPyInstrumentor().instrument(tracer_provider=provider, skip_dep_check=True)
    path = tmp_path / "program.json"
    try:
        tracer = trace.get_tracer("test", tracer_provider=provider)
        with tracer.start_as_current_span("deploy"):
            dspy.ChainOfThought("question -> answer").save(path)
            dspy.ChainOfThought("question -> answer").load(path)
        dspy.ChainOfThought("question -> answer").load(path)  # no span: nothing happens
    finally:
        DSPyInstrumentor().uninstrument()
    (span,) = exporter.get_finished_spans()
    assert [(event.name, dict(event.attributes or {})) for event in span.events] == [
        ("dspy.program.saved", {"dspy.module.type": "ChainOfThought"}),
        ("dspy.program.loaded", {"dspy.module.type": "ChainOfThought"}),
    ]


@pytest.mark.parametrize("module", [dspy, saving], ids=["dspy", "dspy.utils.saving"])
def test_loading_a_whole_program_is_an_event(tmp_path: Path, module: Any) -> None:
    provider, exporter = span_memory()
    DSPyInstrumentor().instrument(tracer_provider=provider, skip_dep_check=True)
    try:
        tracer = trace.get_tracer("test", tracer_provider=provider)
        with tracer.start_as_current_span("deploy"):
            dspy.ChainOfThought("question -> answer").save(tmp_path, save_program=True)
            loaded = module.load(str(tmp_path), **_ALLOW)
    finally:
        DSPyInstrumentor().uninstrument()
    assert type(loaded) is dspy.ChainOfThought
    assert dspy.load is saving.load
    (span,) = exporter.get_finished_spans()
    assert [(event.name, dict(event.attributes or {})) for event in span.events] == [
        ("dspy.program.saved", {"dspy.module.type": "ChainOfThought"}),
        ("dspy.program.loaded", {"dspy.module.type": "ChainOfThought"}),
    ]


def test_a_failed_load_leaves_no_event_and_raises_the_same(tmp_path: Path) -> None:
    provider, exporter = span_memory()
    DSPyInstrumentor().instrument(tracer_provider=provider, skip_dep_check=True)
    try:
        tracer = trace.get_tracer("test", tracer_provider=provider)
        with tracer.start_as_current_span("deploy"), pytest.raises(FileNotFoundError):
            dspy.Predict("question -> answer").load(tmp_path / "absent.json")
    finally:
        DSPyInstrumentor().uninstrument()
    (span,) = exporter.get_finished_spans()
    assert [event.name for event in span.events] == []


def fake_peer(active: bool) -> Any:
    instrumentor = type("DSPyInstrumentor", (), {"is_instrumented_by_opentelemetry": active})
    module = types.ModuleType("openinference.instrumentation.dspy")
    module.DSPyInstrumentor = instrumentor  # type: ignore[attr-defined]
    return module


def test_an_active_peer_is_named_once(
    monkeypatch: pytest.MonkeyPatch, telemetry_log: TelemetryLog
) -> None:
    check = PeerCheck()
    monkeypatch.setitem(sys.modules, "openinference.instrumentation.dspy", fake_peer(False))
    check()
    assert telemetry_log.take() == []
    monkeypatch.setitem(sys.modules, "openinference.instrumentation.dspy", fake_peer(True))
    check()
    check()
    (message,) = telemetry_log.take()
    assert "openinference-instrumentation-dspy" in message
    assert "OTEL_PYTHON_DISABLED_INSTRUMENTATIONS=dspy" in message


def test_mlflows_own_autolog_is_noticed(
    monkeypatch: pytest.MonkeyPatch, telemetry_log: TelemetryLog
) -> None:
    callback_module = types.ModuleType("mlflow.dspy.callback")
    monkeypatch.setitem(sys.modules, "mlflow.dspy.callback", callback_module)
    callback = type("MlflowCallback", (), {"__module__": "mlflow.dspy.callback"})()
    with dspy.context(callbacks=[callback]):
        PeerCheck()()
    (message,) = telemetry_log.take()
    assert "mlflow.dspy.autolog()" in message


class OwnOptimizer(dspy.BootstrapFewShot):
    def compile(self, student: Any, **kwargs: Any) -> Any:
        return super().compile(student, **kwargs)


def test_mlflows_autolog_may_be_called_afterwards() -> None:
    instrumentor = DSPyInstrumentor()
    instrumentor.instrument()
    try:
        for optimizer in (dspy.MIPROv2, dspy.BootstrapFewShot, dspy.LabeledFewShot, OwnOptimizer):
            stands, read = vars(optimizer)["compile"], optimizer.compile
            # What MLflow asks before it puts a function of its own there, and raises over.
            differs = read != stands
            assert not differs
            assert hash(stands) == hash(read)
            assert stands != dspy.Predict.__call__
    finally:
        instrumentor.uninstrument()


@pytest.mark.parametrize("optimizer", [dspy.BootstrapFewShot, dspy.LabeledFewShot])
def test_an_optimizer_that_other_code_has_wrapped_meanwhile_has_its_span(
    traced: Traced, monkeypatch: pytest.MonkeyPatch, optimizer: Any
) -> None:
    read = optimizer.compile

    # As MLflow's autologging does, which stays in place when it is off.
    def wrapped(self: Any, *args: Any, **kwargs: Any) -> Any:
        return read(self, *args, **kwargs)

    monkeypatch.setattr(optimizer, "compile", wrapped)
    examples = [dspy.Example(question="q", answer="blue").with_inputs("question")]
    with dspy.context(lm=answering()):
        optimizer().compile(dspy.Predict("question -> answer"), trainset=examples)
    [root] = [span for span in traced.spans if span.parent is None]
    assert root.name == f"compile {optimizer.__name__}"
    monkeypatch.undo()
