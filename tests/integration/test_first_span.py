# Copyright The opentelemetry-instrumentation-dspy Authors
# SPDX-License-Identifier: Apache-2.0
"""MLflow is imported, and its store opened, only for a span that goes there; no span is lost by it.

The programs run in interpreters of their own: a fork of a process with MLflow would show nothing.
"""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import textwrap
from collections.abc import Mapping
from pathlib import Path

import pytest

from tests.integration.traced_program import (
    TIMEOUT,
    WORK,
    program_environment,
    span_names,
    stored_traces,
)
from tests.support.fake_tracking_server import FakeTrackingServer, spans_in

pytestmark = pytest.mark.integration

# Shuts the delivery down before it looks, so that an import at the exit is seen.
REPORT = """
def report(name):
    import json, sys
    trace.get_tracer_provider().shutdown()
    heavy = ("mlflow", "sqlalchemy", "alembic", "pandas")
    with open(name, "w") as file:
        json.dump([module for module in heavy if module in sys.modules], file)
"""
GENAI = "tracer.start_span('chat', attributes={'gen_ai.operation.name': 'chat'}).end()\n"
ENDINGS = {
    "exit": "",
    "sys.exit": "import sys; sys.exit(0)",
    "SIGTERM": "import os, signal; os.kill(os.getpid(), signal.SIGTERM)",
}
BY_HAND = """
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor, SimpleSpanProcessor
from mlflow_bridge import MLflowBatchSpanProcessor, MLflowSpanExporter

provider = TracerProvider()
provider.add_span_processor({processor})
trace.set_tracer_provider(provider)
import sys
assert "mlflow" not in sys.modules
"""


def run(
    source: str,
    directory: Path,
    environment: Mapping[str, str],
    *,
    zero_code: bool = True,
    returncode: int = 0,
) -> str:
    """Run the source after `WORK` in a new interpreter. Returns what it logged."""
    script = directory / "program.py"
    script.write_text(
        WORK + "\ntracer = trace.get_tracer('program')\n" + textwrap.dedent(source), "utf-8"
    )
    command = [sys.executable, str(script)]
    if zero_code:
        command.insert(0, str(Path(sys.executable).with_name("opentelemetry-instrument")))
    variables = program_environment(directory) | {
        "OTEL_TRACES_EXPORTER": "mlflow",
        # The others would import what this test looks for.
        "OTEL_PYTHON_DISABLED_INSTRUMENTATIONS": "openai,fastapi,sqlalchemy,sqlite3",
        # A span on disk is not lost, but these tests are to see it in MLflow.
        "MLFLOW_DSPY_SPOOL": "false",
    }
    variables |= environment
    variables.pop("MLFLOW_DSPY_TRACES", None)
    done = subprocess.run(
        command,
        cwd=directory,
        env=variables,
        capture_output=True,
        text=True,
        timeout=TIMEOUT,
        check=False,
    )
    assert done.returncode == returncode, done.stderr
    # On a machine under load, a new store takes longer to open than the log waits for.
    lines = done.stderr.splitlines(keepends=True)
    return "".join(line for line in lines if "it has not answered for" not in line)


def stored(uri: str) -> list[set[str]]:
    return [span_names(trace) for trace in stored_traces(uri)]


@pytest.mark.parametrize(
    "source",
    [
        pytest.param("", id="no span"),
        pytest.param("tracer.start_span('GET /health').end()", id="a span that is not GenAI"),
        pytest.param("import dspy", id="dspy without a call"),
    ],
)
def test_a_process_without_a_span_for_mlflow_imports_and_opens_nothing(
    source: str, tmp_path: Path
) -> None:
    file = tmp_path / "mlflow.db"
    source = f"{REPORT}\n{source}\nreport('modules')"
    assert run(source, tmp_path, {"MLFLOW_TRACKING_URI": f"sqlite:///{file}"}) == ""
    assert json.loads((tmp_path / "modules").read_text()) == []
    assert not file.exists()


def test_a_parent_of_a_forked_child_with_a_span_imports_nothing(
    store_uri: str, tmp_path: Path
) -> None:
    source = f"""
        import multiprocessing

        def child():
            {GENAI}

        process = multiprocessing.get_context("fork").Process(target=child)
        process.start()
        process.join()
        assert process.exitcode == 0
        report("modules")
    """
    errors = run(REPORT + textwrap.dedent(source), tmp_path, {"MLFLOW_TRACKING_URI": store_uri})
    assert "Traceback" not in errors
    assert json.loads((tmp_path / "modules").read_text()) == []
    assert stored(store_uri) == [{"chat"}]


def test_autolog_opens_no_store_before_a_span(tmp_path: Path) -> None:
    file = tmp_path / "mlflow.db"
    source = "import mlflow_bridge; mlflow_bridge.autolog()"
    run(source, tmp_path, {"MLFLOW_TRACKING_URI": f"sqlite:///{file}"}, zero_code=False)
    assert not file.exists()


@pytest.mark.parametrize("ending", ENDINGS)
def test_a_span_right_before_the_end_is_stored(ending: str, store_uri: str, tmp_path: Path) -> None:
    returncode = -signal.SIGTERM if ending == "SIGTERM" else 0
    environment = {"MLFLOW_TRACKING_URI": store_uri}
    errors = run(GENAI + ENDINGS[ending], tmp_path, environment, returncode=returncode)
    assert "Traceback" not in errors
    assert stored(store_uri) == [{"chat"}]


def test_a_span_that_turns_out_to_be_genai_at_its_end_is_stored(
    store_uri: str, tmp_path: Path
) -> None:
    source = """
        with tracer.start_as_current_span("late") as span:
            span.set_attribute("gen_ai.operation.name", "chat")
    """
    assert run(source, tmp_path, {"MLFLOW_TRACKING_URI": store_uri}) == ""
    assert stored(store_uri) == [{"late"}]


def test_a_span_right_before_the_exit_reaches_a_server(tmp_path: Path) -> None:
    server = FakeTrackingServer()
    with server.http:
        assert run(GENAI, tmp_path, {"MLFLOW_TRACKING_URI": server.http.url}) == ""
    assert [spans_in(request) for request in server.trace_requests] == [["chat"]]


@pytest.mark.parametrize(
    "processor",
    [
        "MLflowBatchSpanProcessor()",
        "BatchSpanProcessor(MLflowSpanExporter())",
        "SimpleSpanProcessor(MLflowSpanExporter())",
    ],
)
def test_every_processor_stores_a_span_right_before_the_exit(
    processor: str, store_uri: str, tmp_path: Path
) -> None:
    source = BY_HAND.format(processor=processor) + "tracer = trace.get_tracer('program')\n" + GENAI
    errors = run(source, tmp_path, {"MLFLOW_TRACKING_URI": store_uri}, zero_code=False)
    assert "Traceback" not in errors
    assert "lost" not in errors
    assert stored(store_uri) == [{"chat"}]


def test_an_import_of_the_program_at_the_same_time(store_uri: str, tmp_path: Path) -> None:
    # DSPy imports litellm at the first call of a model, right after the start of the first span.
    source = f"{GENAI}import pandas, litellm, dspy, mlflow, mlflow.genai, sqlalchemy.orm"
    errors = run(source, tmp_path, {"MLFLOW_TRACKING_URI": store_uri})
    assert "Traceback" not in errors
    assert stored(store_uri) == [{"chat"}]
