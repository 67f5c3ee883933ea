# Copyright The opentelemetry-instrumentation-dspy Authors
# SPDX-License-Identifier: Apache-2.0
"""What the documentation shows does what it says when it is copied.

Each block runs in the environment of the tests, and with ``make installed`` also in an environment
that the pages' install lines make.
"""

from __future__ import annotations

import os
import signal
import textwrap
import urllib.request
from collections import Counter
from pathlib import Path

import pytest

from tests.integration.documented import (
    PAGES,
    Environment,
    blocks,
    blocks_of,
    development_environment,
    environment_install,
    installed_environment,
)
from tests.support.fake_delivery import wait_until
from tests.support.fake_tracking_server import FakeTrackingServer
from tests.support.mlflow_server import free_port
from tests.support.otlp_collector import StubCollector

mlflow = pytest.importorskip("mlflow")

pytestmark = pytest.mark.integration

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
CALL = "program(question=question)\n"
NAME = "Predict question -> answer"

PYTHON = {
    "README.md": {NAME},
    "mlflow_bridge/README.md": {NAME},
    # It only instruments: no tracer provider, no traces.
    "opentelemetry-instrumentation-dspy/README.rst": None,
    "docs/configuration.md": None,
    "docs/getting-started.md": {NAME},
    "docs/troubleshooting.md": None,
    "docs/spool.md": None,
    "docs/with-mlflow-tracing.md": {"serve", NAME},
    "docs/best-practice.md": {"answer request", "support", NAME},
    "docs/evaluations.md": {
        NAME,
        "evaluate correct",
        *(f"example {number}" for number in range(20)),
    },
    "docs/migration.md": {NAME},
}
"""The names of the traces that the Python blocks of each page leave in MLflow, if any."""
COMMANDS = {
    "README.md": ["zero_code", "pip"],
    "mlflow_bridge/README.md": ["zero_code_of_the_bridges_readme"],
    "opentelemetry-instrumentation-dspy/README.rst": ["pip", "without_mlflow"],
    "docs/best-practice.md": ["sampling_settings", "tail_settings"],
    "docs/configuration.md": ["key_of_a_declarative_file"],
    "docs/evaluations.md": ["evaluations"],
    "docs/getting-started.md": ["pip", "zero_code", "declarative_file", "without_mlflow", "ui"],
    "docs/spool.md": ["spool"],
    "docs/troubleshooting.md": ["doctor"],
}
"""The tests that run the other blocks of each page, in their order."""
LANGUAGES = ("sh", "shell", "console", "yaml")


@pytest.fixture(scope="session")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Environment:
    return installed_environment(tmp_path_factory.mktemp("installed") / "environment")


@pytest.fixture(params=["development", pytest.param("installed", marks=pytest.mark.installed)])
def environment(request: pytest.FixtureRequest) -> Environment:
    if request.param == "installed":
        return request.getfixturevalue("installed")
    return development_environment()


@pytest.fixture(autouse=True)
def store(store_uri: str) -> str:
    """The pages' ``sqlite:///mlflow.db``, without the seconds that it takes to make one."""
    return store_uri


def program_file(tmp_path: Path, source: str = PROGRAM + CALL) -> Path:
    file = tmp_path / "my_program.py"
    file.write_text(source, "utf-8")
    return file


def stored(tmp_path: Path) -> list[str]:
    """The names of the traces in the store that the page's program wrote."""
    client = mlflow.MlflowClient(tracking_uri=f"sqlite:///{tmp_path}/mlflow.db")
    places = [experiment.experiment_id for experiment in client.search_experiments()]
    return [one.info.tags["mlflow.traceName"] for one in client.search_traces(locations=places)]


def only_block(page: str, *words: str) -> str:
    """The one block of a page, other than in Python, that has all of these in it."""
    found = [code for code in blocks(page, *LANGUAGES) if all(word in code for word in words)]
    assert len(found) == 1, page
    return found[0]


def test_every_block_is_run() -> None:
    found = [block for page in PAGES for block in blocks_of(page)]
    assert {block.page for block in found if block.language == "python"} == set(PYTHON)
    others = [block for block in found if block.language in LANGUAGES]
    # "make" has an environment of its own; `test_quickstart` runs the demo.
    pages = Counter(block.page for block in others if not block.code.startswith("make "))
    assert pages == {page: len(tests) for page, tests in COMMANDS.items()}


@pytest.mark.parametrize("page", PYTHON)
def test_python_of_a_page(page: str, environment: Environment, tmp_path: Path) -> None:
    source = [PROGRAM, BEFORE]
    if page == "docs/best-practice.md":
        source.append("mlflow_bridge.autolog()")
    for block in blocks(page, "python"):
        source += [textwrap.dedent(block), AFTER]
    if page == "docs/with-mlflow-tracing.md":
        source += ["serve(question)"]

    environment.run_script(program_file(tmp_path, "\n".join(source)))

    names = PYTHON[page]
    if names is not None:
        assert set(stored(tmp_path)) == names


@pytest.mark.parametrize(
    ("page", "shown"),
    [("README.md", "my_program.py"), ("docs/getting-started.md", "my-program\n")],
)
def test_the_zero_code_commands_of_a_page(
    page: str, shown: str, environment: Environment, tmp_path: Path
) -> None:
    commands = only_block(page, "MLFLOW_TRACKING_URI", shown)
    program_file(tmp_path)

    environment.run(tmp_path, "bash", "-euc", commands)

    assert stored(tmp_path) == [NAME]


def test_the_zero_code_commands_of_the_bridges_readme(
    environment: Environment, tmp_path: Path
) -> None:
    install, _, commands = only_block("mlflow_bridge/README.md", "export").partition("\n")
    assert install == 'pip install "mlflow-bridge[mlflow,zero-code]"'
    program_file(tmp_path)

    environment.run(tmp_path, "bash", "-euc", commands)

    assert stored(tmp_path) == [NAME]


@pytest.mark.parametrize(
    "page", ["docs/getting-started.md", "opentelemetry-instrumentation-dspy/README.rst"]
)
def test_the_commands_without_mlflow(page: str, environment: Environment, tmp_path: Path) -> None:
    commands = only_block(page, "opentelemetry-instrument python", "EXPORTER=otlp")
    program_file(tmp_path)
    with StubCollector() as collector:
        endpoint = {"OTEL_EXPORTER_OTLP_ENDPOINT": collector.http_endpoint}
        environment.run(tmp_path, "bash", "-euc", commands, **endpoint)
        assert any(span.name.startswith("invoke_workflow") for span in collector.spans())


def test_the_set_up_by_hand(environment: Environment, tmp_path: Path) -> None:
    """Alone, since on the page a call of autolog() has made a tracer provider before."""
    [code] = [code for code in blocks("docs/getting-started.md", "python") if "sampler=" in code]

    environment.run_script(program_file(tmp_path, "\n".join([PROGRAM, code, AFTER])))

    assert stored(tmp_path) == [NAME]


@pytest.fixture
def file_environment(environment: Environment) -> Environment:
    """An environment with what the page says that a declarative file needs."""
    if environment.zygote is None:
        environment_install(environment, "opentelemetry-sdk[file-configuration]")
    else:
        pytest.importorskip("opentelemetry.configuration", reason="file configuration missing")
    return environment


def test_the_declarative_file(file_environment: Environment, tmp_path: Path) -> None:
    (tmp_path / "otel.yaml").write_text(only_block("docs/getting-started.md", "file_format"))
    (tmp_path / "my_program_redaction.py").write_text(
        "def redact(operation, field, value):\n    return 'hidden'\n", "utf-8"
    )
    program = program_file(
        tmp_path,
        PROGRAM
        + CALL
        + "from opentelemetry import trace\n"
        + "from opentelemetry.instrumentation.dspy import DSPyInstrumentor\n"
        + "print(trace.get_tracer_provider().sampler.get_description())\n"
        + "print(DSPyInstrumentor().settings.max_content_length)\n"
        + "print(DSPyInstrumentor().settings.redact('lm', 'prompt', 1))\n",
    )

    shown = file_environment.run_script(program, zero_code=True, OTEL_CONFIG_FILE="otel.yaml")

    assert shown.splitlines()[-3:] == ["DSPySampler{}", "10000", "hidden"]
    assert stored(tmp_path) == [NAME]


def test_the_key_of_a_declarative_file(file_environment: Environment, tmp_path: Path) -> None:
    text = only_block("docs/configuration.md", "dspy_otel")
    (tmp_path / "otel.yaml").write_text(f'file_format: "1.0"\n{text}', "utf-8")
    program = program_file(
        tmp_path,
        PROGRAM
        + CALL
        + "from opentelemetry.instrumentation.dspy import DSPyInstrumentor\n"
        + "print(DSPyInstrumentor().settings.content_mode.in_spans)\n",
    )

    shown = file_environment.run_script(program, zero_code=True, OTEL_CONFIG_FILE="otel.yaml")

    assert shown.splitlines()[-1] == "True"


def test_the_sampling_settings(environment: Environment, tmp_path: Path) -> None:
    settings = only_block("docs/best-practice.md", "SAMPLING_RATE")
    ask = "import mlflow_bridge\nprint(mlflow_bridge.DSPySampler().get_description())\n"
    program_file(tmp_path, ask)

    shown = environment.run(tmp_path, "bash", "-euc", settings + "python my_program.py")

    assert all(word in shown for word in ("0.1", "session", "Checkout", "summary"))


def test_the_tail_settings(environment: Environment, tmp_path: Path) -> None:
    settings = only_block("docs/best-practice.md", "TAIL_RATE")
    ask = "from mlflow_bridge import MLflowDSPyConfig\nprint(MLflowDSPyConfig.from_env())\n"
    program_file(tmp_path, ask)

    shown = environment.run(tmp_path, "bash", "-euc", settings + "python my_program.py")

    assert all(
        word in shown
        for word in (
            "tail_rate=0.01",
            "tail_keep_errors=True",
            "tail_slower_than_seconds=5.0",
            "correctness",
            "tail_new_program_first=20",
        )
    ), shown


@pytest.mark.installed
def test_the_command_that_shows_traces(installed: Environment, tmp_path: Path) -> None:
    port = free_port()
    command = only_block("docs/getting-started.md", "mlflow ui")
    running = installed.start(tmp_path, command, MLFLOW_PORT=str(port))
    try:
        wait_until(lambda: is_healthy(f"http://127.0.0.1:{port}/health"))
    finally:
        os.killpg(running.pid, signal.SIGTERM)
        running.wait()


def is_healthy(address: str) -> bool:
    try:
        with urllib.request.urlopen(address, timeout=2) as response:
            return response.status == 200
    except OSError:
        return False


def test_the_commands_of_the_spool(environment: Environment, tmp_path: Path) -> None:
    lines = only_block("docs/spool.md", "$ mlflow-bridge").splitlines()
    commands = [line.removeprefix("$ ") for line in lines]
    # The last one has a directory of which the page shows a part only.
    assert [command for command in commands if "..." in command] == commands[2:]
    with FakeTrackingServer().http as server:
        for command in commands[:2]:
            here = command.replace("http://mlflow:5000", server.url)
            environment.run(tmp_path, "bash", "-euc", here)


def test_the_commands_for_evaluations(environment: Environment, tmp_path: Path) -> None:
    page = "docs/evaluations.md"
    [evaluations] = [code for code in blocks(page, "python") if "log_evals" in code]
    environment.run_script(program_file(tmp_path, "\n".join([PROGRAM, evaluations])))
    client = mlflow.MlflowClient(tracking_uri=f"sqlite:///{tmp_path}/mlflow.db")
    experiment = client.get_experiment_by_name("my-program")
    candidate, baseline = client.search_runs(
        [experiment.experiment_id],
        "tags.`mlflow.runType` = 'genai_evaluate'",
        order_by=["attributes.start_time DESC"],
    )

    shown = environment.run(
        tmp_path,
        "bash",
        "-euc",
        only_block(page, "mlflow-bridge gate"),
        CANDIDATE_RUN=candidate.info.run_id,
        BASELINE_RUN=baseline.info.run_id,
    )

    assert "meets the criteria" in shown
    assert "The candidate holds." in shown


def test_the_doctor(environment: Environment, tmp_path: Path) -> None:
    shown = environment.run(
        tmp_path, "bash", "-euc", only_block("docs/troubleshooting.md", "doctor")
    )
    assert "ok" in shown
    assert "fail " not in shown
