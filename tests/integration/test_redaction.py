# Copyright The opentelemetry-instrumentation-dspy Authors
# SPDX-License-Identifier: Apache-2.0
"""What ``redact`` names is nowhere: not in the database, its previews and tags, or the spool."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

from tests import ROOT
from tests.integration.traced_program import Finished, hide_litellm, run_program, stored_traces
from tests.support.children import MLFLOW

pytestmark = pytest.mark.integration

SSN, EMAIL, CASE, KEY = "078-05-1120", "ann.example@example.org", "case-4711", "10.20.30.40"
CANARIES = (SSN, EMAIL, CASE, KEY)
EXPERIMENT = "redacted"

PROGRAM = """
    import dspy
    import mlflow
    import mlflow_bridge
    {autolog}

    class LM(dspy.BaseLM):
        def __call__(self, prompt=None, messages=None, **kwargs):
            return [f"[[ ## answer ## ]]\\n{ssn} asks from {email}\\n\\n[[ ## completed ## ]]"]

    class Program(dspy.Module):
        def __init__(self):
            super().__init__()
            self.predict = dspy.Predict("ssn, question -> answer")
            self.tool = dspy.Tool(self.look_up, name="look_up")

        def look_up(self, text):
            with mlflow.start_span("inside") as span:
                span.set_inputs({{"text": text, "customer": {{"ssn": "{ssn}"}}}})
                span.set_attribute("ssn", "{ssn}")
                raise ValueError(f"nothing known of {{text}} at {ip}")

        def forward(self, ssn, question):
            try:
                self.tool(text=ssn)
            except ValueError:
                mlflow.update_current_trace(tags={{"contact": "{email}"}})
            return self.predict(ssn=ssn, question=question)

    @mlflow.trace
    def serve(question, customer):
        return Program()(ssn=customer["ssn"], question=question).answer

    def main():
        with dspy.context(lm=LM("m", cache=False), adapter=dspy.ChatAdapter()):
            with mlflow_bridge.trace_context(user_id="{email}", tags={{"case": "{case}"}}):
                return serve("about {case} by {email}", {{"ssn": "{ssn}"}})

    assert main() == "{ssn} asks from {email}"
"""
VARIABLES = {
    name: r"field:ssn,email,ip,regex:case-\d{1,9}"
    for name in ("MLFLOW_DSPY_REDACT", "OTEL_INSTRUMENTATION_DSPY_REDACT")
}


def documented() -> str:
    """The first block of the section on personal data."""
    page = (ROOT / "docs/best-practice.md").read_text("utf-8")
    section = page.partition("### Remove personal data")[2]
    found = re.search(r"^```python\n(.*?)^```$", section, re.DOTALL | re.MULTILINE)
    assert found is not None
    assert "redact=" in found[1]
    return found[1].strip().replace("\n", "\n    ")


def run(
    tmp_path: Path,
    autolog: str,
    variables: dict[str, str] | None = None,
    *,
    zero_code: bool = False,
) -> Finished:
    hide_litellm(tmp_path)
    values = {"ssn": SSN, "email": EMAIL, "case": CASE, "ip": KEY}
    source = PROGRAM.format(autolog=autolog, **values)
    environment = {"MLFLOW_EXPERIMENT_NAME": EXPERIMENT, **(variables or {})}
    return run_program(source, tmp_path, environment, zero_code=zero_code, zygote=MLFLOW)


def files(tmp_path: Path, pattern: str) -> bytes:
    return b"".join(path.read_bytes() for path in tmp_path.glob(pattern) if path.is_file())


def assert_nowhere(store_uri: str, tmp_path: Path) -> None:
    [trace] = stored_traces(store_uri, EXPERIMENT)
    names = {span.name for span in trace.data.spans}
    assert names >= {"serve", "inside", "look_up", "chat m", "ChatAdapter"}
    info: Any = trace.info
    shown = "\n".join([trace.to_json(), repr(info.tags), repr(info.trace_metadata)])
    for text in (shown, str(info.request_preview), str(info.response_preview)):
        assert "[REDACTED]" in text
    stored = files(tmp_path, "mlflow.db*")
    assert b"[REDACTED]" in stored
    for canary in CANARIES:
        assert canary not in shown
        assert canary.encode() not in stored
        assert canary.encode() not in files(tmp_path, "**/*.jsonl")


def test_the_example_of_the_documentation(store_uri: str, tmp_path: Path) -> None:
    run(tmp_path, documented())
    assert_nowhere(store_uri, tmp_path)


@pytest.mark.parametrize("variable", VARIABLES)
@pytest.mark.parametrize("zero_code", [False, True], ids=["autolog", "zero code"])
def test_a_variable(store_uri: str, tmp_path: Path, variable: str, zero_code: bool) -> None:
    autolog = "" if zero_code else "mlflow_bridge.autolog()"
    variables = {variable: VARIABLES[variable]}
    if zero_code:
        variables |= {"OTEL_TRACES_EXPORTER": "mlflow"}
    run(tmp_path, autolog, variables, zero_code=zero_code)
    assert_nowhere(store_uri, tmp_path)


def test_the_variable_of_the_bridge_takes_precedence(store_uri: str, tmp_path: Path) -> None:
    run(tmp_path, "mlflow_bridge.autolog()", {**VARIABLES, "OTEL_INSTRUMENTATION_DSPY_REDACT": "x"})
    assert_nowhere(store_uri, tmp_path)


def test_autolog_after_zero_code_keeps_the_redaction(store_uri: str, tmp_path: Path) -> None:
    variables = {
        "MLFLOW_DSPY_REDACT": VARIABLES["MLFLOW_DSPY_REDACT"],
        "OTEL_TRACES_EXPORTER": "mlflow",
    }
    autolog = "mlflow_bridge.autolog(max_content_length=100_000)"
    run(tmp_path, autolog, variables, zero_code=True)
    assert_nowhere(store_uri, tmp_path)


def test_a_later_autolog_without_an_argument_keeps_what_the_environment_says(
    store_uri: str, tmp_path: Path
) -> None:
    autolog = "mlflow_bridge.autolog(); mlflow_bridge.autolog(max_content_length=100_000)"
    run(tmp_path, autolog, {"MLFLOW_DSPY_REDACT": VARIABLES["MLFLOW_DSPY_REDACT"]})
    assert_nowhere(store_uri, tmp_path)


@pytest.mark.parametrize("variable", VARIABLES)
def test_what_cannot_be_loaded_means_no_content(
    store_uri: str, tmp_path: Path, variable: str
) -> None:
    done = run(tmp_path, "mlflow_bridge.autolog()", {variable: "nowhere:function"})
    assert len(done.log_lines(variable)) == 1, done.stderr
    [trace] = stored_traces(store_uri, EXPERIMENT)
    shown = trace.to_json() + repr(trace.info.tags)
    stored = files(tmp_path, "mlflow.db*")
    for canary in CANARIES:
        assert canary not in shown
        assert canary.encode() not in stored


def test_the_spool_has_nothing_of_it(tmp_path: Path) -> None:
    variables = {
        "MLFLOW_TRACKING_URI": "http://127.0.0.1:9",
        "MLFLOW_DSPY_SPOOL_DIRECTORY": str(tmp_path / "spools"),
        "MLFLOW_DSPY_EXIT_TIMEOUT_SECONDS": "3",
        "MLFLOW_DSPY_REDACT": VARIABLES["MLFLOW_DSPY_REDACT"],
    }
    run(tmp_path, "mlflow_bridge.autolog()", variables)
    spooled = files(tmp_path, "spools/**/*")
    assert b"execute_tool look_up" in spooled
    assert b"[REDACTED]" in spooled
    for canary in CANARIES:
        assert canary.encode() not in spooled
