# Copyright The opentelemetry-instrumentation-dspy Authors
# SPDX-License-Identifier: Apache-2.0
"""A canary in every place where a secret can be, and what is then in the files and on the output
of a program that stores its traces: on no page of the database, in no spool, in no log line."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.integration.traced_program import run_program, stored_traces
from tests.support.children import MLFLOW

pytestmark = pytest.mark.integration

# They look like nothing in particular, so only their values can give them away.
CANARY = "correct-horse-battery"
CONTENT = "content-of-the-program"

PROGRAM = """
    import logging
    import os

    import dspy
    import mlflow_bridge
    from types import SimpleNamespace

    logging.basicConfig(level=logging.DEBUG)
    logging.getLogger("dspy").setLevel(logging.ERROR)
    mlflow_bridge.autolog()
    secret, content = os.environ["SERVICE_API_KEY"], os.environ["WHAT_IS_ASKED"]

    class LM(dspy.BaseLM):
        failing = False

        def forward(self, prompt=None, messages=None, **kwargs):
            if self.failing:
                raise ConnectionError(f"401: {self.kwargs['api_key']} is no key for {content}")
            text = f"[[ ## answer ## ]]\\n{content}\\n\\n[[ ## completed ## ]]"
            choice = SimpleNamespace(
                message=SimpleNamespace(content=text, tool_calls=None), finish_reason="stop"
            )
            usage = {"prompt_tokens": 3, "completion_tokens": 2, "total_tokens": 5}
            return SimpleNamespace(choices=[choice], usage=usage, model="m", id="r")

    def connect(api_key, password, query):
        return query

    class Program(dspy.Module):
        def __init__(self):
            super().__init__()
            self.generate = dspy.Predict("question -> answer")
            self.tool = dspy.Tool(connect)

        def forward(self, question):
            self.tool(api_key=secret, password=secret, query=question)
            self.generate(question=question, config={"extra_headers": {"x-tenant": secret}})
            lm = dspy.settings.lm
            lm.failing = True
            return self.generate(question=question)

    lm = LM(
        "m",
        cache=False,
        api_key=secret,
        headers={"Authorization": f"Bearer {secret}"},
        api_base=f"https://user:{secret}@gateway.test/v1?key={secret}",
    )
    with dspy.context(lm=lm, adapter=dspy.ChatAdapter()):
        try:
            Program()(question=content)
        except Exception as error:
            assert secret in str(error)  # the program sees all of it
"""


def kept_in(directory: Path, text: str) -> list[str]:
    """The files below a directory that have the text in them."""
    files = [file for file in directory.rglob("*") if file.is_file()]
    return [file.name for file in files if text.encode() in file.read_bytes()]


@pytest.mark.parametrize("mode", ["SPAN_ONLY", "NO_CONTENT"])
def test_what_is_stored(store_uri: str, tmp_path: Path, mode: str) -> None:
    environment = {
        "MLFLOW_TRACKING_URI": store_uri,
        "SERVICE_API_KEY": CANARY,
        "WHAT_IS_ASKED": CONTENT,
        "OTEL_INSTRUMENTATION_GENAI_CAPTURE_MESSAGE_CONTENT": mode,
        "XDG_STATE_HOME": str(tmp_path / "state"),
        "DSPY_CACHEDIR": str(tmp_path / "cache"),
    }
    done = run_program(PROGRAM, tmp_path, environment, zygote=MLFLOW)
    (trace,) = stored_traces(store_uri)
    assert trace.info.state.value == "ERROR"
    assert {span.name for span in trace.data.spans} >= {"connect", "chat m"}
    assert kept_in(tmp_path, CANARY) == []
    assert CANARY not in done.stdout + done.stderr
    has_content = ["mlflow.db"] if mode == "SPAN_ONLY" else []
    assert kept_in(tmp_path, CONTENT) == has_content
    assert CONTENT not in done.stdout + done.stderr
