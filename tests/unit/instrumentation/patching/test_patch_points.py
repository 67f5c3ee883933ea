# Copyright The opentelemetry-instrumentation-dspy Authors
# SPDX-License-Identifier: Apache-2.0
"""Single patch points: their status, and the effect if DSPy lacks one."""

from __future__ import annotations

import contextlib
import importlib
from collections.abc import Iterator
from typing import Any

import dspy
import pytest

from opentelemetry.instrumentation.dspy import DSPyInstrumentor
from opentelemetry.instrumentation.dspy._patching.points import parse_version
from tests.support.lms import DSPY, EchoLM, Version
from tests.support.traced import uninstrument
from tests.unit.instrumentation.conftest import TelemetryLog, TraceWith

QA = "question -> answer"

ALWAYS = {
    "dspy.primitives.module:Module.__call__",
    "dspy.primitives.module:Module.acall",
    "dspy.clients.base_lm:BaseLM.{__call__,acall}",
    "dspy.clients.cache:Cache.cache_key",
    "dspy.adapters.base:Adapter.{__call__,acall}",
    "dspy.adapters.base:Adapter.{format,parse}",
    "dspy.adapters.types.tool:Tool.__call__",
    "dspy.adapters.types.tool:Tool.acall",
    "dspy.utils.parallelizer:ParallelExecutor.execute",
}
FINALIZE = "dspy.clients.execution:finalize"
PROCESS = "dspy.clients.base_lm:BaseLM._process_lm_response"
TYPED = "dspy.clients.base_lm:BaseLM._finalize_lm_response"


def of_this_release() -> set[str]:
    if Version("3.4") <= DSPY:
        return {FINALIZE}
    return {PROCESS, TYPED} if Version("3.3") <= DSPY else {PROCESS}


def states() -> dict[str, str]:
    return {entry.point: entry.state for entry in DSPyInstrumentor().status()}


def test_the_status_of_every_point(trace_with: TraceWith) -> None:
    assert DSPyInstrumentor().status() == ()
    trace_with()
    assert set(states()) >= ALWAYS
    for point, state in states().items():
        expected = point in ALWAYS | of_this_release()
        if point in {*ALWAYS, FINALIZE, PROCESS, TYPED}:
            assert state == ("installed" if expected else "not_applicable"), point
    assert set(states().values()) <= {"installed", "not_applicable"}
    details = {entry.state: bool(entry.detail) for entry in DSPyInstrumentor().status()}
    assert details == {"installed": False, "not_applicable": True}


def test_no_point_is_named_twice(trace_with: TraceWith) -> None:
    trace_with()
    points = [entry.point for entry in DSPyInstrumentor().status()]
    assert len(points) == len(set(points))


@contextlib.contextmanager
def without(module: str, path: str) -> Iterator[None]:
    """DSPy as if it had never had this attribute."""
    *parents, name = path.split(".")
    owner: Any = importlib.import_module(module)
    for parent in parents:
        owner = getattr(owner, parent)
    kept = vars(owner)[name]
    delattr(owner, name)
    try:
        yield
    finally:
        setattr(owner, name, kept)


REMOVABLE = [
    ("dspy.adapters.types.tool", "Tool.acall"),
    ("dspy.utils.parallelizer", "ParallelExecutor.execute"),
    ("dspy.clients.cache", "Cache.cache_key"),
    ("dspy.primitives.module", "Module.acall"),
    ("dspy.adapters.base", "Adapter.parse"),
    ("dspy.clients.base_lm", "BaseLM.acall"),
    ("dspy.adapters.base", "Adapter"),
]


def concerns(point: str, module: str, path: str) -> bool:
    """Whether a point such as ``module:Class.{one,two}`` needs this attribute."""
    owner, _, names = point.removeprefix(f"{module}:").rpartition(".")
    targets = {f"{owner}.{name}" for name in names.strip("{}").split(",")}
    return point.startswith(f"{module}:") and (path == owner or path in targets)


@pytest.mark.parametrize(("module", "path"), REMOVABLE, ids=lambda value: value)
def test_a_missing_point_disables_only_itself(
    trace_with: TraceWith, telemetry_log: TelemetryLog, module: str, path: str
) -> None:
    before = states_when_whole(trace_with)
    with without(module, path):
        trace_with()
        now = states()
    missing = {point for point in before if concerns(point, module, path)}
    assert missing
    assert now == before | dict.fromkeys(missing, "missing")
    warnings = telemetry_log.take()
    assert len(warnings) == len(missing)
    assert all(dspy.__version__ in warning for warning in warnings)
    assert {point for point in missing if any(point in text for text in warnings)} == missing


def states_when_whole(trace_with: TraceWith) -> dict[str, str]:
    trace_with()
    whole = states()
    uninstrument()
    return whole


def test_a_missing_call_method_is_not_replaced_by_that_of_the_metaclass(
    trace_with: TraceWith, telemetry_log: TelemetryLog
) -> None:
    with without("dspy.primitives.module", "Module.__call__"):
        trace_with()
        state, left = (
            states()["dspy.primitives.module:Module.__call__"],
            "__call__" in vars(dspy.Module),
        )
        uninstrument()
    assert (state, left) == ("missing", False)
    assert any("Module.__call__ that can be traced" in text for text in telemetry_log.take())


def test_everything_else_is_traced(trace_with: TraceWith, telemetry_log: TelemetryLog) -> None:
    with without("dspy.adapters.types.tool", "Tool.acall"):
        traced = trace_with()
        assert dspy.Tool(lambda text: text, name="echo")(text="abc") == "abc"
        assert traced.names() == ["execute_tool echo"]
    (warning,) = telemetry_log.take()
    assert "tool calls get no span" in warning


@pytest.mark.parametrize("name", sorted(of_this_release()))
def test_without_the_facts_an_lm_call_is_still_a_span(
    trace_with: TraceWith, telemetry_log: TelemetryLog, name: str, monkeypatch: Any
) -> None:
    from opentelemetry.instrumentation.dspy._operations.lm import capture

    def elsewhere() -> list[Any]:
        # The history, which has the usage as well, is for LMs that DSPy's own functions do not see.
        history = "dspy.clients.base_lm:BaseLM.update_history"
        return [point for point in points() if point.point not in (name, history)]

    points = capture.patch_points
    monkeypatch.setattr(capture, "patch_points", elsewhere)
    traced = trace_with()
    EchoLM("hi")("hello")
    attributes = traced.attributes("chat echo")
    assert "gen_ai.output.messages" in attributes
    if of_this_release() == {name}:
        assert "gen_ai.usage.input_tokens" not in attributes


def test_a_signature_that_has_changed_costs_the_facts_only(
    trace_with: TraceWith, telemetry_log: TelemetryLog, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As if DSPy passed by keyword what it passes by position today."""
    from opentelemetry.instrumentation.dspy._operations.lm import capture

    def note(record: Any, arguments: Any) -> None:
        raise IndexError("no such argument")

    monkeypatch.setattr(capture, "_record_result", note)
    monkeypatch.setattr(capture, "_record_provider_response", note)
    traced = trace_with()
    for _ in range(3):
        assert EchoLM("hi")("hello") == ["hi"]
    assert traced.names() == ["chat echo"] * 3
    assert len(telemetry_log.take()) == 1


@pytest.mark.parametrize(
    ("text", "numbers"),
    [
        ("3.4.1", (3, 4, 1)),
        ("3.4", (3, 4)),
        ("3.5.0rc1", (3, 5, 0)),
        ("3.5.0b", (3, 5, 0)),
        ("4.0.dev12", (4, 0)),
        ("3.4.1+local", (3, 4, 1)),
        ("", ()),
        ("unknown", ()),
    ],
)
def test_versions(text: str, numbers: tuple[int, ...]) -> None:
    assert parse_version(text) == numbers


def test_the_zero_code_loader_finds_what_it_asks_for() -> None:
    assert DSPyInstrumentor().instrumentation_dependencies() == ("dspy >= 3.0, < 4",)
    package = importlib.import_module("opentelemetry.instrumentation.dspy.package")
    assert package._instruments == ("dspy >= 3.0, < 4",)
    assert package._supports_metrics is True
