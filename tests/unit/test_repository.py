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

from mlflow_bridge._config.base import variable_of
from mlflow_bridge._config.settings import MLflowDSPyConfig, own_variable
from mlflow_bridge._setup.doctor.former_variables import FORMER
from mlflow_bridge.version import __version__ as bridge_version
from opentelemetry.instrumentation.dspy.package import _instruments
from opentelemetry.instrumentation.dspy.version import __version__ as instrumentation_version
from tests import ROOT
from tests.support.one_worker import LITELLM_FILES

DISTRIBUTIONS = ("opentelemetry-instrumentation-dspy", "mlflow_bridge")
SOURCES = tuple(ROOT / name / "src" for name in DISTRIBUTIONS)
CODE = (*SOURCES, *(ROOT / name for name in ("tests", "examples", "docs", "benchmarks")))

MAX_LINES = 600
HEADER = (
    "# Copyright The opentelemetry-instrumentation-dspy Authors",
    "# SPDX-License-Identifier: Apache-2.0",
)
IMPORT_OF_LITELLM = re.compile(r"^ *import litellm\b|(module|skip)\(.litellm.\)", re.MULTILINE)
ENVIRONMENT_VARIABLE = re.compile(r"(?:OTEL|MLFLOW)_[A-Z0-9_]*[A-Z0-9]")
OUR_PREFIXES = ("OTEL_INSTRUMENTATION_", "MLFLOW_")
CONFIGURATION = (ROOT / "docs" / "configuration.md").read_text("utf-8")
# By its variable, each setting of the bridge.
SETTINGS = {
    variable_of(MLflowDSPyConfig, name): (name, field)
    for name, field in MLflowDSPyConfig.model_fields.items()
}


@cache
def _tree(file: Path) -> ast.Module:
    return ast.parse(file.read_text("utf-8"))


def _python_files(*places: Path) -> list[Path]:
    return sorted(file for place in places for file in place.rglob("*.py"))


def _name(file: Path) -> str:
    return str(file.relative_to(ROOT))


def _lines(file: Path) -> list[str]:
    return file.read_text("utf-8").splitlines()


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


# The tests of files and rows have one case each, which lists the offenders. One case per file or
# row would be a fifth of all unit tests.
def test_every_python_file_has_the_license_header() -> None:
    assert [_name(file) for file in _python_files(*CODE) if not _has_header(file)] == []


def _has_header(file: Path) -> bool:
    lines = _lines(file)
    return not lines or tuple(lines[:2]) == HEADER


def test_no_source_file_is_too_long_to_read() -> None:
    lengths = {_name(file): len(_lines(file)) for file in _python_files(*SOURCES)}

    assert {name: lines for name, lines in lengths.items() if lines > MAX_LINES} == {}


# tests/unit/conftest.py sees each use by DSPy, and only the first import of a process.
def test_unit_tests_that_import_litellm_are_among_its_files() -> None:
    unit_tests = _python_files(ROOT / "tests" / "unit")
    importing = {
        _name(file) for file in unit_tests if IMPORT_OF_LITELLM.search(file.read_text("utf-8"))
    }

    assert importing
    assert importing - LITELLM_FILES == set()


def test_every_file_that_shares_the_worker_of_litellm_is_there() -> None:
    assert [name for name in LITELLM_FILES if not (ROOT / name).exists()] == []


def _names_in_code() -> set[str]:
    written = {name for file in _python_files(*SOURCES) for name in _environment_names(file)}
    # The page on migration has those of earlier integrations, which are not read.
    return (
        (written - FORMER.keys())
        | set(SETTINGS)
        | {own_variable(name) for name in MLflowDSPyConfig.model_fields}
    )


def _environment_names(file: Path) -> Iterator[str]:
    for node in ast.walk(_tree(file)):
        value = node.value if isinstance(node, ast.Constant) else None
        if isinstance(value, str) and ENVIRONMENT_VARIABLE.fullmatch(value):
            yield value


def test_every_environment_variable_that_the_code_reads_is_documented() -> None:
    assert _names_in_code() - set(ENVIRONMENT_VARIABLE.findall(CONFIGURATION)) == set()


def test_every_documented_environment_variable_of_ours_is_read() -> None:
    documented = set(ENVIRONMENT_VARIABLE.findall(CONFIGURATION))
    ours = {name for name in documented if name.startswith(OUR_PREFIXES)}

    assert ours - _names_in_code() == set()


def test_every_setting_of_the_bridge_is_documented_with_its_default_and_meaning() -> None:
    rows = [[cell.strip() for cell in line.split("|")] for line in CONFIGURATION.splitlines()]
    documented = {row[1]: (row[2], row[4], row[5]) for row in rows if len(row) > 5}
    expected = {
        f"`{variable}`": (f"`{name}`", _shown(field.default), field.description)
        for variable, (name, field) in SETTINGS.items()
    }

    assert {name: documented.get(name) for name in expected} == expected


def _shown(default: Any) -> str:
    if default is None or default == {}:
        return "-"
    if isinstance(default, bool):
        return f"`{str(default).lower()}`"
    return f"`{default:g}`" if isinstance(default, float) else f"`{default}`"


def test_no_page_links_to_a_file_that_is_not_there() -> None:
    pages = [*ROOT.glob("*.md"), *(ROOT / "docs").glob("*.md")]

    assert [link for page in pages for link in _broken_links(page)] == []


def _broken_links(page: Path) -> Iterator[str]:
    for target in re.findall(r"\]\(([^)#\s]+)", page.read_text("utf-8")):
        if "://" not in target and not (page.parent / target).exists():
            yield f"{_name(page)}: {target}"
