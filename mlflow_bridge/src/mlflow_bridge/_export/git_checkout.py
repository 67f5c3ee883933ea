# Copyright The opentelemetry-instrumentation-dspy Authors
# SPDX-License-Identifier: Apache-2.0
"""Commit, branch and repository of the directory in which a program runs.

The files of Git are read directly. MLflow's way, GitPython, starts processes, which a program may
notice: a server that waits for all of its children would find them.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Final
from urllib.parse import urlsplit, urlunsplit

_COMMIT: Final = re.compile(r"[0-9a-f]{40,64}")
_REMOTE: Final = re.compile(r'^\s*\[remote "([^"]*)"\]', re.MULTILINE)
_URL: Final = re.compile(r"^\s*url\s*=\s*(.+?)\s*$", re.MULTILINE)
_SECTION: Final = re.compile(r"^\s*\[", re.MULTILINE)
_HEADS: Final = "refs/heads/"


def git_metadata(directory: Path) -> dict[str, str]:
    """MLflow's metadata of a Git checkout; empty if the directory is not in a checkout.

    Raises:
        OSError, UnicodeDecodeError: A file of Git cannot be read.
    """
    git = _git_directory(directory)
    if git is None:
        return {}
    shared = _shared_directory(git)
    head = (git / "HEAD").read_text().strip()
    reference = head.removeprefix("ref: ")
    commit = head if _COMMIT.fullmatch(head) else _commit_of(reference, git, shared)
    found = {
        "mlflow.source.git.commit": commit,
        "mlflow.source.git.branch": (
            reference.removeprefix(_HEADS) if reference.startswith(_HEADS) else None
        ),
        "mlflow.source.git.repoURL": _remote_url(shared / "config"),
    }
    return {key: value for key, value in found.items() if value}


def _git_directory(directory: Path) -> Path | None:
    for folder in (directory, *directory.parents):
        git = folder / ".git"
        if git.is_dir():
            return git
        if git.is_file():  # of a worktree or submodule
            return folder / git.read_text().strip().removeprefix("gitdir: ")
    return None


def _shared_directory(git: Path) -> Path:
    """The directory of the repository, which the worktrees of a repository share."""
    common = git / "commondir"
    return git / common.read_text().strip() if common.is_file() else git


def _commit_of(reference: str, git: Path, shared: Path) -> str | None:
    for directory in (git, shared):
        file = directory / reference
        if file.is_file():
            return file.read_text().strip()
    packed = shared / "packed-refs"
    if not packed.is_file():
        return None
    for line in packed.read_text().splitlines():
        commit, _, name = line.partition(" ")
        if name == reference and _COMMIT.fullmatch(commit):
            return commit
    return None


def _remote_url(config: Path) -> str | None:
    """The address of the first remote, without credentials."""
    if not config.is_file():
        return None
    text = config.read_text()
    remote = _REMOTE.search(text)
    if remote is None:
        return None
    section = text[remote.end() :]
    following = _SECTION.search(section)
    url = _URL.search(section[: following.start()] if following else section)
    return None if url is None else _without_credentials(url.group(1))


def _without_credentials(url: str) -> str:
    parts = urlsplit(url)
    # An address without a scheme (user@host:path) has a user name at most.
    if not parts.scheme or "@" not in parts.netloc:
        return url
    return urlunsplit(parts._replace(netloc=parts.netloc.rpartition("@")[2]))
