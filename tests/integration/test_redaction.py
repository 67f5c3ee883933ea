# Copyright The opentelemetry-instrumentation-dspy Authors
# SPDX-License-Identifier: Apache-2.0
"""Fields and patterns that ``redact`` names are on no page of the database."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.integration.traced_program import hide_litellm, run_program, stored_traces
from tests.support.children import MLFLOW

pytestmark = pytest.mark.integration

SSN, EMAIL, CASE = "078-05-1120", "ann.example@example.org", "case-4711"

PROGRAM = """
    import dspy
    import mlflow_bridge
    {autolog}

    class LM(dspy.BaseLM):
        def __call__(self, prompt=None, messages=None, **kwargs):
            return [f"[[ ## answer ## ]]\\n{ssn} asks from {email}\\n\\n[[ ## completed ## ]]"]

    with dspy.context(lm=LM("m", cache=False), adapter=dspy.ChatAdapter()):
        predict = dspy.Predict("ssn, question -> answer")
        answer = predict(ssn="{ssn}", question="about {case} by {email}").answer
    assert answer == "{ssn} asks from {email}"
"""
BY_ARGUMENT = """
    import re
    mlflow_bridge.autolog(redact=["field:ssn", "email", re.compile(r"case-[0-9]+")])
"""
VARIABLES = {"MLFLOW_DSPY_REDACT": r"field:ssn,email,regex:case-\d{1,9}"}


@pytest.mark.parametrize(
    ("autolog", "variables"), [(BY_ARGUMENT, {}), ("mlflow_bridge.autolog()", VARIABLES)]
)
def test_what_is_redacted_is_in_no_trace(
    store_uri: str, tmp_path: Path, autolog: str, variables: dict[str, str]
) -> None:
    hide_litellm(tmp_path)
    source = PROGRAM.format(autolog=autolog.strip(), ssn=SSN, email=EMAIL, case=CASE)
    environment = {"MLFLOW_EXPERIMENT_NAME": "redacted", **variables}
    run_program(source, tmp_path, environment, zygote=MLFLOW)
    [trace] = stored_traces(store_uri, "redacted")
    assert len(trace.data.spans) > 3
    stored = b"".join(path.read_bytes() for path in tmp_path.glob("mlflow.db*"))
    assert b"[REDACTED]" in stored
    for canary in (SSN, EMAIL, CASE):
        assert canary.encode() not in stored
