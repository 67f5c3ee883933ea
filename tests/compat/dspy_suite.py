# Copyright The opentelemetry-instrumentation-dspy Authors
# SPDX-License-Identifier: Apache-2.0
"""Compare the outcomes of DSPy's own test suite with and without both packages.

``python -m tests.compat.dspy_suite CHECKOUT [pytest argument ...]`` runs the tests of a checkout of
DSPy twice, and exits with 1 if a test has another outcome with the packages. The checkout should be
of the installed release, with the test dependencies that its pyproject.toml names. Nothing of the
checkout is imported otherwise, so its tests see the installed DSPy.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Final
from xml.etree import ElementTree

PLUGIN: Final = "traced_session"
"""A module beside this one; the checkout has a package tests of its own."""


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("checkout", type=Path)
    options, more = parser.parse_known_args(arguments)
    tests = options.checkout.resolve()
    if not (tests / "tests").is_dir():
        parser.error(f"{tests} has no folder tests")
    with tempfile.TemporaryDirectory() as scratch:
        without = outcomes(tests, Path(scratch) / "without", more, traced=False)
        traced = outcomes(tests, Path(scratch) / "traced", more, traced=True)
    return report(without, traced)


def outcomes(
    checkout: Path, scratch: Path, arguments: Sequence[str], *, traced: bool
) -> dict[str, str]:
    """The outcome of each test, in one process."""
    scratch.mkdir()
    results = scratch / "results.xml"
    environment = {
        **os.environ,
        "DSPY_CACHEDIR": str(scratch / "cache"),
        "LITELLM_LOCAL_MODEL_COST_MAP": "True",
        "MLFLOW_TRACKING_URI": f"sqlite:///{scratch}/mlflow.db",
        "XDG_STATE_HOME": str(scratch / "state"),
    }
    command = [sys.executable, "-m", "pytest", "tests", "-q", f"--junitxml={results}"]
    command += ["-p", "no:cacheprovider", *arguments]
    if traced:
        command += ["-p", PLUGIN]
        environment["PYTHONPATH"] = os.pathsep.join(
            [str(Path(__file__).parent), *filter(None, [environment.get("PYTHONPATH")])]
        )
    subprocess.run(command, cwd=checkout, env=environment, check=False)
    return dict(_cases(results))


def _cases(results: Path) -> list[tuple[str, str]]:
    if not results.exists():
        raise SystemExit("error: pytest wrote no results")
    cases = ElementTree.parse(results).iter("testcase")
    return [(f"{case.get('classname')}::{case.get('name')}", _outcome(case)) for case in cases]


def _outcome(case: ElementTree.Element) -> str:
    for outcome in ("error", "failure", "skipped"):
        if case.find(outcome) is not None:
            return outcome
    return "passed"


def report(without: Mapping[str, str], traced: Mapping[str, str]) -> int:
    """Print the differences; 1 if there is any, or if no test ran."""
    passed = sum(outcome == "passed" for outcome in without.values())
    print(f"without the packages: {passed} of {len(without)} tests pass")
    differences = {
        test: (without.get(test, "absent"), traced.get(test, "absent"))
        for test in sorted({*without, *traced})
        if without.get(test) != traced.get(test)
    }
    for test, (before, after) in differences.items():
        print(f"{test}: {before} without the packages, {after} with them")
    print(f"{len(differences)} tests differ")
    return int(bool(differences) or not without)


if __name__ == "__main__":
    sys.exit(main())
