# Copyright The opentelemetry-instrumentation-dspy Authors
# SPDX-License-Identifier: Apache-2.0
"""Runs the program under each of the two, and makes the page from what MLflow has of it."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Iterable, Iterator
from importlib.metadata import version
from itertools import groupby
from pathlib import Path
from typing import Any, Final

from tests import ROOT
from tests.integration.traced_program import run_program
from tests.support.children import MLFLOW
from tests.support.dspy_prompts import answer_dspy_prompt, asked_of, chat_text
from tests.support.fake_openai import FakeOpenAI, Reply, Request, ToolCall
from tests.support.mlflow_server import mlflow_store

PAGE: Final = ROOT / "docs" / "beside-mlflow-autolog.md"
TRACERS: Final = ("mlflow.dspy.autolog", "mlflow_bridge.autolog")
_BEGIN: Final = "<!-- measured: python -m tests.integration.beside --write -->\n"
_END: Final = "<!-- end of what is measured -->"

_PROGRAM = """
from tests.integration.beside.program import Tracer, run

run(Tracer({tracer!r}), {base_url!r})
"""
# In a process of its own, since datasets use MLflow's global tracking URI.
_READING = """
import json, sys
from pathlib import Path
from tests.integration.beside.program import RAISED, Asked
from tests.integration.beside.rows import ROWS
from tests.integration.beside.store import Store
from tests.support.span_tree import span_tree

store = Store({uri!r}, json.loads(RAISED.read_text("utf-8")))
rows = [[row.view, row.what, row.read(store)] for row in ROWS]
trees = [span_tree(store.one(case)) for case in (Asked.RETRIEVAL, Asked.AGENT)]
Path("read.json").write_text(json.dumps({{"rows": rows, "trees": trees}}), "utf-8")
"""
_ENVIRONMENT = {
    # Neither stores a trace before the end, so that no test depends on who is faster.
    "MLFLOW_ASYNC_TRACE_LOGGING_MAX_INTERVAL_MILLIS": "600000",
    "MLFLOW_DSPY_SCHEDULE_DELAY_SECONDS": "600",
}


def measure(directory: Path) -> str:
    """The measured part of the page, from two runs in this directory."""
    return _rendered([_measured(tracer, directory / tracer) for tracer in TRACERS])


def versions() -> str:
    """The line of the page that names the releases: others may show something else."""
    used = [f"{name} {'.'.join(version(name).split('.')[:2])}" for name in ("mlflow", "dspy")]
    return f"Measured with {' and '.join(used)}."


def measured_part(page: str) -> str:
    """The part of the page's text that `measure` makes."""
    return page.partition(_BEGIN)[2].partition(_END)[0]


def write(page: Path, measured: str) -> None:
    """Put the measured part into the page."""
    text = page.read_text("utf-8")
    assert measured_part(text), f"{page} has no {_BEGIN!r}"
    page.write_text(text.replace(measured_part(text), measured), "utf-8")


def _measured(tracer: str, directory: Path) -> dict[str, Any]:
    directory.mkdir()
    _make_git_repository(directory)
    uri = mlflow_store(directory)
    environment = {"MLFLOW_TRACKING_URI": uri, **_ENVIRONMENT}
    with FakeOpenAI(_answer) as server:
        source = _PROGRAM.format(tracer=tracer, base_url=server.base_url)
        run_program(source, directory, environment, zygote=MLFLOW)
    run_program(_READING.format(uri=uri), directory, environment, zygote=MLFLOW)
    return json.loads((directory / "read.json").read_text("utf-8"))


def _make_git_repository(directory: Path) -> None:
    git = ("git", "-c", "user.name=a", "-c", "user.email=a@example.com")
    for command in (("init", "--quiet"), ("commit", "--quiet", "--allow-empty", "-m", "Begin")):
        subprocess.run([*git, *command], cwd=directory, check=True)


def _answer(request: Request) -> Reply:
    """An agent calls a tool that works, a tool that fails, and ends; answers name Paris."""
    if request.json.get("tools"):
        return Reply(None, tool_calls=(ToolCall("weather", {"city": "Paris"}),))
    asked = asked_of(request)
    if asked is None:
        return answer_dspy_prompt(request)
    if "next_tool_name" not in asked.fields:
        known = {"reasoning": "The map shows it.", "answer": "Paris is in France."}
        fields = {name: known.get(name, value) for name, value in asked.fields.items()}
        return Reply(chat_text(**fields))
    steps = request.last_user.count("[[ ## observation_")
    tool = ("weather", "book", "finish")[min(steps, 2)]
    arguments = {} if tool == "finish" else {"city": "Paris"}
    fields = {"next_thought": "Go on.", "next_tool_name": tool, "next_tool_args": arguments}
    return Reply(chat_text(**fields))


def _rendered(measured: list[dict[str, Any]]) -> str:
    return "\n".join(_lines(measured)) + "\n"


def _lines(measured: list[dict[str, Any]]) -> Iterator[str]:
    yield f"\n{versions()}"
    theirs, ours = (each["rows"] for each in measured)
    both = ((view, what, a, b) for (view, what, a), (*_, b) in zip(theirs, ours, strict=True))
    for view, rows in groupby(both, lambda row: row[0]):
        yield f"\n## {view}"
        yield from _table(rows)
    yield "\n## Trees"
    yield "A program with a retriever, and an agent with two tools:"
    for tracer, each in zip(TRACERS, measured, strict=True):
        yield f"\n`{tracer}()`:\n\n```text"
        yield "\n\n".join(each["trees"])
        yield "```"


def _table(rows: Iterable[tuple[str, str, str, str]]) -> Iterator[str]:
    yield f"| | {' | '.join(f'`{tracer}()`' for tracer in TRACERS)} |"
    yield "|---|---|---|"
    for _, what, theirs, ours in rows:
        yield f"| {what} | {theirs} | {ours} |"
