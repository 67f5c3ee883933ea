# Copyright The opentelemetry-instrumentation-dspy Authors
# SPDX-License-Identifier: Apache-2.0
"""Directories and files that other users can write to are told apart."""

from __future__ import annotations

import os
import stat
from pathlib import Path

import pytest

from mlflow_bridge._process.private_files import (
    NotPrivateError,
    directory_problem,
    file_problem,
    make_private_directory,
    open_private_file,
)

pytestmark = pytest.mark.skipif(os.name != "posix", reason="needs owners of files")


def test_every_directory_that_is_made_is_private(tmp_path: Path) -> None:
    path = tmp_path / "a" / "b" / "c"
    before = os.umask(0)
    try:
        for _ in range(2):
            make_private_directory(path)
    finally:
        os.umask(before)
    for directory in (path, path.parent, path.parent.parent):
        assert stat.S_IMODE(directory.stat().st_mode) == 0o700
        assert directory_problem(directory) is None


def test_an_absent_directory_is_no_problem(tmp_path: Path) -> None:
    assert directory_problem(tmp_path / "absent") is None


@pytest.mark.parametrize("mode", [0o770, 0o702])
def test_a_directory_that_others_can_write_to(tmp_path: Path, mode: int) -> None:
    tmp_path.chmod(mode)
    assert "other users can write" in str(directory_problem(tmp_path))


def test_a_directory_that_is_none(tmp_path: Path) -> None:
    link, file = tmp_path / "link", tmp_path / "file"
    link.symlink_to(tmp_path)
    file.touch()
    assert "symbolic link" in str(directory_problem(link))
    assert "not a directory" in str(directory_problem(file))


def test_the_owner(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: os.getuid() + 1)
    assert "belongs to the user" in str(directory_problem(tmp_path))
    file = tmp_path / "file"
    file.touch()
    with pytest.raises(NotPrivateError, match="belongs to the user"):
        open_private_file(file, os.O_RDONLY)


def test_a_system_without_owners(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tmp_path.chmod(0o777)
    monkeypatch.delattr(os, "geteuid")
    assert directory_problem(tmp_path) is None


def test_files_that_are_not_this_users_own(tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.write_text("text")
    os.close(open_private_file(file, os.O_RDWR))
    (tmp_path / "link").symlink_to(file)
    os.mkfifo(tmp_path / "fifo", 0o600)
    for name in ("link", "fifo"):
        with pytest.raises(OSError):
            open_private_file(tmp_path / name, os.O_RDWR)
    assert "not a regular file" in str(file_problem(os.lstat(tmp_path / "link")))
    os.link(file, tmp_path / "second")
    with pytest.raises(NotPrivateError, match="hard link"):
        open_private_file(file, os.O_RDWR)
    (tmp_path / "second").unlink()
    file.chmod(0o620)
    with pytest.raises(NotPrivateError, match="other users can write"):
        open_private_file(file, os.O_RDWR)
    assert file.read_text() == "text"
