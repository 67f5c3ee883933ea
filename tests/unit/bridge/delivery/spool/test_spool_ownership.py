# Copyright The opentelemetry-instrumentation-dspy Authors
# SPDX-License-Identifier: Apache-2.0
"""A spool that other users can write to is not used: no file of the user is changed through it."""

from __future__ import annotations

import os
import stat
from collections.abc import Callable
from pathlib import Path

import pytest

from mlflow_bridge._config.settings import MLflowDSPyConfig
from mlflow_bridge._delivery.spool.deliver import deliver_spool
from mlflow_bridge._delivery.spool.directory import destination_of, files_in
from mlflow_bridge._delivery.spool.segment import Segment
from mlflow_bridge._delivery.spool.spool import Spool, directory_for
from mlflow_bridge.cli.spool import main
from tests.support.spool_spans import spans_named

pytestmark = pytest.mark.skipif(os.name != "posix", reason="needs owners of files")

NAME = "00000000000000000001-1-abcdef01.v1.jsonl"
UNREACHABLE = "http://127.0.0.1:1"


def config_in(tmp_path: Path) -> MLflowDSPyConfig:
    return MLflowDSPyConfig(tracking_uri=UNREACHABLE, spool_directory=tmp_path / "new" / "spool")


def written(path: Path) -> Path:
    """The only file of a spool in this directory, with one span, left by an ended process."""
    spool = Spool(path)
    assert spool.accept(spans_named("a"))
    spool.close()
    [file] = path.glob("*.jsonl")
    return file


def foreign_link(file: Path) -> None:
    victim = file.with_name("victim")
    file.rename(victim)
    file.symlink_to(victim)


def second_name(file: Path) -> None:
    os.link(file, file.with_name("victim"))


FORGERIES = [foreign_link, second_name, lambda file: file.chmod(0o666)]


@pytest.mark.parametrize("forge", FORGERIES, ids=["symbolic link", "hard link", "mode"])
def test_a_file_that_may_be_forged_is_left_alone(
    forge: Callable[[Path], None], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    file = written(tmp_path)
    content = file.read_bytes()
    forge(file)
    spool = Spool(tmp_path, max_bytes=len(content) + 10)
    for _ in range(2):
        assert spool.acquire() is None
    assert files_in(tmp_path) == []
    assert Segment.adopt(file) is None
    assert spool.status().bytes == 0
    # There is room, since the other file does not count, and it is not dropped.
    assert spool.accept(spans_named("b"))
    spool.close()
    assert file.read_bytes() == content
    [line] = [line for line in caplog.messages if file.name in line]
    assert "left alone" in line


def test_a_link_in_place_of_the_destination_is_not_followed(tmp_path: Path) -> None:
    victim = tmp_path / "victim"
    path = tmp_path / "spool"
    path.mkdir(mode=0o700)
    (path / "destination.txt").symlink_to(victim)
    spool = Spool(path, destination="http://host")
    assert spool.accept(spans_named("a"))
    spool.close()
    assert not victim.exists()
    victim.write_text("secret")
    assert destination_of(path) == ""


def shared(path: Path) -> None:
    path.mkdir(parents=True)
    path.chmod(0o777)


def linked(path: Path) -> None:
    real = path.parent.parent / "real"
    real.mkdir(mode=0o700)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.symlink_to(real)


@pytest.mark.parametrize("make", [shared, linked])
def test_a_directory_that_others_can_change_is_no_spool(
    make: Callable[[Path], None], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    config = config_in(tmp_path)
    path = directory_for(config)
    path.parent.mkdir(parents=True)
    make(path)
    assert Spool.from_config(config) is None
    [line] = caplog.messages
    assert str(path) in line and "spool_directory" in line
    assert files_in(path) == []


def test_a_directory_that_becomes_shared_takes_no_more_spans(tmp_path: Path) -> None:
    file = written(tmp_path)
    tmp_path.chmod(0o777)
    spool = Spool(tmp_path)
    assert not spool.accept(spans_named("b"))
    assert spool.acquire() is None
    assert list(tmp_path.glob("*.jsonl")) == [file]


def test_delivery_by_hand_says_what_to_do(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    written(tmp_path)
    tmp_path.chmod(0o777)
    with pytest.raises(PermissionError, match="chmod go-w"):
        deliver_spool(tmp_path, config=config_in(tmp_path))
    assert main(["deliver", str(tmp_path), "--tracking-uri", UNREACHABLE]) == 2
    assert "chown" in capsys.readouterr().err
    assert main(["list", str(tmp_path)]) == 1
    assert "other users can write" in capsys.readouterr().out


def test_every_directory_that_is_made_is_private(tmp_path: Path) -> None:
    config = config_in(tmp_path)
    spool = Spool.from_config(config)
    assert spool is not None
    assert spool.accept(spans_named("a"))
    spool.close()
    for directory in (spool.path, spool.path.parent, spool.path.parent.parent):
        assert stat.S_IMODE(directory.stat().st_mode) == 0o700
