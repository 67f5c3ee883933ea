# Copyright The opentelemetry-instrumentation-dspy Authors
# SPDX-License-Identifier: Apache-2.0
"""A spool that is delivered by hand, and one that several processes find at the same time."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

import mlflow_bridge
from mlflow_bridge._config.settings import MLflowDSPyConfig
from mlflow_bridge._delivery.spool.spool import Spool
from tests.integration.span_sink import PATIENCE, SpanSink
from tests.integration.traced_program import program_environment, stored_traces
from tests.support.children import SDK
from tests.support.faults import Status
from tests.support.spool_spans import files_in, span_with

pytestmark = pytest.mark.integration

NOBODY = "http://127.0.0.1:1"
TOGETHER = """
import sys, time
from pathlib import Path
import mlflow_bridge

print("ready", flush=True)
sys.stdin.readline()
done = mlflow_bridge.deliver_spool(sys.argv[1])
print(done.stored, done.lost, flush=True)
"""


def settings(tmp_path: Path, uri: str, **values: Any) -> MLflowDSPyConfig:
    return MLflowDSPyConfig(tracking_uri=uri, spool_directory=tmp_path / "spools", **values)


def leave(config: MLflowDSPyConfig, spans: int, *, files: int = 1) -> Path:
    """The spool of a process that is no more."""
    names = expected(spans)
    for part in range(files):
        spool = Spool.from_config(config)
        assert spool is not None
        assert spool.accept(
            [
                span_with(name=name, span_id=n)
                for n, name in enumerate(names, 1)
                if n % files == part
            ]
        )
        spool.close()
        path = spool.path
    return path


def expected(spans: int) -> Counter[str]:
    return Counter(f"span {n}" for n in range(spans))


def run(*arguments: str, directory: Path, **environment: str) -> tuple[int, str, str]:
    done = subprocess.run(
        [sys.executable, "-m", "mlflow_bridge.spool", *arguments],
        env={**program_environment(directory), **environment},
        capture_output=True,
        text=True,
        timeout=PATIENCE,
        check=False,
    )
    return done.returncode, done.stdout, done.stderr


def test_the_spool_of_a_destination(tmp_path: Path) -> None:
    with SpanSink() as sink:
        config = settings(tmp_path, sink.http.url)
        path = leave(config, 1500, files=3)
        done = mlflow_bridge.deliver_spool(config=config)
        assert sink.stored() == expected(1500)
    assert (done.stored, done.lost, done.left_files, done.left_bytes) == (1500, 0, 0, 0)
    assert done.complete
    assert done.directory == path
    assert files_in(path) == []


def test_nothing_to_deliver_needs_no_destination(tmp_path: Path) -> None:
    done = mlflow_bridge.deliver_spool(config=settings(tmp_path, NOBODY))
    assert (done.stored, done.complete, done.reason) == (0, True, "")
    assert not (tmp_path / "spools").exists()


def test_the_spool_of_another_machine_goes_where_it_is_told(tmp_path: Path, store_uri: str) -> None:
    path = leave(settings(tmp_path, NOBODY, experiment_name="lost"), 6)
    copied = shutil.copytree(path, tmp_path / "copied")
    done = mlflow_bridge.deliver_spool(
        copied, config=settings(tmp_path, store_uri, experiment_name="found")
    )
    assert (done.stored, done.complete) == (6, True)
    [trace] = stored_traces(store_uri, "found")
    assert len(trace.data.spans) == 6
    assert len(files_in(path)) == 1


def test_a_destination_that_is_away_costs_nothing(tmp_path: Path) -> None:
    config = settings(tmp_path, NOBODY)
    path = leave(config, 5)
    done = mlflow_bridge.deliver_spool(config=config, patience_seconds=0.0)
    assert (done.stored, done.lost, done.left_files) == (0, 0, 1)
    assert not done.complete
    assert "MLFLOW_TRACKING_URI" in done.reason
    assert len(files_in(path)) == 1


def test_a_destination_that_hesitates_is_waited_for(tmp_path: Path) -> None:
    with SpanSink() as sink:
        config = settings(tmp_path, sink.http.url)
        leave(config, 5)
        sink.http.fail_with(Status(503), Status(500), Status(429, retry_after=1))
        assert mlflow_bridge.deliver_spool(config=config).stored == 5
        assert sink.stored() == expected(5)


def test_files_of_a_living_process_are_its_own(tmp_path: Path) -> None:
    with SpanSink() as sink:
        config = settings(tmp_path, sink.http.url)
        alive = Spool.from_config(config)
        assert alive is not None
        assert alive.accept([span_with(name="of the living")])
        leave(config, 3)
        done = mlflow_bridge.deliver_spool(config=config)
        assert (done.stored, done.left_files) == (3, 1)
        assert "still running" in done.reason
        assert sink.stored() == expected(3)
        alive.close()


def test_old_spans_are_not_dropped_for_their_age(tmp_path: Path) -> None:
    with SpanSink() as sink:
        config = settings(tmp_path, sink.http.url, spool_max_age_seconds=1.0)
        [file] = files_in(leave(config, 3))
        os.utime(file, (1, 1))
        assert mlflow_bridge.deliver_spool(config=config).stored == 3


def test_a_directory_of_spools_is_not_one(tmp_path: Path) -> None:
    config = settings(tmp_path, NOBODY)
    path = leave(config, 1)
    with pytest.raises(NotADirectoryError, match=path.name):
        mlflow_bridge.deliver_spool(path.parent, config=config)
    with pytest.raises(NotADirectoryError, match="no directory"):
        mlflow_bridge.deliver_spool(tmp_path / "absent", config=config)


def test_the_command_lists_and_delivers(tmp_path: Path) -> None:
    with SpanSink() as sink:
        config = settings(tmp_path, sink.http.url, experiment_name="mine")
        path = leave(config, 7)
        environment = {
            "MLFLOW_TRACKING_URI": sink.http.url,
            "MLFLOW_DSPY_SPOOL_DIRECTORY": str(tmp_path / "spools"),
        }
        code, output, _ = run("list", directory=tmp_path, **environment)
        assert code == 1
        assert str(path) in output
        assert f"for {sink.http.url}, experiment 'mine'" in output

        code, output, _ = run(
            "deliver", "--experiment-name", "mine", directory=tmp_path, **environment
        )
        assert (code, sink.stored()) == (0, expected(7))
        assert output.startswith("7 spans of")

        code, output, _ = run("list", directory=tmp_path, **environment)
        assert (code, output) == (0, f"Nothing is in {tmp_path / 'spools'}.\n")


def test_the_command_says_what_is_wrong(tmp_path: Path) -> None:
    leave(settings(tmp_path, NOBODY), 1)
    environment = {"MLFLOW_DSPY_SPOOL_DIRECTORY": str(tmp_path / "spools")}
    code, output, errors = run(
        *("deliver", "--timeout", "1"),
        directory=tmp_path,
        MLFLOW_TRACKING_URI=NOBODY,
        **environment,
    )
    assert code == 1
    assert "1 files" in output
    assert "MLFLOW_TRACKING_URI" in output
    code, _, errors = run(
        "deliver", directory=tmp_path, MLFLOW_TRACKING_URI="ftp://nowhere", **environment
    )
    assert code == 2
    assert errors.startswith("error: MLFLOW_TRACKING_URI")
    assert "Traceback" not in errors


def test_of_two_processes_at_the_same_time_one_has_each_file(tmp_path: Path) -> None:
    with SpanSink() as sink:
        path = leave(settings(tmp_path, sink.http.url), 2000, files=40)
        environment = {**program_environment(tmp_path), "MLFLOW_TRACKING_URI": sink.http.url}
        processes = [
            SDK.start(TOGETHER, str(path), env=environment, cwd=tmp_path) for _ in range(2)
        ]
        for process in processes:
            assert process.stdout.readline() == "ready\n"
        outputs = [
            process.communicate("go\n", timeout=PATIENCE)[0].split() for process in processes
        ]
        assert sink.stored() == expected(2000)
        assert sink.arrivals() == 2000
    assert sum(int(stored) for stored, _ in outputs) == 2000
    assert [lost for _, lost in outputs] == ["0", "0"]
