# Copyright The opentelemetry-instrumentation-dspy Authors
# SPDX-License-Identifier: Apache-2.0
"""``mlflow.genai.evaluate()``, which looks each trace up as soon as the program has answered."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.integration.traced_program import run_program, stored_traces
from tests.support.children import MLFLOW
from tests.support.fake_openai import FakeOpenAI

pytest.importorskip("mlflow", reason="needs the extra mlflow")

pytestmark = pytest.mark.integration

PROGRAM = """
import json
import dspy
import mlflow
{setup}
from mlflow.genai.scorers import scorer

lm = dspy.LM("openai/gpt-4o-mini", api_base={base_url!r}, api_key="test", cache=False)
dspy.configure(lm=lm)
program = dspy.Predict("question -> answer")
mlflow.set_experiment("evaluation")


@scorer
def answered(outputs):
    return bool(outputs)


@scorer
def sees_the_call(trace):
    return any(span.name == "chat gpt-4o-mini" for span in trace.data.spans)


{define} predict(question):
    return program(question=question).answer


data = [{{"inputs": {{"question": f"Question {{number}}"}}}} for number in range(3)]
result = mlflow.genai.evaluate(data=data, predict_fn=predict, scorers=[answered, sees_the_call])
print(json.dumps({{
    "metrics": {{name: float(value) for name, value in result.metrics.items()}},
    "traces": sorted(result.result_df["trace_id"]),
    "run": result.run_id,
    "of run": sorted(t.info.trace_id for t in mlflow.search_traces(
        run_id=result.run_id, return_type="list")),
}}))
"""


@pytest.mark.parametrize(
    ("zero_code", "define"), [(False, "def"), (True, "def"), (False, "async def")]
)
def test_traces_are_there_when_mlflow_scores_them(
    store_uri: str, tmp_path: Path, zero_code: bool, define: str
) -> None:
    environment = {"MLFLOW_TRACKING_URI": store_uri, "MLFLOW_EXPERIMENT_NAME": "evaluation"}
    setup = "import mlflow_bridge\nmlflow_bridge.autolog()"
    if zero_code:
        environment["OTEL_TRACES_EXPORTER"] = "mlflow"
        setup = ""
    with FakeOpenAI() as server:
        source = PROGRAM.format(base_url=server.base_url, setup=setup, define=define)
        done = run_program(source, tmp_path, environment, zero_code=zero_code, zygote=MLFLOW)
    assert done.log_lines("Failed to log trace") == [], done.stderr
    # The evaluation switches MLflow's own autologging of DSPy on, and off again.
    assert done.log_lines("Exception raised while calling autologging") == [], done.stderr
    [line] = [line for line in done.stdout.splitlines() if line.startswith("{")]
    result = json.loads(line)
    assert result["metrics"] == {"answered/mean": 1.0, "sees_the_call/mean": 1.0}
    assert len(result["traces"]) == 3
    assert set(result["traces"]) <= set(result["of run"])
    # MLflow calls the program once more, before the evaluation, and discards the answer.
    scored = stored_traces(store_uri, "evaluation")
    assert sorted(trace.info.trace_id for trace in scored) == result["traces"]
    for trace in scored:
        values = {found.name: found.value for found in trace.info.assessments}
        assert values == {"answered": True, "sees_the_call": True}


def test_an_optimizer_afterwards_has_one_trace(store_uri: str, tmp_path: Path) -> None:
    source = """
        import dspy
        import mlflow
        from dspy.utils import DummyLM
        from mlflow_bridge import autolog

        autolog()
        # What an evaluation of MLflow's does around the calls of the program.
        mlflow.dspy.autolog(silent=True)
        mlflow.dspy.autolog(disable=True, silent=True)
        examples = [dspy.Example(question="q", answer="blue").with_inputs("question")]
        with dspy.context(lm=DummyLM([{"answer": "blue"}] * 4)):
            program = dspy.Predict("question -> answer")
            dspy.BootstrapFewShot(max_labeled_demos=1).compile(program, trainset=examples)
    """
    environment = {"MLFLOW_TRACKING_URI": store_uri, "MLFLOW_EXPERIMENT_NAME": "optimizing"}
    run_program(source, tmp_path, environment, zygote=MLFLOW)
    [trace] = stored_traces(store_uri, "optimizing")
    names = [span.name for span in trace.data.spans]
    assert "compile BootstrapFewShot" in names
    assert "compile LabeledFewShot" in names
    assert "invoke_workflow Predict question -> answer" in names


def test_an_mlflow_that_keeps_them_in_another_way_is_one_warning(
    store_uri: str, tmp_path: Path
) -> None:
    source = """
        import mlflow
        from mlflow.tracing import fluent
        from mlflow_bridge import autolog

        autolog()
        del fluent._EVAL_REQUEST_ID_TO_TRACE_ID
        for number in range(2):
            with mlflow.tracing.context(tags={"mlflow.eval.requestId": str(number)}):
                work(f"evaluated {number}")
    """
    environment = {"MLFLOW_TRACKING_URI": store_uri, "MLFLOW_EXPERIMENT_NAME": "evaluation"}
    done = run_program(source, tmp_path, environment, zygote=MLFLOW)
    assert len(done.log_lines("mlflow.genai.evaluate() cannot find")) == 1
    assert len(stored_traces(store_uri, "evaluation")) == 2
