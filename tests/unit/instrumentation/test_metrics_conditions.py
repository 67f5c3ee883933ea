# Copyright The opentelemetry-instrumentation-dspy Authors
# SPDX-License-Identifier: Apache-2.0
"""Metrics: when they are recorded, and what they cost while they are off."""

from __future__ import annotations

import contextvars
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import dspy
import pytest
from dspy.utils.parallelizer import ParallelExecutor
from opentelemetry.context import Context
from opentelemetry.instrumentation.utils import suppress_instrumentation
from opentelemetry.metrics import NoOpMeterProvider
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.trace.sampling import ALWAYS_OFF, ALWAYS_ON, ParentBased, Sampler

from opentelemetry.instrumentation.dspy import _metrics as dspy_metrics
from opentelemetry.instrumentation.dspy import semconv
from tests.support.lms import (
    EchoLM,
    answering,
)
from tests.support.traced import Traced
from tests.unit.instrumentation.conftest import TraceWith
from tests.unit.instrumentation.measured import (
    DURATION,
    ECHO_ANSWERED,
    MODULES,
    REASONED,
    REGISTERED,
    Measured,
    Program,
    key,
)


@pytest.fixture
def measured() -> Iterator[Measured]:
    measured = Measured()
    yield measured
    measured.check()
    measured.provider.shutdown()


@pytest.fixture
def traced(trace_with: TraceWith, measured: Measured) -> Traced:
    return trace_with(meter_provider=measured.provider)


def super_calling_lm() -> Any:
    class Calling(EchoLM):
        def __call__(self, *args: Any, **kwargs: Any) -> Any:
            return super().__call__(*args, **kwargs)

    return Calling("hi")


def test_a_call_of_super_is_no_second_call(trace_with: TraceWith, measured: Measured) -> None:
    trace_with(sampler=ALWAYS_OFF, meter_provider=measured.provider)

    class Asking(dspy.Module):
        def forward(self) -> None:
            super_calling_lm()("hello")

    Asking()()
    assert measured.counts(DURATION) == {key(ECHO_ANSWERED): 1}


def test_nothing_is_serialised_for_metrics_alone(trace_with: TraceWith, measured: Measured) -> None:
    shown: list[Any] = []

    def redact(operation: str, field: str, value: Any) -> Any:
        shown.append(value)
        return value

    trace_with(sampler=ALWAYS_OFF, meter_provider=measured.provider, redact=redact)
    with dspy.context(lm=EchoLM(REASONED)):
        Program()(question="?")
    assert measured.counts(DURATION) == {key(ECHO_ANSWERED): 1}
    assert shown == []


def test_a_sampled_span_of_the_program_below_an_unsampled_one(
    trace_with: TraceWith, measured: Measured
) -> None:
    class OnlyOwn(Sampler):
        """Samples no root but the program's own span."""

        def should_sample(self, *args: Any, **kwargs: Any) -> Any:
            sampler = ALWAYS_ON if "own" in (*args, kwargs.get("name")) else ALWAYS_OFF
            return sampler.should_sample(*args, **kwargs)

        def get_description(self) -> str:
            return "OnlyOwn"

    provider = measured.provider
    traced = trace_with(sampler=ParentBased(OnlyOwn()), meter_provider=provider)

    class Program(dspy.Module):
        def forward(self) -> None:
            EchoLM("hi")("unsampled")
            with traced.tracer.start_as_current_span("own", context=Context()):
                EchoLM("hi")("sampled")

    Program()()
    assert traced.tree() == "own\n└─ chat echo"
    assert measured.counts(DURATION) == {key(ECHO_ANSWERED): 2}


def test_suppressed(traced: Traced, measured: Measured) -> None:
    with suppress_instrumentation(), dspy.context(lm=EchoLM(REASONED)):
        Program()(question="?")
    assert measured.all_counts() == {}


@pytest.mark.parametrize("sampler", [ALWAYS_ON, ALWAYS_OFF], ids=["on", "off"])
def test_suppressed_in_the_middle(
    trace_with: TraceWith, measured: Measured, sampler: Sampler
) -> None:
    trace_with(sampler=sampler, meter_provider=measured.provider)

    class Quiet(dspy.Module):
        def forward(self) -> None:
            with suppress_instrumentation():
                EchoLM("hi")("hello")

    Quiet()()
    assert set(measured.all_counts()) == {MODULES, "gen_ai.invoke_workflow.duration"}


def test_concurrent_calls(trace_with: TraceWith, measured: Measured) -> None:
    trace_with(sampler=ALWAYS_OFF, meter_provider=measured.provider)
    lm = EchoLM("hi")
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lm, ["hello"] * 50))
    assert measured.counts(DURATION) == {key(ECHO_ANSWERED): 50}
    assert measured.tokens() == {"input": 150, "output": 100}


def test_uninstrumented(traced: Traced, measured: Measured) -> None:
    from opentelemetry.instrumentation.dspy import DSPyInstrumentor

    held = dspy.Predict("question -> answer").__call__
    DSPyInstrumentor().uninstrument()
    with dspy.context(lm=answering()):
        held(question="?")
    assert measured.all_counts() == {}


def test_a_score(measured: Measured) -> None:
    metrics = dspy_metrics.Metrics(measured.provider, dspy.__version__)
    for score in (0.0, 0.25, 1.0):
        metrics.record_score(score, {"gen_ai.evaluation.name": "exact"})
    (point,) = measured.points("dspy.evaluate.score")
    assert (point.count, point.sum) == (3, 1.25)
    assert dict(point.attributes) == {"gen_ai.evaluation.name": "exact"}


@pytest.mark.parametrize("inside", [False, True], ids=["the outermost", "inside of a span"])
@pytest.mark.parametrize("sampler", [ALWAYS_ON, ALWAYS_OFF], ids=["on", "off"])
def test_the_scores_of_an_evaluation(
    trace_with: TraceWith, measured: Measured, sampler: Sampler, inside: bool
) -> None:
    class Comparing(dspy.Module):
        """An evaluation as a part of a program, as it is of an optimizer's."""

        def forward(self) -> Any:
            return evaluate(dspy.Predict("question -> answer"))

    def exact(example: Any, prediction: Any, trace: Any = None) -> float:
        if example.question == "2":
            raise ZeroDivisionError
        return 0.25 * int(example.question)

    examples = [dspy.Example(question=str(number)).with_inputs("question") for number in range(4)]
    evaluate = dspy.Evaluate(devset=examples, metric=exact, num_threads=2)
    traced = trace_with(sampler=sampler, meter_provider=measured.provider)
    with dspy.context(lm=answering()):
        score = (
            Comparing()().score if inside else evaluate(dspy.Predict("question -> answer")).score
        )
    assert score == 25.0
    assert bool(traced.spans) == (sampler is ALWAYS_ON)
    (point,) = measured.points("dspy.evaluate.score")
    assert dict(point.attributes) == {"gen_ai.evaluation.name": "exact"}
    assert (point.count, point.sum) == (3, 1.0)  # the one without a score has none here, either


@pytest.mark.parametrize("sampler", [ALWAYS_ON, ALWAYS_OFF], ids=["on", "off"])
def test_what_a_metric_spreads_over_threads_is_no_example(
    trace_with: TraceWith, measured: Measured, sampler: Sampler
) -> None:
    def judged(example: Any, prediction: Any, trace: Any = None) -> float:
        judges = ParallelExecutor(num_threads=2, disable_progress_bar=True)
        verdicts: Any = judges.execute(lambda judge: (judge, 0.25), ["strict", "kind"])
        return sum(score for _, score in verdicts)

    trace_with(sampler=sampler, meter_provider=measured.provider)
    examples = [dspy.Example(question="?").with_inputs("question")]
    with dspy.context(lm=answering()):
        dspy.Evaluate(devset=examples, metric=judged)(dspy.Predict("question -> answer"))
    (point,) = measured.points("dspy.evaluate.score")
    assert (point.count, point.sum) == (1, 0.5)


@pytest.mark.parametrize("sampler", [ALWAYS_ON, ALWAYS_OFF], ids=["on", "off"])
def test_an_evaluation_that_is_over_says_nothing_of_later_work(
    trace_with: TraceWith, measured: Measured, sampler: Sampler
) -> None:
    """A straggler that was given up goes on in the context of its evaluation."""
    contexts: list[contextvars.Context] = []

    def keeping(example: Any, prediction: Any, trace: Any = None) -> float:
        contexts.append(contextvars.copy_context())
        return 1.0

    trace_with(sampler=sampler, meter_provider=measured.provider)
    examples = [dspy.Example(question="?").with_inputs("question")]
    with dspy.context(lm=answering()):
        dspy.Evaluate(devset=examples, metric=keeping)(dspy.Predict("question -> answer"))
    executor = ParallelExecutor(num_threads=2, disable_progress_bar=True)
    assert contexts[0].run(executor.execute, str, [1, 2]) == ["1", "2"]
    (point,) = measured.points("dspy.evaluate.score")
    assert (point.count, point.sum) == (1, 1.0)


def test_no_secret_and_no_content_in_metrics(trace_with: TraceWith, measured: Measured) -> None:
    canary = "correct-horse-battery"

    def connect(api_key: str) -> str:
        raise LookupError(f"no {api_key}")

    class Asking(dspy.Module):
        def __init__(self) -> None:
            super().__init__()
            self.generate = dspy.Predict("question -> answer")
            self.connect = dspy.Tool(connect)

        def forward(self, question: str) -> None:
            self.generate(question=question)
            self.connect(api_key=question)

    trace_with(meter_provider=measured.provider)
    lm = EchoLM(api_key=canary, extra_headers={"x-tenant": canary})
    with dspy.context(lm=lm), pytest.raises(LookupError):
        Asking()(question=canary)
    points = [point for name in measured.metrics() for point in measured.points(name)]
    assert points
    told = [(dict(point.attributes), getattr(point, "exemplars", ())) for point in points]
    assert canary not in repr(told)


class TestNoProvider:
    """What costs nothing and does nothing while there is nothing to record with."""

    def test_the_placeholder(self, trace_with: TraceWith) -> None:
        traced = trace_with()
        EchoLM("hi")("hello")
        assert traced.names() == ["chat echo"]

    @pytest.mark.parametrize("make", [NoOpMeterProvider, lambda: None])
    def test_is_not_enabled(self, make: Callable[[], Any]) -> None:
        metrics = dspy_metrics.Metrics(make(), "3")
        assert not metrics.enabled
        metrics.look_for_provider()
        assert not metrics.enabled
        metrics.call_ended({"dspy.operation": "lm"}, {}, None, 1.0, None)
        metrics.record_score(1.0, {})

    def test_an_sdk_that_is_switched_off(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("OTEL_SDK_DISABLED", "true")
        assert not dspy_metrics.Metrics(MeterProvider(shutdown_on_exit=False), "3").enabled

    def test_it_may_come_later(
        self, trace_with: TraceWith, measured: Measured, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        trace_with()
        lm = EchoLM("hi")
        lm("before")
        monkeypatch.setattr(dspy_metrics, "get_meter_provider", lambda: measured.provider)
        lm("after")
        assert measured.counts(DURATION) == {key(ECHO_ANSWERED): 1}


def test_every_metric_is_registered() -> None:
    names = {value for name, value in vars(semconv.MetricNames).items() if name.isupper()}
    assert names == set(REGISTERED)
