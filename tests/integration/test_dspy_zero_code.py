# Copyright The opentelemetry-instrumentation-dspy Authors
# SPDX-License-Identifier: Apache-2.0
"""A program that knows nothing of tracing, started by ``opentelemetry-instrument``."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from importlib.metadata import entry_points
from pathlib import Path

import pytest

from tests.support.children import MLFLOW, SDK, Zygote
from tests.support.fake_openai import FakeOpenAI
from tests.support.otlp_collector import StubCollector
from tests.support.span_tree import assert_one_tree, span_tree

pytestmark = [
    pytest.mark.integration,
    pytest.mark.skipif(
        not entry_points(group="opentelemetry_instrumentor", name="dspy_otel"),
        reason="opentelemetry-instrumentation-dspy is on the path, but not installed",
    ),
]

LAUNCHER = Path(sys.executable).with_name("opentelemetry-instrument")
PROGRAM = """
import sys
import dspy

class Program(dspy.Module):
    def __init__(self):
        super().__init__()
        self.generate = dspy.Predict("question -> answer")

    def forward(self, question):
        return self.generate(question=question)

lm = dspy.LM("openai/gpt-4o-mini", api_base=sys.argv[1], api_key="test", cache=False)
with dspy.context(lm=lm):
    print(Program()(question="canary question").answer)
"""

TREE = """\
invoke_workflow Program [INTERNAL]
└─ Predict generate [INTERNAL]
   └─ ChatAdapter [INTERNAL]
      └─ chat gpt-4o-mini [CLIENT]"""


@pytest.fixture
def collector() -> Iterator[StubCollector]:
    with StubCollector() as running:
        yield running


def run(
    collector: StubCollector,
    directory: Path,
    source: str = PROGRAM,
    zygote: Zygote | None = MLFLOW,
    **environment: str,
) -> subprocess.CompletedProcess[str]:
    """Run the source under ``opentelemetry-instrument``, without a zygote in a new interpreter."""
    script = directory / "program.py"
    script.write_text(source)
    settings = {
        "OTEL_TRACES_EXPORTER": "otlp",
        "OTEL_METRICS_EXPORTER": "none",
        "OTEL_LOGS_EXPORTER": "none",
        "OTEL_EXPORTER_OTLP_PROTOCOL": "http/protobuf",
        "OTEL_EXPORTER_OTLP_ENDPOINT": collector.http_endpoint,
        "HOME": str(directory),
    }
    variables = {**os.environ, **settings, **environment}
    with FakeOpenAI() as server:
        if zygote is None:
            done = subprocess.run(
                [str(LAUNCHER), sys.executable, str(script), server.base_url],
                env=variables,
                cwd=directory,
                capture_output=True,
                text=True,
                timeout=300,
                check=False,
            )
        else:
            done = zygote.run(script, server.base_url, env=variables, cwd=directory, zero_code=True)
    assert done.returncode == 0, done.stderr
    assert "Traceback" not in done.stderr
    return done


def everything(collector: StubCollector) -> str:
    return repr(collector.spans())


def of_dspy(collector: StubCollector) -> list[object]:
    scope = "opentelemetry.instrumentation.dspy"
    return [span for span in collector.spans() if span.scope_name == scope]


def test_two_environment_variables_are_enough(collector: StubCollector, tmp_path: Path) -> None:
    done = run(collector, tmp_path, zygote=None)
    assert done.stdout == "answer value\n"
    assert_one_tree(of_dspy(collector))
    assert span_tree(of_dspy(collector)) == TREE
    assert "canary question" not in everything(collector)


def test_content_is_an_environment_variable_away(collector: StubCollector, tmp_path: Path) -> None:
    run(collector, tmp_path, OTEL_INSTRUMENTATION_GENAI_CAPTURE_MESSAGE_CONTENT="true")
    assert "canary question" in everything(collector)


@pytest.mark.parametrize(
    ("name", "value"),
    [("OTEL_PYTHON_DISABLED_INSTRUMENTATIONS", "dspy_otel"), ("OTEL_SDK_DISABLED", "true")],
)
def test_it_can_be_turned_off(
    collector: StubCollector, tmp_path: Path, name: str, value: str
) -> None:
    done = run(collector, tmp_path, **{name: value})
    assert done.stdout == "answer value\n"
    assert of_dspy(collector) == []


def test_a_process_that_never_imports_dspy_does_not_get_it(
    collector: StubCollector, tmp_path: Path
) -> None:
    source = "import sys\nprint(sorted({'dspy', 'litellm'} & set(sys.modules)))"
    assert run(collector, tmp_path, source, SDK).stdout == "[]\n"
