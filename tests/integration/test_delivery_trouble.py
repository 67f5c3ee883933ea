# Copyright The opentelemetry-instrumentation-dspy Authors
# SPDX-License-Identifier: Apache-2.0
"""No server, no store, no disk: the program does not notice, and no span goes without a word."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tests.integration.span_sink import SpanSink, spooled, traces
from tests.integration.traced_program import Finished, run_program
from tests.support.children import MLFLOW, SDK

pytestmark = pytest.mark.integration

TRACES = 300
WORKING = """
    import mlflow_bridge

    mlflow_bridge.autolog()
    for n in range({traces}):
        work(f"trace {{n}}")
    {at_last}
    print("done", flush=True)
"""
NO_ROOM = """
    import logging, resource, threading

    full = threading.Event()

    class Shown(logging.StreamHandler):
        def emit(self, record):
            super().emit(record)
            if "cannot keep spans" in record.getMessage():
                full.set()

    logging.getLogger().addHandler(Shown())

    # As of a disk that is full: a write is cut off there, and the next ones fail.
    resource.setrlimit(resource.RLIMIT_FSIZE, (150_000, 150_000))
"""
# Otherwise the time limit of the exit may come before the disk says no.
SMALL_QUEUE = {"MLFLOW_DSPY_MAX_QUEUE_SIZE": "100"}
UNTIL_THE_DISK_IS_FULL = "full.wait(60)"
SUMMARY = re.compile(
    r"(?P<missing>\d+) of (?P<all>\d+) spans are not in .*: "
    r"(?P<lost>\d+) lost, (?P<refused>\d+) refused, (?P<kept>\d+) kept"
)


def run(
    uri: str, tmp_path: Path, source: str = "", at_last: str = "", **environment: str
) -> Finished:
    settings = {
        "MLFLOW_TRACKING_URI": uri,
        "XDG_STATE_HOME": str(tmp_path / "state"),
        "MLFLOW_DSPY_EXIT_TIMEOUT_SECONDS": "2",
        **environment,
    }
    done = run_program(
        source + WORKING.format(traces=TRACES, at_last=at_last),
        tmp_path,
        settings,
        zygote=MLFLOW if uri.startswith("sqlite") else SDK,
    )
    assert done.stdout == "done\n"
    assert done.log_lines("Traceback") == []
    return done


def run_until_the_disk_is_full(tmp_path: Path) -> Finished:
    return run("http://127.0.0.1:1", tmp_path, NO_ROOM, UNTIL_THE_DISK_IS_FULL, **SMALL_QUEUE)


def summary(done: Finished) -> dict[str, int]:
    """What the last line says of the spans that are not in MLflow."""
    found = SUMMARY.search(done.stderr.strip().splitlines()[-1])
    assert found is not None, done.stderr
    return {name: int(number) for name, number in found.groupdict().items()}


def unusable(tmp_path: Path, what: str) -> str:
    if what == "no server":
        return "http://127.0.0.1:1"
    if what == "file in the place of a directory":
        (tmp_path / "file").write_text("")
        return f"sqlite:///{tmp_path / 'file' / 'mlflow.db'}"
    return "sqlite:////proc/mlflow.db"


@pytest.mark.parametrize(
    "what", ["no server", "read-only directory", "file in the place of a directory"]
)
def test_a_destination_that_is_never_there_keeps_all_of_it(what: str, tmp_path: Path) -> None:
    if what != "no server":
        pytest.importorskip("mlflow")
    done = run(unusable(tmp_path, what), tmp_path)
    spans = 2 * TRACES
    expected = {"missing": spans, "all": spans, "lost": 0, "refused": 0, "kept": spans}
    assert summary(done) == expected
    assert "MLFLOW_TRACKING_URI" in done.stderr
    assert spooled(tmp_path / "state") == spans


def test_a_spool_without_room_beside_a_server_that_is_there(tmp_path: Path) -> None:
    with SpanSink() as sink:
        run(
            sink.http.url,
            tmp_path,
            NO_ROOM,
            MLFLOW_DSPY_WRITE_AHEAD="true",
            MLFLOW_DSPY_EXIT_TIMEOUT_SECONDS="60",
        )
        assert sink.stored() == traces(*(f"trace {n}" for n in range(TRACES)))


@pytest.mark.parametrize("spool", ["full", "read-only"])
def test_neither_a_server_nor_a_disk(spool: str, tmp_path: Path) -> None:
    """There is no place left: the loss is counted to the span, and named."""
    full = spool == "full"
    if full:
        done = run_until_the_disk_is_full(tmp_path)
    else:
        done = run("http://127.0.0.1:1", tmp_path, MLFLOW_DSPY_SPOOL_DIRECTORY="/proc/spool")
    numbers = summary(done)
    kept = spooled(tmp_path / "state")
    assert (kept > 0) == full
    assert numbers["all"] == numbers["missing"] == 2 * TRACES
    assert (numbers["kept"], numbers["lost"]) == (kept, 2 * TRACES - kept)
    assert len(done.log_lines("cannot keep spans")) == 1
    assert "spool_directory" in done.stderr


def test_what_is_on_a_full_disk_is_whole(tmp_path: Path) -> None:
    """No half line is left behind, and all that was counted as kept is delivered."""
    kept = summary(run_until_the_disk_is_full(tmp_path))["kept"]
    assert 0 < kept < 2 * TRACES
    with SpanSink() as sink:
        [directory] = (tmp_path / "state/mlflow-bridge/spool").iterdir()
        deliver = f"""
        import mlflow_bridge
        done = mlflow_bridge.deliver_spool({str(directory)!r})
        print(done.stored, done.lost, done.complete)
        """
        done = run_program(deliver, tmp_path, {"MLFLOW_TRACKING_URI": sink.http.url}, zygote=SDK)
        assert done.stdout == f"{kept} 0 True\n"
        assert sink.arrivals() == kept
