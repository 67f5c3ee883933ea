# Copyright The opentelemetry-instrumentation-dspy Authors
# SPDX-License-Identifier: Apache-2.0
"""What the documentation shows does what it says when it is copied."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

from tests import ROOT
from tests.integration.traced_program import TIMEOUT, hide_litellm
from tests.support.children import MLFLOW
from tests.support.otlp_collector import StubCollector

mlflow = pytest.importorskip("mlflow")

pytestmark = pytest.mark.integration

BLOCK = re.compile(r"^```(\w+)\n(.*?)^```$", re.DOTALL | re.MULTILINE)
# What a page takes for granted: a program that has an LM, and names of the reader's own.
PROGRAM = """
import dspy
from tests.support.prompt_lm import PromptLM

dspy.configure(lm=PromptLM())
program = rag = dspy.Predict("question -> answer")
judge = dspy.Predict("question, answer -> verdict")
question = "Where?"
questions = [question]


def ask(question):
    return program(question=question)
"""
BEFORE = """
import logging
from types import SimpleNamespace

import mlflow_bridge
from opentelemetry import trace

logging.basicConfig(format="%(levelname)s %(name)s %(message)s")
team = SimpleNamespace(experiment_id="0", run_id=None)
"""
AFTER = """
program(question=question)
getattr(trace.get_tracer_provider(), "force_flush", bool)()
"""


def blocks(page: str, language: str) -> list[str]:
    text = (ROOT / page).read_text("utf-8")
    return [code for kind, code in BLOCK.findall(text) if kind == language]


def environment(tmp_path: Path) -> dict[str, str]:
    return {
        **os.environ,
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
        "PYTHONPATH": os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")]),
        "MLFLOW_TRACKING_URI": "sqlite:///mlflow.db",
        "MLFLOW_EXPERIMENT_NAME": "my-program",
        "MLFLOW_DSPY_EXIT_TIMEOUT_SECONDS": "60",
        "OTEL_PYTHON_DISABLED_INSTRUMENTATIONS": "openai,fastapi",
        "XDG_STATE_HOME": str(tmp_path / "state"),
    }


def run_page(tmp_path: Path, source: str) -> None:
    """Run what a page shows, in a process that has imported it all."""
    page = tmp_path / "page.py"
    page.write_text(source, "utf-8")
    checked(MLFLOW.run(page, env=environment(tmp_path), cwd=tmp_path, timeout=TIMEOUT))


def run(tmp_path: Path, *command: str) -> str:
    """What a command prints; the interpreters that it starts are new ones."""
    hide_litellm(tmp_path)
    return checked(
        subprocess.run(
            command,
            cwd=tmp_path,
            env=environment(tmp_path),
            capture_output=True,
            text=True,
            timeout=TIMEOUT,
            check=False,
        )
    )


def checked(done: subprocess.CompletedProcess[str]) -> str:
    assert done.returncode == 0, done.stdout + done.stderr
    assert "Traceback" not in done.stderr, done.stderr
    return done.stdout


@pytest.fixture(autouse=True)
def store(store_uri: str) -> str:
    """The pages' ``sqlite:///mlflow.db``, without the seconds that it takes to make one."""
    return store_uri


def stored(tmp_path: Path) -> list[str]:
    """The names of the traces in the store that the page's program wrote."""
    client = mlflow.MlflowClient(tracking_uri=f"sqlite:///{tmp_path}/mlflow.db")
    places = [experiment.experiment_id for experiment in client.search_experiments()]
    return [one.info.tags["mlflow.traceName"] for one in client.search_traces(locations=places)]


@pytest.mark.parametrize(
    ("page", "names"),
    [
        ("README.md", {"Predict question -> answer"}),
        ("mlflow_bridge/README.md", {"Predict question -> answer"}),
        ("docs/getting-started.md", {"Predict question -> answer"}),
        ("docs/troubleshooting.md", None),
        ("docs/spool.md", None),
        ("docs/with-mlflow-tracing.md", {"serve", "Predict question -> answer"}),
        ("docs/best-practice.md", {"answer request", "Predict question -> answer", "support"}),
        ("docs/migration.md", {"Predict question -> answer"}),
    ],
)
def test_python_of_a_page(page: str, names: set[str] | None, tmp_path: Path) -> None:
    source = [PROGRAM, BEFORE]
    if page == "docs/best-practice.md":
        source.append("mlflow_bridge.autolog()")
    for block in blocks(page, "python"):
        source += [textwrap.dedent(block), AFTER]
    if page == "docs/with-mlflow-tracing.md":
        source += ["serve(question)"]

    run_page(tmp_path, "\n".join(source))

    if names is not None:
        assert set(stored(tmp_path)) == names


@pytest.mark.parametrize(
    ("page", "shown"),
    [("README.md", "my_program.py"), ("docs/getting-started.md", "my-program\n")],
)
def test_the_zero_code_commands_of_a_page(page: str, shown: str, tmp_path: Path) -> None:
    commands = next(
        code for code in blocks(page, "sh") if "MLFLOW_TRACKING_URI" in code and shown in code
    )
    (tmp_path / "my_program.py").write_text(PROGRAM + "program(question=question)\n", "utf-8")

    run(tmp_path, "bash", "-euc", commands)

    assert stored(tmp_path) == ["Predict question -> answer"]


def test_the_zero_code_commands_of_the_bridges_readme(tmp_path: Path) -> None:
    [commands] = [code for code in blocks("mlflow_bridge/README.md", "sh") if "export" in code]
    install, _, commands = commands.partition("\n")
    assert install == 'pip install "mlflow-bridge[mlflow,zero-code]"'
    (tmp_path / "my_program.py").write_text(PROGRAM + "program(question=question)\n", "utf-8")

    run(tmp_path, "bash", "-euc", commands)

    assert stored(tmp_path) == ["Predict question -> answer"]


def commands_without_mlflow(page: str) -> str:
    text = (ROOT / page).read_text("utf-8")
    found = [
        textwrap.dedent(block)
        for block in [*blocks(page, "sh"), *re.findall(r"::\n\n((?:    .*\n)+)", text)]
        if "opentelemetry-instrument python" in block and "EXPORTER=otlp" in block
    ]
    assert len(found) == 1, page
    return found[0]


@pytest.mark.parametrize(
    "page", ["docs/getting-started.md", "opentelemetry-instrumentation-dspy/README.rst"]
)
def test_the_commands_without_mlflow(page: str, tmp_path: Path) -> None:
    (tmp_path / "my_program.py").write_text(PROGRAM + "program(question=question)\n", "utf-8")
    with StubCollector() as collector:
        at = f"export OTEL_EXPORTER_OTLP_ENDPOINT={collector.http_endpoint}\n"
        run(tmp_path, "bash", "-euc", at + commands_without_mlflow(page))
        assert any(span.name.startswith("invoke_workflow") for span in collector.spans())


def test_the_set_up_by_hand(tmp_path: Path) -> None:
    """Alone, since on the page a call of autolog() has made a tracer provider before."""
    [code] = [code for code in blocks("docs/getting-started.md", "python") if "sampler=" in code]

    run_page(tmp_path, "\n".join([PROGRAM, code, AFTER]))

    assert stored(tmp_path) == ["Predict question -> answer"]


def test_the_declarative_file(tmp_path: Path) -> None:
    pytest.importorskip("opentelemetry.configuration", reason="file configuration not installed")
    [text] = blocks("docs/getting-started.md", "yaml")
    (tmp_path / "otel.yaml").write_text(text, "utf-8")
    (tmp_path / "my_program_redaction.py").write_text(
        "def redact(operation, field, value):\n    return 'hidden'\n", "utf-8"
    )
    program = tmp_path / "my_program.py"
    program.write_text(
        PROGRAM
        + "program(question=question)\n"
        + "from opentelemetry import trace\n"
        + "from opentelemetry.instrumentation.dspy import DSPyInstrumentor\n"
        + "print(trace.get_tracer_provider().sampler.get_description())\n"
        + "print(DSPyInstrumentor().settings.max_content_length)\n"
        + "print(DSPyInstrumentor().settings.redact('lm', 'prompt', 1))\n",
        "utf-8",
    )

    shown = checked(
        MLFLOW.run(
            program,
            env={**environment(tmp_path), "OTEL_CONFIG_FILE": "otel.yaml"},
            cwd=tmp_path,
            timeout=TIMEOUT,
            zero_code=True,
        )
    )

    assert shown.splitlines()[-3:] == ["DSPySampler{}", "10000", "hidden"]
    assert stored(tmp_path) == ["Predict question -> answer"]
