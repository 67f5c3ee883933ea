# Copyright The opentelemetry-instrumentation-dspy Authors
# SPDX-License-Identifier: Apache-2.0
"""Runs a small traced program in a process of its own and reads back what MLflow has of it."""

from __future__ import annotations

import os
import subprocess
import sys
import textwrap
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pytest
from packaging.version import Version

from tests.support.children import Zygote

TIMEOUT = 300.0
"""Seconds; guards against a program that never ends, and is no measure of anything."""

_CLEARED = ("OTEL_", "MLFLOW_", "OPENAI_", "PYTHONWARNINGS")

WORK = """
from opentelemetry import trace

def work(name):
    tracer = trace.get_tracer("program")
    with tracer.start_as_current_span(name):
        with tracer.start_as_current_span(f"{name} step", attributes={
            "gen_ai.operation.name": "chat", "gen_ai.request.model": "m",
        }):
            pass
"""


@dataclass(frozen=True)
class Finished:
    stdout: str
    stderr: str

    def log_lines(self, text: str) -> list[str]:
        return [line for line in self.stderr.splitlines() if text in line]


def program_environment(directory: Path) -> dict[str, str]:
    """What a traced program finds in its environment; its home is ``directory``."""
    inherited = {k: v for k, v in os.environ.items() if not k.startswith(_CLEARED)}
    return {
        **inherited,
        "LITELLM_LOCAL_MODEL_COST_MAP": "True",
        "OTEL_METRICS_EXPORTER": "none",
        "OTEL_LOGS_EXPORTER": "none",
        # The tests bring them along, and under ``opentelemetry-instrument`` they import a client
        # and a web framework.
        "OTEL_PYTHON_DISABLED_INSTRUMENTATIONS": "openai,fastapi",
        "HOME": str(directory),
        "MLFLOW_DISABLE_TELEMETRY": "true",
        # Making the tables of a new store takes seconds, and many where machines are busy.
        "MLFLOW_DSPY_EXIT_TIMEOUT_SECONDS": "100",
    }


def run_program(
    source: str,
    directory: Path,
    environment: Mapping[str, str] | None = None,
    *,
    zero_code: bool = False,
    zygote: Zygote | None = None,
) -> Finished:
    """Run ``source`` after `WORK` in ``directory``; it must end with exit code 0.

    With ``zero_code`` it runs under ``opentelemetry-instrument``. With a zygote it is a fork of
    that, otherwise a new interpreter.
    """
    script = directory / "program.py"
    script.write_text(WORK + textwrap.dedent(source))
    variables = {**program_environment(directory), **(environment or {})}
    run = _in_a_new_interpreter if zygote is None else zygote.run
    done = run(script, env=variables, cwd=directory, zero_code=zero_code, timeout=TIMEOUT)
    assert done.returncode == 0, done.stderr
    return Finished(done.stdout, done.stderr)


def _in_a_new_interpreter(
    script: Path, *, env: Mapping[str, str], cwd: Path, zero_code: bool, timeout: float
) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(script)]
    if zero_code:
        command.insert(0, str(Path(sys.executable).with_name("opentelemetry-instrument")))
    return subprocess.run(
        command, cwd=cwd, env=env, capture_output=True, text=True, timeout=timeout, check=False
    )


def hide_litellm(directory: Path) -> None:
    """Make a program in this directory one without litellm, which DSPy does not require since 3.4.

    MLflow imports it where it can, to price calls, which takes most of such a program's CPU time.
    """
    if Version(version("dspy")) >= Version("3.4"):
        (directory / "litellm.py").write_text("raise ImportError('hidden')", "utf-8")


def stored_traces(tracking_uri: str, experiment_name: str = "Default") -> list[Any]:
    """All traces of an experiment, the oldest first.

    MLflow orders by milliseconds, and a small program makes several traces in one.
    """
    client = pytest.importorskip("mlflow").MlflowClient(tracking_uri)
    experiment = client.get_experiment_by_name(experiment_name)
    if experiment is None:
        return []
    traces = client.search_traces(locations=[experiment.experiment_id], max_results=100)
    return sorted(traces, key=lambda trace: min(s.start_time_ns for s in trace.data.spans))


def span_names(trace: Any) -> set[str]:
    return {span.name for span in trace.data.spans}
