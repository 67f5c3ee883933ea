# Copyright The opentelemetry-instrumentation-dspy Authors
# SPDX-License-Identifier: Apache-2.0
"""Descriptions of programs on their way to MLflow."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import dspy
import pytest
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider

from mlflow_bridge import MLflowBatchSpanProcessor, MLflowDSPyConfig
from mlflow_bridge._export.contract import Outcome
from mlflow_bridge._spans import program_states
from mlflow_bridge._spans.annotation import annotation_of, is_program
from mlflow_bridge.sampling import TailSampling
from opentelemetry.instrumentation.dspy import DSPyInstrumentor
from tests.support.fake_delivery import FakeDelivery
from tests.support.prompt_lm import PromptLM
from tests.support.traced import uninstrument


class Delivery(FakeDelivery):
    """Keeps the spans as well."""

    def __init__(self) -> None:
        super().__init__()
        self.spans: list[ReadableSpan] = []

    def deliver(self, spans: Sequence[ReadableSpan]) -> Outcome:
        self.spans.extend(spans)
        return super().deliver(spans)


class Programs:
    def __init__(self, **settings: Any) -> None:
        self.delivery = Delivery()
        config = MLflowDSPyConfig(save_programs=True, **settings)
        self.delivery.config = config  # type: ignore[attr-defined]
        tail = TailSampling(rate=0.0) if settings.get("tail_rate") == 0.0 else None
        self.processor = MLflowBatchSpanProcessor(self.delivery, tail=tail)
        self.provider = TracerProvider(shutdown_on_exit=False)
        self.provider.add_span_processor(self.processor)
        DSPyInstrumentor().instrument(
            tracer_provider=self.provider, **config.instrument_arguments()
        )

    def run(self, program: Any, **attributes: str) -> None:
        web = self.provider.get_tracer("web").start_as_current_span("web", attributes=attributes)
        with dspy.context(lm=PromptLM(answers=["a"])), web:
            program(question="hi")

    def saved(self) -> list[Any]:
        self.processor.shutdown()
        return [annotation_of(span) for span in self.delivery.spans if is_program(span)]


@pytest.fixture(autouse=True)
def fresh(monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.setattr(program_states, "_known", type(program_states._known)())
    yield
    uninstrument()


def program(instructions: str = "Answer.") -> Any:
    return dspy.Predict(dspy.Signature("question -> answer", instructions))


def test_each_new_program_is_saved_once() -> None:
    programs = Programs()
    one, other = program(), program("Answer briefly.")
    for each in (one, one, other, one):
        programs.run(each)
    saved = programs.saved()
    assert len(saved) == 2
    assert len({annotation.program[0] for annotation in saved}) == 2
    assert "Answer briefly." in saved[1].program[1]
    assert saved[0].experiment_id is None


def test_it_is_saved_in_the_experiment_of_its_trace() -> None:
    programs = Programs()
    each = program()
    programs.run(each)
    programs.run(each, **{"mlflow.experimentId": "7"})
    assert {annotation.experiment_id for annotation in programs.saved()} == {None, "7"}


def test_it_is_saved_although_its_trace_is_not_kept() -> None:
    programs = Programs(tail_rate=0.0)
    programs.run(program())
    assert len(programs.saved()) == 1
    assert all(is_program(span) for span in programs.delivery.spans)


@pytest.mark.parametrize(
    "settings",
    [{"capture_content": False}, {"log_inputs": False}, {"capture_content": "EVENT_ONLY"}],
)
def test_nothing_is_saved_without_content(settings: dict[str, Any]) -> None:
    programs = Programs(**settings)
    programs.run(program())
    assert programs.saved() == []


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ({}, False),
        ({"log_evals": True}, True),
        ({"log_compiles": True}, True),
        ({"save_programs": True}, True),
        ({"save_programs": False, "log_evals": True}, False),
    ],
)
def test_when_programs_are_saved(settings: dict[str, bool], expected: bool) -> None:
    config = MLflowDSPyConfig(**settings)
    assert config.saves_programs is expected
    assert ("program_hook" in config.instrument_arguments()) is expected
