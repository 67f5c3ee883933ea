# Copyright The opentelemetry-instrumentation-dspy Authors
# SPDX-License-Identifier: Apache-2.0
"""What the command prints of files is one printable line each."""

from __future__ import annotations

from pathlib import Path

import pytest

from mlflow_bridge._delivery.spool.directory import destination_of
from mlflow_bridge._delivery.spool.spool import Spool
from mlflow_bridge.cli.spool import main
from tests.support.spool_spans import spans_named


def test_names_and_destinations_are_printable(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "evil\x1b[2J\nname"
    spool = Spool(path, destination="x")
    assert spool.accept(spans_named("a"))
    spool.close()
    (path / "destination.txt").write_text("http://host\x1b]0;title\x07\nforged line\u202e")
    assert main(["list", str(tmp_path)]) == 1
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 3
    assert all(line.isprintable() for line in lines)
    assert "evil\\x1b[2J\\nname" in lines[0]
    assert "http://host\\x1b]0;title\\x07\\nforged line" in lines[1]


def test_a_long_destination_is_cut(tmp_path: Path) -> None:
    (tmp_path / "destination.txt").write_text("x" * 1_000_000)
    assert len(destination_of(tmp_path)) < 2000


def test_an_error_is_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["deliver", str(tmp_path / "no\nsuch")]) == 2
    [line] = capsys.readouterr().err.splitlines()
    assert line.isprintable()
