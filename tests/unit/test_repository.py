# Copyright The opentelemetry-instrumentation-dspy Authors
# SPDX-License-Identifier: Apache-2.0
"""What must hold for the repository itself: packaging, headers, and documentation in step."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import tomli

from mlflow_bridge.config import MLflowDSPyConfig
from mlflow_bridge.environment_settings import variable_of
from mlflow_bridge.version import __version__ as bridge_version
from opentelemetry.instrumentation.dspy.package import _instruments
from opentelemetry.instrumentation.dspy.version import __version__ as instrumentation_version

ROOT = Path(__file__).parents[2]
DISTRIBUTIONS = ("opentelemetry-instrumentation-dspy", "mlflow_bridge")
SOURCES = tuple(ROOT / name / "src" for name in DISTRIBUTIONS)
CODE = (*SOURCES, *(ROOT / name for name in ("tests", "examples", "docs", "benchmarks")))

MAX_LINES = 600
HEADER = (
    "# Copyright The opentelemetry-instrumentation-dspy Authors",
    "# SPDX-License-Identifier: Apache-2.0",
)
ENVIRONMENT_VARIABLE = re.compile(r"(?:OTEL|MLFLOW)_[A-Z0-9_]*[A-Z0-9]")
OUR_PREFIXES = ("OTEL_INSTRUMENTATION_", "MLFLOW_")
CONFIGURATION = (ROOT / "docs" / "configuration.md").read_text("utf-8")
# By its variable, each setting of the bridge and its default.
SETTINGS = {
    variable_of(MLflowDSPyConfig, name): (name, field.default)
    for name, field in MLflowDSPyConfig.model_fields.items()
}


def _python_files(*places: Path) -> list[Path]:
    return sorted(file for place in places for file in place.rglob("*.py"))


def _name(file: Path) -> str:
    return str(file.relative_to(ROOT))


@cache
def _project(distribution: str) -> dict[str, Any]:
    return tomli.loads((ROOT / distribution / "pyproject.toml").read_text("utf-8"))["project"]


def test_the_namespace_packages_are_left_to_opentelemetry() -> None:
    namespace = SOURCES[0] / "opentelemetry"

    assert not (namespace / "__init__.py").exists()
    assert not (namespace / "instrumentation" / "__init__.py").exists()
    assert (namespace / "instrumentation" / "dspy" / "__init__.py").exists()


@pytest.mark.parametrize("package", ["opentelemetry/instrumentation/dspy", "mlflow_bridge"])
def test_both_packages_say_that_they_are_typed(package: str) -> None:
    assert any((source / package / "py.typed").exists() for source in SOURCES)


def test_both_distributions_have_one_version_and_one_range_of_pythons() -> None:
    assert instrumentation_version == bridge_version
    assert len({_project(name)["requires-python"] for name in DISTRIBUTIONS}) == 1


def test_the_zero_code_loader_and_pip_are_told_the_same_range_of_dspy() -> None:
    extras = _project("opentelemetry-instrumentation-dspy")["optional-dependencies"]

    assert extras["instruments"] == list(_instruments)


def test_each_distribution_carries_the_license() -> None:
    texts = {(ROOT / name / "LICENSE").read_text("utf-8") for name in (".", *DISTRIBUTIONS)}

    assert len(texts) == 1


@pytest.mark.parametrize("file", _python_files(*CODE), ids=_name)
def test_every_python_file_has_the_license_header(file: Path) -> None:
    lines = file.read_text("utf-8").splitlines()

    assert not lines or tuple(lines[:2]) == HEADER


@pytest.mark.parametrize("file", _python_files(*SOURCES), ids=_name)
def test_no_source_file_is_too_long_to_read(file: Path) -> None:
    assert len(file.read_text("utf-8").splitlines()) <= MAX_LINES


@pytest.mark.parametrize("file", _python_files(*SOURCES), ids=_name)
def test_no_random_numbers_are_taken_from_the_program(file: Path) -> None:
    tree = ast.parse(file.read_text("utf-8"))
    used = {
        node.attr
        for node in ast.walk(tree)
        if isinstance(node, ast.Attribute)
        and isinstance(node.value, ast.Name)
        and node.value.id == "random"
    }
    imported = {
        alias.name
        for node in ast.walk(tree)
        if isinstance(node, ast.ImportFrom) and node.module == "random"
        for alias in node.names
    }

    assert used | imported <= {"Random"}


def _names_in_code() -> set[str]:
    written = {name for file in _python_files(*SOURCES) for name in _environment_names(file)}
    return written | set(SETTINGS)


def _environment_names(file: Path) -> Iterator[str]:
    for node in ast.walk(ast.parse(file.read_text("utf-8"))):
        value = node.value if isinstance(node, ast.Constant) else None
        if isinstance(value, str) and ENVIRONMENT_VARIABLE.fullmatch(value):
            yield value


def test_every_environment_variable_that_the_code_reads_is_documented() -> None:
    assert _names_in_code() - set(ENVIRONMENT_VARIABLE.findall(CONFIGURATION)) == set()


def test_every_documented_environment_variable_of_ours_is_read() -> None:
    documented = set(ENVIRONMENT_VARIABLE.findall(CONFIGURATION))
    ours = {name for name in documented if name.startswith(OUR_PREFIXES)}

    assert ours - _names_in_code() == set()


@pytest.mark.parametrize("variable", SETTINGS)
def test_every_setting_of_the_bridge_is_documented_with_its_default(variable: str) -> None:
    field, default = SETTINGS[variable]
    row = next(line for line in CONFIGURATION.splitlines() if line.startswith(f"| `{variable}` |"))
    cells = [cell.strip() for cell in row.split("|")]

    assert cells[2] == f"`{field}`"
    assert cells[4] == _shown(default)


def _shown(default: Any) -> str:
    if default is None or default == {}:
        return "-"
    if isinstance(default, bool):
        return f"`{str(default).lower()}`"
    return f"`{default:g}`" if isinstance(default, float) else f"`{default}`"


@pytest.mark.parametrize("page", [*ROOT.glob("*.md"), *(ROOT / "docs").glob("*.md")], ids=_name)
def test_no_page_links_to_a_file_that_is_not_there(page: Path) -> None:
    targets = re.findall(r"\]\(([^)#\s]+)", page.read_text("utf-8"))
    files = [page.parent / target for target in targets if "://" not in target]

    assert [file for file in files if not file.exists()] == []
