# Copyright The opentelemetry-instrumentation-dspy Authors
# SPDX-License-Identifier: Apache-2.0
"""``mlflow_bridge.autolog()`` in real programs, with a real store."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.integration.traced_program import (
    hide_litellm,
    run_program,
    span_names,
    stored_traces,
)
from tests.support.children import MLFLOW, SDK

pytestmark = pytest.mark.integration


def test_one_call_is_enough(store_uri: str, tmp_path: Path) -> None:
    assert store_uri == f"sqlite:///{tmp_path}/mlflow.db"  # the default, seen from there
    source = """
        import mlflow_bridge

        mlflow_bridge.autolog()
        mlflow_bridge.autolog()
        work("only")
    """
    environment = {"MLFLOW_EXPERIMENT_NAME": "autolog"}
    hide_litellm(tmp_path)
    done = run_program(source, tmp_path, environment)
    assert done.log_lines("Traceback") == done.log_lines("MLFLOW_") == []
    [trace] = stored_traces(store_uri, "autolog")
    assert span_names(trace) == {"only", "only step"}
    assert trace.info.state.value == "OK"


def test_moving_to_another_experiment_and_off(store_uri: str, tmp_path: Path) -> None:
    source = """
        from mlflow_bridge import autolog, disable_autolog

        autolog(experiment_name="one")
        work("first")
        autolog(experiment_name="two")
        work("second")
        disable_autolog()
        work("nobody's")
    """
    run_program(source, tmp_path, {"MLFLOW_TRACKING_URI": store_uri}, zygote=MLFLOW)
    names = {
        name: [span_names(t) for t in stored_traces(store_uri, name)] for name in ("one", "two")
    }
    assert names == {"one": [{"first", "first step"}], "two": [{"second", "second step"}]}


@pytest.mark.parametrize("zero_code", [False, True])
def test_a_program_that_seeds_its_random_numbers_has_a_trace_of_each_run(
    store_uri: str, tmp_path: Path, zero_code: bool
) -> None:
    source = """
        import random
        from mlflow_bridge import autolog

        autolog()
        for _ in range(2):
            random.seed(42)
            work("seeded")
    """
    environment = {
        "MLFLOW_TRACKING_URI": store_uri,
        "MLFLOW_EXPERIMENT_NAME": "seeded",
        "OTEL_TRACES_EXPORTER": "mlflow" if zero_code else "none",
    }
    for _ in range(2):
        run_program(source, tmp_path, environment, zero_code=zero_code, zygote=MLFLOW)
    traces = stored_traces(store_uri, "seeded")
    assert [span_names(trace) for trace in traces] == [{"seeded", "seeded step"}] * 4


def test_a_share_of_programs(store_uri: str, tmp_path: Path) -> None:
    source = """
        import dspy
        from dspy.utils import DummyLM
        from mlflow_bridge import autolog

        autolog()

        class Rare(dspy.Module):
            def forward(self):
                return dspy.Predict("question -> answer")(question="Why?")

        class Common(Rare):
            pass

        with dspy.context(lm=DummyLM([{"answer": "So."}] * 4)):
            for program in (Rare(), Common(), Common(), Rare()):
                program()
    """
    environment = {
        "MLFLOW_TRACKING_URI": store_uri,
        "MLFLOW_EXPERIMENT_NAME": "programs",
        "MLFLOW_DSPY_SAMPLING_MODULES": "Common=0",
    }
    done = run_program(source, tmp_path, environment, zygote=MLFLOW)
    assert done.log_lines("WARNING") == []
    traces = stored_traces(store_uri, "programs")
    assert [trace.info.tags["mlflow.traceName"] for trace in traces] == ["Rare", "Rare"]
    assert {len(trace.data.spans) for trace in traces} == {4}


def test_the_active_run_gets_the_trace(store_uri: str, tmp_path: Path) -> None:
    source = """
        import mlflow
        from mlflow_bridge import autolog

        autolog()
        mlflow.set_experiment("Default")
        with mlflow.start_run() as run:
            work("in a run")
            print(run.info.run_id)
        work("outside")
    """
    done = run_program(source, tmp_path, {"MLFLOW_TRACKING_URI": store_uri}, zygote=MLFLOW)

    from mlflow import MlflowClient

    client = MlflowClient(store_uri)
    [linked] = client.search_traces(locations=["0"], run_id=done.stdout.split()[-1])
    assert "in a run" in span_names(linked)
    assert len(stored_traces(store_uri)) == 2


def test_under_opentelemetry_instrument_nothing_is_stored_twice(
    store_uri: str, tmp_path: Path
) -> None:
    source = """
        from importlib import import_module
        from mlflow_bridge import autolog

        autolog()
        assert import_module("mlflow_bridge._setup.autolog")._session.switch is None
        work("only")
    """
    environment = {"OTEL_TRACES_EXPORTER": "mlflow", "MLFLOW_TRACKING_URI": store_uri}
    run_program(source, tmp_path, environment, zero_code=True, zygote=MLFLOW)
    [trace] = stored_traces(store_uri)
    assert span_names(trace) == {"only", "only step"}


@pytest.mark.parametrize(
    ("preparation", "uri", "setting"),
    [
        pytest.param("", "ftp://nowhere", "MLFLOW_TRACKING_URI", id="wrong URI"),
        pytest.param(
            "import sys; sys.modules['mlflow'] = None",
            "sqlite:///mlflow.db",
            "mlflow-bridge[mlflow]",
            id="no MLflow",
        ),
    ],
)
def test_what_cannot_work_is_one_warning_and_a_count_at_the_end(
    preparation: str, uri: str, setting: str, tmp_path: Path
) -> None:
    source = f"""
        {preparation}
        from mlflow_bridge import autolog
        from opentelemetry.instrumentation.dspy import DSPyInstrumentor

        autolog()
        work("only")
        print(DSPyInstrumentor().is_instrumented_by_opentelemetry)
    """
    done = run_program(source, tmp_path, {"MLFLOW_TRACKING_URI": uri}, zygote=SDK)
    assert done.stdout.split() == ["True"]
    warning, count = done.stderr.splitlines()
    assert setting in warning
    assert count.startswith("2 of 2 spans are not in MLflow (bad settings): 0 lost, 2 refused")
    assert count.endswith("the warnings before this one say why.")
