# Copyright The opentelemetry-instrumentation-dspy Authors
# SPDX-License-Identifier: Apache-2.0
"""Classes of ``__main__`` are pickled as if they were not traced."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest


@dataclass(frozen=True)
class Main:
    """What one run of ``pickled_main.py`` printed, and the file of the methods that it pickled."""

    printed: list[str]
    methods: Path


@pytest.fixture(scope="module")
def main_plain(tmp_path_factory: pytest.TempPathFactory) -> Main:
    return run_main("plain", tmp_path_factory.mktemp("plain"))


@pytest.fixture(scope="module")
def main_traced(tmp_path_factory: pytest.TempPathFactory) -> Main:
    return run_main("traced", tmp_path_factory.mktemp("traced"))


def run_main(mode: str, directory: Path) -> Main:
    script, file = Path(__file__).with_name("pickled_main.py"), directory / "methods.pkl"
    done = subprocess.run(
        [sys.executable, "-W", "ignore", str(script), mode, str(file)],
        capture_output=True,
        check=True,
        text=True,
        timeout=300,
    )
    return Main(done.stdout.splitlines(), file)


# What comes of them is compared, not spelt out: until 3.2 DSPy's own adapters fail by value.
def test_classes_of_main_are_pickled_by_value(main_plain: Main, main_traced: Main) -> None:
    assert main_traced.printed[:9] == main_plain.printed[:9]
    assert main_plain.printed[:2] == ["EarlyLM ['early x']", "LateLM ['late x']"]


def test_methods_of_classes_of_main_are_pickled_by_value(
    main_plain: Main, main_traced: Main
) -> None:
    assert main_traced.printed[9:] == main_plain.printed[9:]


LOAD = """
import pickle, sys

class NotInstalled:
    def find_spec(self, name, path=None, target=None):
        if name.startswith("opentelemetry.instrumentation"):
            raise ImportError(name)

sys.meta_path.insert(0, NotInstalled())
for file in sys.argv[1:]:
    with open(file, "rb") as pickled:
        methods = pickle.load(pickled).items()
    print([(name, thing("x") if callable(thing) else str(type(thing))) for name, thing in methods])
"""


def test_methods_taken_by_value_load_without_us(main_plain: Main, main_traced: Main) -> None:
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", LOAD, main_plain.methods, main_traced.methods],
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
    plain, traced = done.stdout.splitlines()
    assert plain.startswith("[('EarlyLM.__call__', ['early x']),")
    assert traced == plain
