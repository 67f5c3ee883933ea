# Copyright The opentelemetry-instrumentation-dspy Authors
# SPDX-License-Identifier: Apache-2.0
"""Programs that are traced with a sampler of the bridge's."""

from __future__ import annotations

from collections import Counter
from typing import Any

import dspy
from dspy.utils.dummies import DummyLM
from opentelemetry.sdk.trace import ReadableSpan

from mlflow_bridge import DSPySampler, MLflowDSPyConfig
from opentelemetry.instrumentation.dspy import DSPyInstrumentor
from tests.support.memory import span_memory

EXAMPLES = [
    dspy.Example(question=f"question {index}", answer="blue").with_inputs("question")
    for index in range(4)
]


class RAG(dspy.Module):
    def __init__(self) -> None:
        super().__init__()
        self.generate = dspy.Predict("question -> answer")

    def forward(self, question: str) -> Any:
        return self.generate(question=question)


class Chat(RAG):
    """Another program."""


def metric(example: dspy.Example, prediction: Any, trace: Any = None) -> bool:
    return example.answer == prediction.answer


def answering() -> DummyLM:
    return DummyLM([{"answer": "blue"}] * 200)


def evaluate(program: dspy.Module) -> float:
    evaluation = dspy.Evaluate(
        devset=EXAMPLES, metric=metric, num_threads=2, display_progress=False
    )
    result: Any = evaluation(program)
    return float(result)


def compiled(program: dspy.Module) -> dspy.Module:
    optimizer = dspy.BootstrapFewShotWithRandomSearch(
        metric=metric, num_candidate_programs=1, max_bootstrapped_demos=1, num_threads=2
    )
    return optimizer.compile(program, trainset=EXAMPLES)


def sampling(**settings: Any) -> MLflowDSPyConfig:
    """A configuration with these settings of the sampler, which are named without their prefix."""
    return MLflowDSPyConfig(**{f"sampling_{name}": value for name, value in settings.items()})


class Sampled:
    """DSPy instrumented, with a sampler in front; until `close`.

    ``settings`` are those of the sampler, without their prefix.
    """

    def __init__(
        self, sampler: DSPySampler | None = None, evaluation_traces: str = "tree", **settings: Any
    ) -> None:
        self.sampler = sampler or DSPySampler(sampling(**settings))
        self.provider, self._memory = span_memory(self.sampler)
        DSPyInstrumentor().instrument(
            tracer_provider=self.provider,
            capture_content=True,
            evaluation_traces=evaluation_traces,
        )

    def close(self) -> None:
        if DSPyInstrumentor().is_instrumented_by_opentelemetry:
            DSPyInstrumentor().uninstrument()

    @property
    def spans(self) -> tuple[ReadableSpan, ...]:
        return self._memory.get_finished_spans()

    def operations(self) -> Counter[str]:
        """How many spans there are of each DSPy operation."""
        return Counter(str((span.attributes or {})["dspy.operation"]) for span in self.spans)

    def traces(self) -> int:
        return len({span.get_span_context().trace_id for span in self.spans})
