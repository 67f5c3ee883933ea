# Copyright The opentelemetry-instrumentation-dspy Authors
# SPDX-License-Identifier: Apache-2.0
"""Commit, branch and address of a checkout, from the files of Git."""

from __future__ import annotations

from pathlib import Path

import pytest

from mlflow_bridge._export.git_checkout import git_metadata

COMMIT = "0123456789abcdef0123456789abcdef01234567"
OTHER = "f" * 40
CONFIG = """[core]
\trepositoryformatversion = 0
\tbare = false
[remote "origin"]
\turl = {url}
\tfetch = +refs/heads/*:refs/remotes/origin/*
[branch "main"]
\tremote = origin
[remote "fork"]
\turl = https://fork.example/repo
"""


def checkout(directory: Path, head: str, url: str = "https://git.example/team/repo.git") -> Path:
    git = directory / ".git"
    (git / "refs" / "heads").mkdir(parents=True)
    (git / "HEAD").write_text(f"{head}\n")
    (git / "config").write_text(CONFIG.format(url=url))
    return git


def metadata(commit: str, branch: str | None, url: str) -> dict[str, str]:
    found = {
        "mlflow.source.git.commit": commit,
        "mlflow.source.git.branch": branch,
        "mlflow.source.git.repoURL": url,
    }
    return {key: value for key, value in found.items() if value is not None}


URL = "https://git.example/team/repo.git"


def test_a_branch_in_a_folder_below_the_checkout(tmp_path: Path) -> None:
    git = checkout(tmp_path, "ref: refs/heads/main")
    (git / "refs/heads/main").write_text(f"{COMMIT}\n")
    below = tmp_path / "a" / "b"
    below.mkdir(parents=True)
    assert git_metadata(below) == metadata(COMMIT, "main", URL)


def test_a_packed_branch_with_a_slash_in_its_name(tmp_path: Path) -> None:
    git = checkout(tmp_path, "ref: refs/heads/team/feature")
    (git / "packed-refs").write_text(
        f"# pack-refs with: peeled\n{OTHER} refs/heads/team\n{COMMIT} refs/heads/team/feature\n"
        f"^{OTHER}\n"
    )
    assert git_metadata(tmp_path) == metadata(COMMIT, "team/feature", URL)


def test_a_detached_head(tmp_path: Path) -> None:
    checkout(tmp_path, COMMIT)
    assert git_metadata(tmp_path) == metadata(COMMIT, None, URL)


def test_a_new_repository_without_a_commit(tmp_path: Path) -> None:
    checkout(tmp_path, "ref: refs/heads/main")
    found = git_metadata(tmp_path)
    assert found == {"mlflow.source.git.branch": "main", "mlflow.source.git.repoURL": URL}


def test_a_worktree(tmp_path: Path) -> None:
    git = checkout(tmp_path / "repository", "ref: refs/heads/main")
    (git / "refs/heads/topic").write_text(COMMIT)
    own = git / "worktrees" / "topic"
    own.mkdir(parents=True)
    (own / "HEAD").write_text("ref: refs/heads/topic\n")
    (own / "commondir").write_text("../..\n")
    tree = tmp_path / "tree"
    tree.mkdir()
    (tree / ".git").write_text(f"gitdir: {own}\n")
    assert git_metadata(tree) == metadata(COMMIT, "topic", URL)


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("https://user:token@git.example/repo", "https://git.example/repo"),
        ("https://token@git.example:8443/repo", "https://git.example:8443/repo"),
        ("git@git.example:team/repo.git", "git@git.example:team/repo.git"),
    ],
)
def test_credentials_are_left_out(tmp_path: Path, url: str, shown: str) -> None:
    checkout(tmp_path, COMMIT, url)
    assert git_metadata(tmp_path)["mlflow.source.git.repoURL"] == shown


def test_no_checkout(tmp_path: Path) -> None:
    assert git_metadata(tmp_path) == {}


def test_a_repository_without_a_remote(tmp_path: Path) -> None:
    git = checkout(tmp_path, COMMIT)
    (git / "config").write_text("[core]\n\tbare = false\n")
    assert git_metadata(tmp_path) == {"mlflow.source.git.commit": COMMIT}
