# Copyright The opentelemetry-instrumentation-dspy Authors
# SPDX-License-Identifier: Apache-2.0
"""What a sanitizer takes out is not in the database, its previews and tags, or the spool."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest

from tests.integration.traced_program import Finished, hide_litellm, run_program, stored_traces
from tests.support.children import MLFLOW

pytestmark = pytest.mark.integration

SSN, CODE = "078-05-1120", "code-4711-0815"
EXPERIMENT = "sanitised"
BOTH = ("input_sanitizer", "output_sanitizer")

FUNCTIONS = """
def without(values):
    return {name: item for name, item in values.items() if name not in ("ssn", "code", "customer")}

def fails(values):
    raise LookupError(str(values))
"""

PROGRAM = """
    import dspy
    import mlflow
    import mlflow_bridge
    {autolog}

    class LM(dspy.BaseLM):
        def __call__(self, prompt=None, messages=None, **kwargs):
            return ["[[ ## answer ## ]]\\n{ssn} has {code}\\n\\n[[ ## completed ## ]]"]

    class Codes(dspy.Module):
        def forward(self, ssn):
            return dspy.Prediction(code="{code}", kind="new")

    class Program(dspy.Module):
        def __init__(self):
            super().__init__()
            self.codes = Codes()
            self.predict = dspy.Predict("ssn, code, question -> answer")
            self.tool = dspy.Tool(self.look_up, name="look_up")

        def look_up(self, text):
            with mlflow.start_span("inside") as span:
                span.set_inputs({{"text": text}})
                raise ValueError(f"nothing known of {{text}}")

        def forward(self, ssn, question):
            code = self.codes(ssn=ssn).code
            try:
                self.tool(text=ssn + " and " + code)
            except ValueError:
                mlflow.update_current_trace(tags={{"contact": ssn}})
            return self.predict(ssn=ssn, code=code, question=question)

    @mlflow.trace
    def serve(question, customer):
        return Program()(ssn=customer, question=question).answer

    with dspy.context(lm=LM("m", cache=False), adapter=dspy.ChatAdapter()):
        assert serve("who?", "{ssn}") == "{ssn} has {code}"
"""


def run(
    tmp_path: Path,
    autolog: str,
    variables: dict[str, str] | None = None,
    *,
    zero_code: bool = False,
) -> Finished:
    hide_litellm(tmp_path)
    (tmp_path / "sanitizers.py").write_text(FUNCTIONS, "utf-8")
    environment = {
        "MLFLOW_EXPERIMENT_NAME": EXPERIMENT,
        "PYTHONPATH": os.pathsep.join([str(tmp_path), os.environ.get("PYTHONPATH", "")]),
        **(variables or {}),
    }
    source = PROGRAM.format(autolog=autolog, ssn=SSN, code=CODE)
    return run_program(source, tmp_path, environment, zero_code=zero_code, zygote=MLFLOW)


def files(tmp_path: Path, pattern: str) -> bytes:
    return b"".join(path.read_bytes() for path in tmp_path.glob(pattern) if path.is_file())


def assert_nowhere(store_uri: str, tmp_path: Path) -> None:
    [trace] = stored_traces(store_uri, EXPERIMENT)
    names = {span.name for span in trace.data.spans}
    assert names >= {"serve", "inside", "look_up", "chat m", "ChatAdapter", "Codes"}
    info: Any = trace.info
    shown = "\n".join([trace.to_json(), repr(info.tags), repr(info.trace_metadata)])
    shown += str(info.request_preview) + str(info.response_preview)
    stored = files(tmp_path, "mlflow.db*")
    assert "[REDACTED]" in shown
    assert "who?" in shown
    for canary in (SSN, CODE):
        assert canary not in shown
        assert canary.encode() not in stored
        assert canary.encode() not in files(tmp_path, "**/*.jsonl")


def test_arguments(store_uri: str, tmp_path: Path) -> None:
    given = ", ".join(f"{name}=without" for name in BOTH)
    autolog = f"from sanitizers import without; mlflow_bridge.autolog({given})"
    run(tmp_path, autolog)
    assert_nowhere(store_uri, tmp_path)


@pytest.mark.parametrize("prefix", ["MLFLOW_DSPY_", "OTEL_INSTRUMENTATION_DSPY_"])
@pytest.mark.parametrize("zero_code", [False, True], ids=["autolog", "zero code"])
def test_variables(store_uri: str, tmp_path: Path, prefix: str, zero_code: bool) -> None:
    variables = {f"{prefix}{name}".upper(): "sanitizers:without" for name in BOTH}
    if zero_code:
        variables |= {"OTEL_TRACES_EXPORTER": "mlflow"}
    autolog = "" if zero_code else "mlflow_bridge.autolog()"
    run(tmp_path, autolog, variables, zero_code=zero_code)
    assert_nowhere(store_uri, tmp_path)


def test_a_sanitizer_that_fails_keeps_the_trace(store_uri: str, tmp_path: Path) -> None:
    variables = {f"MLFLOW_DSPY_{name}".upper(): "sanitizers:fails" for name in BOTH}
    done = run(tmp_path, "mlflow_bridge.autolog()", variables)
    assert len(done.log_lines("LookupError")) == 2, done.stderr
    [trace] = stored_traces(store_uri, EXPERIMENT)
    assert len(trace.data.spans) == 8
    stored = files(tmp_path, "mlflow.db*")
    for canary in (SSN, CODE):
        assert canary not in trace.to_json() + done.stderr
        assert canary.encode() not in stored


def test_the_spool_has_nothing_of_it(tmp_path: Path) -> None:
    variables = {
        "MLFLOW_TRACKING_URI": "http://127.0.0.1:9",
        "MLFLOW_DSPY_SPOOL_DIRECTORY": str(tmp_path / "spools"),
        "MLFLOW_DSPY_EXIT_TIMEOUT_SECONDS": "3",
        **{f"MLFLOW_DSPY_{name}".upper(): "sanitizers.without" for name in BOTH},
    }
    run(tmp_path, "mlflow_bridge.autolog()", variables)
    spooled = files(tmp_path, "spools/**/*")
    assert b"execute_tool look_up" in spooled
    assert b"[REDACTED]" in spooled
    for canary in (SSN, CODE):
        assert canary.encode() not in spooled


@pytest.mark.parametrize("name", BOTH)
def test_what_cannot_be_loaded_means_no_content(store_uri: str, tmp_path: Path, name: str) -> None:
    variable = f"MLFLOW_DSPY_{name.upper()}"
    done = run(tmp_path, "mlflow_bridge.autolog()", {variable: "nowhere:function"})
    assert len(done.log_lines(variable)) == 1, done.stderr
    [trace] = stored_traces(store_uri, EXPERIMENT)
    dspys = [span for span in trace.data.spans if span.name not in ("serve", "inside")]
    shown = "".join(repr(span.to_dict()) for span in dspys)
    assert len(dspys) == 6
    assert SSN not in shown
    assert CODE not in shown


@pytest.mark.parametrize("name", ["module_filter", "trace_condition"])
@pytest.mark.parametrize("prefix", ["MLFLOW_DSPY_", "OTEL_INSTRUMENTATION_DSPY_"])
def test_a_filter_or_condition_that_cannot_be_loaded_records_no_call(
    store_uri: str, tmp_path: Path, name: str, prefix: str
) -> None:
    variable = f"{prefix}{name.upper()}"
    done = run(
        tmp_path, "mlflow_bridge.autolog()", {variable: "nowhere:x", "MLFLOW_DSPY_TRACES": "all"}
    )
    assert done.log_lines(variable), done.stderr
    [trace] = stored_traces(store_uri, EXPERIMENT)
    names = {span.name for span in trace.data.spans}
    assert "serve" in names
    assert not any(one.startswith(("invoke", "chat", "Predict")) for one in names)
