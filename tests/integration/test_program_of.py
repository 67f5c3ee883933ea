# Copyright The opentelemetry-instrumentation-dspy Authors
# SPDX-License-Identifier: Apache-2.0
"""``program_of``: the program that has made a trace, in another process."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.integration.traced_program import run_program
from tests.support.children import MLFLOW
from tests.support.mlflow_server import MLflowServer

pytestmark = pytest.mark.integration

PROGRAMS = """
import dspy


class RAG(dspy.Module):
    def __init__(self):
        super().__init__()
        self.ask = dspy.ChainOfThought("question, context: list[str] -> answer")
        self.check = [dspy.Predict("answer -> right: bool")]

    def forward(self, question):
        return self.ask(question=question, context=["a"])
"""
MADE = """
    import json, os, sys

    import dspy
    from dspy.utils import DummyLM

    sys.path.insert(0, os.getcwd())
    from mlflow_bridge import autolog
    from programs_of_test import RAG

    client = autolog(save_programs=True)
    lm = DummyLM([{"answer": "a", "reasoning": "r", "k": 1, "right": True}] * 100)
    lm.kwargs["api_key"] = "sk-canary-8"
    dspy.configure(lm=lm)

    rag = RAG()
    rag.ask.predict.demos = [dspy.Example(question="d", context=["c"], reasoning="r", answer="x")]
    rag.ask.predict.signature = rag.ask.predict.signature.with_instructions("Be brief.")
    programs = [
        rag,
        dspy.Predict("question: str -> answer: str, k: int"),
        dspy.ChainOfThought("question -> answer"),
    ]
    programs[1].demos = [dspy.Example(question="d", answer="x", k=2)]
    for program in programs:
        program(question="hi")
    assert client.flush(100)
    print(json.dumps([[trace.id, trace.program_hash] for trace in client.get_traces()]))
"""
BUILT = """
    import json, os, sys

    sys.path.insert(0, os.getcwd())
    from mlflow_bridge import ProgramHashMismatch, ProgramNotFound, get_autolog_client, program_of
    from opentelemetry.instrumentation.dspy import program_hash

    assert get_autolog_client() is None
    for trace_id, digest in json.loads(os.environ["TRACES"]):
        program = program_of(trace_id)
        assert program_hash(program) == digest
        print(type(program).__name__)
        if type(program).__name__ == "RAG":
            assert program.ask.predict.signature.instructions == "Be brief."
            assert program.ask.predict.demos[0]["answer"] == "x"
            assert program_hash(program_of(trace_id[3:], type(program))) == digest

            class Other(type(program)):
                def __init__(self):
                    super().__init__()
                    self.more = type(self.check[0])("a -> b")

            try:
                program_of(trace_id, Other)
            except (ProgramHashMismatch, ProgramNotFound) as error:
                print(type(error).__name__)
    try:
        program_of("tr-" + "0" * 32)
    except ProgramNotFound as error:
        print("not there:", error)
"""


@pytest.mark.parametrize("kind", ["store", "server"])
def test_each_program_is_built_in_another_process(
    kind: str, request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    fixture = request.getfixturevalue("shared_server" if kind == "server" else "store_uri")
    uri = fixture.uri if isinstance(fixture, MLflowServer) else fixture
    (tmp_path / "programs_of_test.py").write_text(PROGRAMS, "utf-8")
    environment = {
        "MLFLOW_TRACKING_URI": uri,
        "MLFLOW_EXPERIMENT_NAME": f"programs {tmp_path.name}",
    }

    made = run_program(MADE, tmp_path, environment, zygote=MLFLOW)
    traces = json.loads(made.stdout.splitlines()[-1])
    assert len(traces) == 3
    built = run_program(
        BUILT, tmp_path, {**environment, "TRACES": json.dumps(traces)}, zygote=MLFLOW
    )

    lines = built.stdout.splitlines()
    assert sorted(lines[:-1]) == ["ChainOfThought", "Predict", "ProgramNotFound", "RAG"]
    assert lines[-1].startswith("not there: MLflow has no trace")
    held = [
        path
        for path in tmp_path.rglob("*")
        if path.is_file() and path.name != "program.py" and b"sk-canary-8" in path.read_bytes()
    ]
    assert held == []
