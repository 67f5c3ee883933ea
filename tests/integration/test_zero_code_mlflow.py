# Copyright The opentelemetry-instrumentation-dspy Authors
# SPDX-License-Identifier: Apache-2.0
"""``opentelemetry-instrument`` with ``mlflow`` as an exporter, as a user starts it."""

from __future__ import annotations

import json
import socket
from pathlib import Path

import pytest

from mlflow_bridge.sampling.keys import is_in_share, number_of
from tests.integration.traced_program import (
    run_program,
    span_names,
    stored_traces,
)
from tests.support.children import MLFLOW, SDK

pytestmark = pytest.mark.integration

DECLARATIVE_FILE = """
file_format: "1.0"
tracer_provider:
  processors:
    - batch:
        exporter:
          mlflow:
            tracking_uri: {uri}
            experiment_name: {experiment}
"""

REPORT = """
import json, sys
from mlflow_bridge._setup.zero_code import adopted_deliveries
from opentelemetry.instrumentation.dspy._settings import load_settings

print(json.dumps({
    "adopted": [it.config.destination_description for it in adopted_deliveries()],
    "content": load_settings().content_mode.name,
    "exporter loaded": "mlflow_bridge._export.exporter" in sys.modules,
    "mlflow loaded": "mlflow" in sys.modules,
    "dspy loaded": "dspy" in sys.modules,
}))
"""


def test_environment_mode(store_uri: str, tmp_path: Path) -> None:
    source = """
        from mlflow_bridge import trace_context

        with trace_context(session_id="chat-7", user_id="ada", tags={"channel": "web"}):
            work("first")
        work("second")
    """
    environment = {
        "OTEL_TRACES_EXPORTER": "mlflow",
        "MLFLOW_TRACKING_URI": store_uri,
        "MLFLOW_EXPERIMENT_NAME": "zero-code",
    }
    done = run_program(source, tmp_path, environment, zero_code=True, zygote=MLFLOW)
    assert done.log_lines("Traceback") == []

    first, second = stored_traces(store_uri, "zero-code")
    assert span_names(first) == {"first", "first step"}
    assert span_names(second) == {"second", "second step"}
    assert {str(trace.info.state.value) for trace in (first, second)} == {"OK"}
    assert first.info.tags["channel"] == "web"
    assert first.info.trace_metadata["mlflow.trace.session"] == "chat-7"
    assert first.info.trace_metadata["mlflow.trace.user"] == "ada"


def test_declarative_file(store_uri: str, tmp_path: Path) -> None:
    pytest.importorskip("opentelemetry.configuration", reason="file configuration not installed")
    file = tmp_path / "otel.yaml"
    file.write_text(DECLARATIVE_FILE.format(uri=store_uri, experiment="from-file"))
    done = run_program(
        REPORT + "\nwork('only')",
        tmp_path,
        {"OTEL_CONFIG_FILE": str(file)},
        zero_code=True,
        zygote=MLFLOW,
    )

    report = json.loads(done.stdout)
    assert len(report["adopted"]) == 1
    assert report["content"] == "SPAN_ONLY"
    [trace] = stored_traces(store_uri, "from-file")
    assert span_names(trace) == {"only", "only step"}


@pytest.mark.parametrize("sampler", [None, "dspy"])
def test_a_share_of_sessions(store_uri: str, tmp_path: Path, sampler: str | None) -> None:
    source = """
        from mlflow_bridge import trace_context

        for number in range(12):
            with trace_context(session_id=f"chat-{number}"):
                work("first")
                work("second")
    """
    environment = {
        "OTEL_TRACES_EXPORTER": "mlflow",
        "MLFLOW_DSPY_SAMPLING_KEY": "session",
        "MLFLOW_TRACKING_URI": store_uri,
        "MLFLOW_EXPERIMENT_NAME": "sessions",
    }
    if sampler is None:
        environment["MLFLOW_DSPY_SAMPLING_RATE"] = "0.5"
    else:
        environment |= {"OTEL_TRACES_SAMPLER": sampler, "OTEL_TRACES_SAMPLER_ARG": "0.5"}
    done = run_program(source, tmp_path, environment, zero_code=True, zygote=MLFLOW)
    assert done.log_lines("WARNING") == []

    sessions = [f"chat-{number}" for number in range(12)]
    chosen = [name for name in sessions if is_in_share(number_of(name), 0.5)]
    assert 0 < len(chosen) < len(sessions)
    traces = stored_traces(store_uri, "sessions")
    stored = sorted(trace.info.trace_metadata["mlflow.trace.session"] for trace in traces)
    assert stored == sorted(chosen * 2)
    assert all(len(trace.data.spans) == 2 for trace in traces)


def test_settings_of_sampling_are_pointed_at_if_another_sampler_is_named(tmp_path: Path) -> None:
    environment = {
        "OTEL_TRACES_EXPORTER": "mlflow",
        "MLFLOW_TRACKING_URI": "http://127.0.0.1:1",
        "OTEL_TRACES_SAMPLER": "parentbased_always_on",
        "MLFLOW_DSPY_SAMPLING_RATE": "0.5",
    }
    done = run_program("", tmp_path, environment, zero_code=True, zygote=SDK)
    [line] = done.log_lines("MLFLOW_DSPY_SAMPLING_RATE")
    assert "OTEL_TRACES_SAMPLER=dspy" in line


def test_our_processor_is_at_work_and_content_is_on(tmp_path: Path) -> None:
    environment = {"OTEL_TRACES_EXPORTER": "mlflow", "MLFLOW_TRACKING_URI": "http://127.0.0.1:1"}
    done = run_program(REPORT, tmp_path, environment, zero_code=True)
    report = json.loads(done.stdout)
    assert report == {
        "adopted": ["http://127.0.0.1:1, experiment 'Default'"],
        "content": "SPAN_ONLY",
        "exporter loaded": True,
        "mlflow loaded": False,
        "dspy loaded": False,
    }


def test_the_environment_has_the_last_word_on_content(tmp_path: Path) -> None:
    environment = {
        "OTEL_TRACES_EXPORTER": "mlflow",
        "MLFLOW_TRACKING_URI": "http://127.0.0.1:1",
        "OTEL_INSTRUMENTATION_GENAI_CAPTURE_MESSAGE_CONTENT": "NO_CONTENT",
    }
    done = run_program(REPORT, tmp_path, environment, zero_code=True, zygote=SDK)
    assert json.loads(done.stdout)["content"] == "NO_CONTENT"


def test_without_mlflow_among_the_exporters_nothing_of_ours_is_loaded(tmp_path: Path) -> None:
    done = run_program(REPORT, tmp_path, {"OTEL_TRACES_EXPORTER": "console"}, zero_code=True)
    assert json.loads(done.stdout.splitlines()[0]) == {
        "adopted": [],
        "content": "NO_CONTENT",
        "exporter loaded": False,
        "mlflow loaded": False,
        "dspy loaded": False,
    }


def test_a_burst_into_a_store(store_uri: str, tmp_path: Path) -> None:
    environment = {"OTEL_TRACES_EXPORTER": "mlflow", "MLFLOW_TRACKING_URI": store_uri}
    source = "for index in range(90): work(f'{index}')"
    run_program(source, tmp_path, environment, zero_code=True, zygote=MLFLOW)
    traces = stored_traces(store_uri)
    assert {name for trace in traces for name in span_names(trace)} == {
        name for index in range(90) for name in (f"{index}", f"{index} step")
    }


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@pytest.mark.parametrize(
    ("uri", "exporters"),
    [
        pytest.param("http://127.0.0.1:{port}", "mlflow", id="unreachable server"),
        pytest.param("http://127.0.0.1:{port}", "mlflow,console", id="unreachable, and a console"),
        pytest.param("sqlite:////proc/mlflow.db", "mlflow", id="read-only directory"),
        pytest.param("ftp://nowhere", "mlflow", id="wrong URI"),
        pytest.param("ftp://nowhere", "mlflow,console", id="wrong URI, and a console"),
    ],
)
def test_a_destination_that_does_not_work_is_one_warning(
    uri: str, exporters: str, tmp_path: Path
) -> None:
    source = """
        work("only")
        print("the program's own output", flush=True)
    """
    environment = {
        "OTEL_TRACES_EXPORTER": exporters,
        "MLFLOW_TRACKING_URI": uri.format(port=free_port()),
        "MLFLOW_DSPY_EXIT_TIMEOUT_SECONDS": "1",
    }
    zygote = MLFLOW if uri.startswith("sqlite") else SDK
    done = run_program(source, tmp_path, environment, zero_code=True, zygote=zygote)
    assert "the program's own output" in done.stdout
    assert len(done.log_lines("MLFLOW_TRACKING_URI")) == 1, done.stderr
    assert done.log_lines("Traceback") == []
    assert ("only step" in done.stdout) == ("console" in exporters)
