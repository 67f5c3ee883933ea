# Copyright The opentelemetry-instrumentation-dspy Authors
# SPDX-License-Identifier: Apache-2.0
"""Children of a traced program: what each of them ended is stored, and once.

No child lives as long as a batch waits to fill, so what arrives was delivered, or kept on disk, by
the end of a process.
"""

from __future__ import annotations

import multiprocessing
from collections import Counter
from pathlib import Path

import pytest

from mlflow_bridge import MLflowDSPyConfig, deliver_spool
from tests.integration.span_sink import SpanSink, spooled, traces
from tests.integration.traced_program import run_program, stored_traces
from tests.support.children import MLFLOW, SDK

pytestmark = pytest.mark.integration

METHODS = [
    method
    for method in ("fork", "spawn", "forkserver")
    if method in multiprocessing.get_all_start_methods()
]
AUTOLOG = """
    import mlflow_bridge

    # On import, since children that are started anew import the program once more.
    mlflow_bridge.autolog()
"""
PROGRAM = """
    import multiprocessing
    from concurrent.futures import ProcessPoolExecutor

    if __name__ == "__main__":
        work("main")
        context = multiprocessing.get_context("{method}")

        child = context.Process(target=work, args=("process",))
        child.start()
        child.join()

        with ProcessPoolExecutor(1, mp_context=context) as executor:
            list(executor.map(work, ["executor 0", "executor 1", "executor 2"]))

        closed = context.Pool(1)
        closed.map(work, ["closed 0", "closed 1", "closed 2"])
        closed.close()
        closed.join()

        # The end of the block terminates the workers; one that is not forked imports it all again.
        with context.Pool(2 if "{method}" == "fork" else 1) as pool:
            pool.map(work, ["killed 0", "killed 1", "killed 2"], chunksize=1)
"""
EXPECTED = traces(
    "main",
    "process",
    *(f"{kind} {n}" for kind in ("executor", "closed", "killed") for n in range(3)),
)


def environment(tmp_path: Path, uri: str) -> dict[str, str]:
    return {
        "MLFLOW_TRACKING_URI": uri,
        "MLFLOW_DSPY_SCHEDULE_DELAY_SECONDS": "3600",
        "XDG_STATE_HOME": str(tmp_path / "state"),
        "OTEL_TRACES_EXPORTER": "mlflow",
    }


@pytest.mark.parametrize("method", METHODS)
def test_multiprocessing(method: str, tmp_path: Path) -> None:
    with SpanSink() as sink:
        settings = environment(tmp_path, sink.http.url)
        done = run_program(AUTOLOG + PROGRAM.format(method=method), tmp_path, settings, zygote=SDK)
        assert sink.stored() == EXPECTED, done.stderr
    assert spooled(tmp_path / "state") == 0
    # On a busy machine, a worker that is terminated leaves its spans to the parent, and says so.
    assert "lost" not in done.stderr.replace("0 lost", "")


def test_multiprocessing_under_opentelemetry_instrument(tmp_path: Path) -> None:
    with SpanSink() as sink:
        settings = environment(tmp_path, sink.http.url)
        done = run_program(
            PROGRAM.format(method="fork"), tmp_path, settings, zero_code=True, zygote=SDK
        )
        assert sink.stored() == EXPECTED, done.stderr
    assert spooled(tmp_path / "state") == 0


def test_forked_children_and_a_store(tmp_path: Path, store_uri: str) -> None:
    """Also of a parent that is writing to the same store at that moment."""
    source = (
        AUTOLOG
        + """
    import os

    children = []
    for n in range(3):
        for m in range(3):
            work(f"parent {n} {m}")
        trace.get_tracer_provider().force_flush()
        child = os.fork()
        if child == 0:
            work(f"child {n}")
            break
        children.append(child)
    else:
        for child in children:
            assert os.waitpid(child, 0)[1] == 0
    """
    )
    settings = {**environment(tmp_path, store_uri), "MLFLOW_DSPY_SCHEDULE_DELAY_SECONDS": "0.01"}
    done = run_program(source, tmp_path, settings, zygote=MLFLOW)
    names = Counter(span.name for t in stored_traces(store_uri) for span in t.data.spans)
    parents = [f"parent {n} {m}" for n in range(3) for m in range(3)]
    assert names == traces(*parents, *(f"child {n}" for n in range(3))), done.stderr
    assert done.stderr == ""


def test_children_that_are_forked_while_the_store_is_made(tmp_path: Path) -> None:
    """Locks that the parent's threads hold at that moment are not released in the children."""
    source = (
        AUTOLOG
        + """
    import os

    for n in range(2):
        if os.fork() == 0:
            work(f"child {n}")
            break
    else:
        work("parent")
        for _ in range(2):
            assert os.waitstatus_to_exitcode(os.wait()[1]) == 0
    """
    )
    uri = f"sqlite:///{tmp_path / 'new.db'}"
    settings = {
        **environment(tmp_path, uri),
        "MLFLOW_DSPY_EXIT_TIMEOUT_SECONDS": "60",
        "MLFLOW_DSPY_SPOOL_DIRECTORY": str(tmp_path / "spool"),
    }
    done = run_program(source, tmp_path, settings, zygote=MLFLOW)
    # A fork waits for ten seconds at most, and where that is not enough the child knows it.
    assert "not delivered in time" not in done.stderr
    config = MLflowDSPyConfig(tracking_uri=uri, spool_directory=tmp_path / "spool")
    assert deliver_spool(config=config).complete
    names = Counter(span.name for t in stored_traces(uri) for span in t.data.spans)
    assert names == traces("parent", "child 0", "child 1"), done.stderr


def test_a_child_that_is_forked_while_another_thread_changes_the_settings(tmp_path: Path) -> None:
    """That may take seconds, for what is meant for the old destination is delivered first."""
    source = (
        AUTOLOG
        + """
    import os, signal, threading
    from mlflow_bridge import MLflowBatchSpanProcessor

    retiring, forked = threading.Event(), threading.Event()

    def retire(self, successor=None):
        retiring.set()
        forked.wait()

    MLflowBatchSpanProcessor.retire = retire
    other = threading.Thread(target=mlflow_bridge.autolog, kwargs={"experiment_name": "other"})
    other.start()
    retiring.wait()
    child = os.fork()
    if child == 0:
        signal.alarm(60)
        forked.set()
        mlflow_bridge.autolog(experiment_name="child")
        work("child")
    else:
        forked.set()
        assert os.waitpid(child, 0)[1] == 0
    """
    )
    with SpanSink() as sink:
        run_program(source, tmp_path, environment(tmp_path, sink.http.url), zygote=SDK)
        assert sink.stored() == traces("child")
