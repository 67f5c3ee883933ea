# Copyright The opentelemetry-instrumentation-dspy Authors
# SPDX-License-Identifier: Apache-2.0
"""The blocks of README and docs, and the environments in which tests run them."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import textwrap
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final, NamedTuple

import pytest

from tests import ROOT
from tests.integration.traced_program import TIMEOUT, hide_litellm
from tests.support.children import MLFLOW, Zygote

PAGES: Final = (
    "README.md",
    "mlflow_bridge/README.md",
    "opentelemetry-instrumentation-dspy/README.rst",
    *sorted(f"docs/{page.name}" for page in (ROOT / "docs").glob("*.md")),
)
_MARKDOWN = re.compile(r"^```(\w+)\n(.*?)^```$", re.DOTALL | re.MULTILINE)
_RST = re.compile(r"^(?:\.\. code-block:: (\w+)|.*::)\n\n((?:    .*\n|\n)+)", re.MULTILINE)
_INSTALL_SECONDS: Final = 1200.0
_UNREACHABLE = re.compile(
    r"NewConnectionError|ConnectTimeout|name resolution|Could not fetch URL|ProxyError"
)


class Block(NamedTuple):
    page: str
    language: str
    code: str

    @property
    def first_line(self) -> str:
        return self.code.partition("\n")[0]


def blocks_of(page: str) -> list[Block]:
    """The blocks of a page; those of a page in reStructuredText without a language are ``sh``."""
    text = (ROOT / page).read_text("utf-8")
    found = _RST.findall(text) if page.endswith(".rst") else _MARKDOWN.findall(text)
    return [
        Block(page, language or "sh", textwrap.dedent(code).strip("\n") + "\n")
        for language, code in found
    ]


def blocks(page: str, *languages: str) -> list[str]:
    """The text of a page's blocks in these languages."""
    return [block.code for block in blocks_of(page) if block.language in languages]


@dataclass(frozen=True)
class Environment:
    """A Python environment with both packages.

    Attributes:
        programs: Where its commands are.
        zygote: What programs are forked from; None if each is a new interpreter.
    """

    programs: Path
    zygote: Zygote | None = None

    def run_script(self, script: Path, *, zero_code: bool = False, **variables: str) -> str:
        """What a script prints."""
        directory = script.parent
        environment = {**self._variables(directory), **variables}
        if self.zygote is not None:
            done = self.zygote.run(
                script, env=environment, cwd=directory, timeout=TIMEOUT, zero_code=zero_code
            )
            return _checked(done)
        command = ["opentelemetry-instrument"] if zero_code else []
        return self.run(directory, *command, "python", str(script), **variables)

    def run(self, directory: Path, *command: str, **variables: str) -> str:
        """What a command prints; the interpreters that it starts are new ones."""
        hide_litellm(directory)
        return _checked(
            subprocess.run(
                ["/usr/bin/env", *command],
                cwd=directory,
                env={**self._variables(directory), **variables},
                capture_output=True,
                text=True,
                timeout=TIMEOUT,
                check=False,
            )
        )

    def start(self, directory: Path, command: str, **variables: str) -> subprocess.Popen[bytes]:
        """Start a command of a shell, in a group of processes of its own."""
        return subprocess.Popen(
            ["bash", "-euc", command],
            cwd=directory,
            env={**self._variables(directory), **variables},
            start_new_session=True,
        )

    def _variables(self, directory: Path) -> dict[str, str]:
        variables = {
            **os.environ,
            "PATH": f"{self.programs}{os.pathsep}{os.environ['PATH']}",
            # The pages' programs take their LM from the tests.
            "PYTHONPATH": str(ROOT),
            "MLFLOW_TRACKING_URI": "sqlite:///mlflow.db",
            "MLFLOW_EXPERIMENT_NAME": "my-program",
            "MLFLOW_DSPY_EXIT_TIMEOUT_SECONDS": "60",
            "XDG_STATE_HOME": str(directory / "state"),
        }
        if self.zygote is not None:
            # The tests bring these along.
            variables["OTEL_PYTHON_DISABLED_INSTRUMENTATIONS"] = "openai,fastapi"
            variables["PYTHONPATH"] += f"{os.pathsep}{os.environ.get('PYTHONPATH', '')}"
        return variables


def development_environment() -> Environment:
    """The environment of the tests."""
    return Environment(Path(sys.executable).parent, MLFLOW)


def installed_environment(directory: Path) -> Environment:
    """A new environment made by the pages' install lines, with these sources of both packages.

    The calling test is skipped if the package index cannot be reached.
    """
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(directory)], check=True)
    environment = Environment(directory / "bin")
    for line in dict.fromkeys(install_lines()):
        environment_install(environment, *_requirements(line))
    return environment


def environment_install(environment: Environment, *requirements: str) -> None:
    """Install packages, with pip's cache; skip the calling test without a package index."""
    pip = [sys.executable, "-m", "pip", "--python", str(environment.programs / "python")]
    done = subprocess.run(
        [*pip, "install", "--quiet", *requirements],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=_INSTALL_SECONDS,
        check=False,
    )
    if done.returncode and _UNREACHABLE.search(done.stderr):
        pytest.skip(f"the package index cannot be reached: {done.stderr.splitlines()[-1]}")
    assert done.returncode == 0, done.stderr


def install_lines() -> Iterator[str]:
    """The lines of the pages that install both packages or one of them."""
    for page in PAGES:
        for code in blocks(page, "sh"):
            yield from (line for line in code.splitlines() if line.startswith("pip install"))


def _requirements(line: str) -> list[str]:
    """The requirements of an install line, from the checkout in place of the package index."""
    found = re.findall(r'"([^"]+)"', line)
    assert found, line
    places = {
        "mlflow-bridge": "./mlflow_bridge",
        "opentelemetry-instrumentation-dspy": "./opentelemetry-instrumentation-dspy",
    }
    for number, requirement in enumerate(found):
        name, bracket, extras = requirement.partition("[")
        found[number] = places.get(name, name) + bracket + extras
    return found


def _checked(done: subprocess.CompletedProcess[str]) -> str:
    assert done.returncode == 0, done.stdout + done.stderr
    assert "Traceback" not in done.stderr, done.stderr
    return done.stdout
