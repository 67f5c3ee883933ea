# Copyright The opentelemetry-instrumentation-dspy Authors
# SPDX-License-Identifier: Apache-2.0
"""Every optimizer that runs offline: one tree, every LM call in it, the same program."""

from __future__ import annotations

import json
import random
import sys
from collections.abc import Callable
from typing import Any

import dspy
import numpy as np
import pytest

from opentelemetry.instrumentation.dspy import DSPyInstrumentor
from tests.support.lms import DSPY, Version
from tests.support.memory import span_memory
from tests.support.prompt_lm import PromptLM
from tests.support.span_tree import assert_one_tree, only_span, span_tree

pytestmark = [pytest.mark.surface("compile"), pytest.mark.surface("ParallelExecutor")]

teleprompt = dspy.teleprompt


def agrees(example: Any, prediction: Any, trace: Any = None) -> bool:
    return example.answer == prediction.answer


def agrees_with_feedback(
    gold: Any, pred: Any, trace: Any = None, pred_name: Any = None, pred_trace: Any = None
) -> Any:
    return dspy.Prediction(score=float(gold.answer == pred.answer), feedback="Look again.")


def embed(texts: list[str]) -> Any:
    return np.array([[len(text), sum(map(ord, text)) % 7] for text in texts], dtype=np.float32)


EXAMPLES = [
    dspy.Example(question=f"q{number}", answer="a" if number % 2 else "b").with_inputs("question")
    for number in range(8)
]


def labeled_few_shot(lm: PromptLM, student: Any) -> Any:
    return teleprompt.LabeledFewShot(k=2).compile(student, trainset=EXAMPLES)


def bootstrap_few_shot(lm: PromptLM, student: Any) -> Any:
    return teleprompt.BootstrapFewShot(metric=agrees).compile(student, trainset=EXAMPLES)


def bootstrap_random_search(lm: PromptLM, student: Any) -> Any:
    optimizer = teleprompt.BootstrapFewShotWithRandomSearch(
        metric=agrees, num_candidate_programs=2, num_threads=2
    )
    return optimizer.compile(student, trainset=EXAMPLES)


def copro(lm: PromptLM, student: Any) -> Any:
    optimizer = teleprompt.COPRO(metric=agrees, breadth=2, depth=1, prompt_model=lm)
    evaluation = {"num_threads": 2, "display_progress": False}
    return optimizer.compile(student, trainset=EXAMPLES, eval_kwargs=evaluation)


def mipro(lm: PromptLM, student: Any) -> Any:
    pytest.importorskip("optuna")
    optimizer = teleprompt.MIPROv2(
        metric=agrees,
        auto=None,
        num_candidates=2,
        prompt_model=lm,
        task_model=lm,
        num_threads=2,
        seed=1,
    )
    return optimizer.compile(
        student,
        trainset=EXAMPLES,
        valset=EXAMPLES,
        num_trials=2,
        minibatch=False,
        requires_permission_to_run=False,
    )


def simba(lm: PromptLM, student: Any) -> Any:
    optimizer = teleprompt.SIMBA(
        metric=agrees, bsize=4, num_candidates=2, max_steps=1, max_demos=1, num_threads=2
    )
    optimizer.prompt_model = lm
    return optimizer.compile(student, trainset=EXAMPLES, seed=1)


def gepa(lm: PromptLM, student: Any) -> Any:
    optimizer = dspy.GEPA(
        metric=agrees_with_feedback,
        max_metric_calls=20,
        reflection_lm=lm,
        num_threads=2,
        seed=1,
        reflection_minibatch_size=2,
    )
    return optimizer.compile(student, trainset=EXAMPLES, valset=EXAMPLES)


def knn_few_shot(lm: PromptLM, student: Any) -> Any:
    # Not an Embedder: its first call, in the constructor, is a trace of its own.
    optimizer = teleprompt.KNNFewShot(k=2, trainset=EXAMPLES, vectorizer=embed, metric=agrees)
    return optimizer.compile(student)


def infer_rules(lm: PromptLM, student: Any) -> Any:
    optimizer = teleprompt.InferRules(metric=agrees, num_candidates=2, num_rules=2, num_threads=2)
    return optimizer.compile(student, trainset=EXAMPLES, valset=EXAMPLES)


def better_together(lm: PromptLM, student: Any) -> Any:
    prompts = teleprompt.BootstrapFewShotWithRandomSearch(
        metric=agrees, num_candidate_programs=1, num_threads=1
    )
    weights = teleprompt.LabeledFewShot(k=1)
    if Version("3.2") > DSPY:
        pytest.skip("dspy < 3.2: it takes a fine-tuning optimizer only")
    optimizer = teleprompt.BetterTogether(metric=agrees, p=prompts, w=weights)
    return optimizer.compile(student, trainset=EXAMPLES, strategy="p -> w", seed=1)


def ensemble(lm: PromptLM, student: Any) -> Any:
    optimizer = teleprompt.Ensemble(reduce_fn=dspy.majority)
    return optimizer.compile([student, student.deepcopy()])


Compile = Callable[[PromptLM, Any], Any]

OPTIMIZERS: dict[str, Compile] = {
    "LabeledFewShot": labeled_few_shot,
    "BootstrapFewShot": bootstrap_few_shot,
    "BootstrapFewShotWithRandomSearch": bootstrap_random_search,
    "COPRO": copro,
    "MIPROv2": mipro,
    "SIMBA": simba,
    "GEPA": gepa,
    "KNNFewShot": knn_few_shot,
    "InferRules": infer_rules,
    "Ensemble": ensemble,
    "BetterTogether": better_together,
}


def compiled(compile_: Compile) -> tuple[str, list[str]]:
    """The state of the compiled program, and every prompt that it took, in any order.

    The program is called, too: KNNFewShot compiles then only, and Ensemble has its say then.
    """
    random.seed(0)
    np.random.seed(0)
    lm = PromptLM()
    with dspy.context(lm=lm):
        student = dspy.ChainOfThought("question -> answer")
        student.set_lm(lm)
        program = compile_(lm, student)
        answer = program(question="q9").answer
    predictors = program.named_predictors() if hasattr(program, "named_predictors") else ()
    state = {name: predictor.dump_state() for name, predictor in predictors}
    return json.dumps([answer, state], default=str, sort_keys=True), sorted(lm.calls)


def compiled_and_traced(compile_: Compile) -> tuple[tuple[str, list[str]], Any]:
    provider, exporter = span_memory()
    DSPyInstrumentor().instrument(
        tracer_provider=provider, capture_content=True, skip_dep_check=True
    )
    try:
        return compiled(compile_), exporter.get_finished_spans()
    finally:
        DSPyInstrumentor().uninstrument()


def traces_of(spans: Any) -> list[list[Any]]:
    """The spans of each trace, the trace that began first at the front."""
    traces: dict[int, list[Any]] = {}
    for span in sorted(spans, key=lambda span: span.start_time):
        traces.setdefault(span.context.trace_id, []).append(span)
    return list(traces.values())


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_compiling_is_one_tree_and_gives_the_same_program(name: str) -> None:
    plain = compiled(OPTIMIZERS[name])
    traced, spans = compiled_and_traced(OPTIMIZERS[name])

    root, call = (assert_one_tree(trace) for trace in traces_of(spans))
    assert call.name.startswith("invoke_workflow ")
    assert root.name == f"compile {name}"
    assert root.attributes["dspy.optimizer.type"] == name
    assert traced[0] == plain[0]
    assert traced[1] == plain[1]
    lm_spans = [span for span in spans if span.attributes["dspy.operation"] == "lm"]
    assert len(lm_spans) == len(traced[1])


def test_evaluations_inside_a_compile_are_its_numbered_trials() -> None:
    _, spans = compiled_and_traced(bootstrap_random_search)

    root = only_span(spans, "compile BootstrapFewShotWithRandomSearch")
    trials = [span for span in spans if span.name == "evaluate agrees"]
    indices = sorted(span.attributes["dspy.optimizer.trial.index"] for span in trials)
    assert indices == list(range(len(trials)))
    assert root.attributes["dspy.optimizer.trial.count"] == len(trials)
    best = max(span.attributes["dspy.evaluate.score"] for span in trials)
    assert root.attributes["dspy.optimizer.best_score"] == best
    assert root.attributes["dspy.optimizer.metric"] == "agrees"
    assert root.attributes["dspy.optimizer.trainset.count"] == len(EXAMPLES)
    assert json.loads(root.attributes["dspy.optimizer.config"])["num_threads"] == 2


def test_an_optimizer_that_calls_super_makes_one_span() -> None:
    class Twice(teleprompt.LabeledFewShot):
        def compile(self, student: Any, **kwargs: Any) -> Any:
            return super().compile(student, **kwargs)

    _, spans = compiled_and_traced(
        lambda lm, student: Twice(k=1).compile(student, trainset=EXAMPLES)
    )
    assert span_tree(traces_of(spans)[0]) == "compile Twice [INTERNAL]"


def test_a_failing_compile_is_an_error_and_raises_the_same() -> None:
    class Failing(teleprompt.Teleprompter):
        def compile(self, student: Any, **kwargs: Any) -> Any:
            raise LookupError("nothing to learn")

    provider, exporter = span_memory()
    DSPyInstrumentor().instrument(tracer_provider=provider, skip_dep_check=True)
    try:
        with pytest.raises(LookupError, match="nothing to learn") as raised:
            Failing().compile(dspy.Predict("question -> answer"), trainset=EXAMPLES)
    finally:
        DSPyInstrumentor().uninstrument()
    assert span_tree(exporter.get_finished_spans()) == (
        "compile Failing [INTERNAL] ERROR(LookupError)"
    )
    if sys.version_info >= (3, 11):
        files = [str(entry.path) for entry in raised.traceback]
        assert not [file for file in files if "/opentelemetry/instrumentation/dspy/" in file]
