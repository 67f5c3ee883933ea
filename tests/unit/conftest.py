# Copyright The opentelemetry-instrumentation-dspy Authors
# SPDX-License-Identifier: Apache-2.0
"""Keeps unit tests quick: no child processes, and the import of litellm in one worker only."""

from __future__ import annotations

import gc
import platform
import sys
from collections.abc import Iterator

import pytest

from tests.support.one_worker import LITELLM_FILES

STARTS_OF_PROCESSES = frozenset(
    {
        "os.exec",
        "os.fork",
        "os.forkpty",
        "os.posix_spawn",
        "os.spawn",
        "os.system",
        "subprocess.Popen",
    }
)
_started: list[str] = []


def _note_processes(event: str, arguments: tuple[object, ...]) -> None:
    if event in STARTS_OF_PROCESSES:
        _started.append(f"{event} {arguments[:2]}")


# Libraries ask for this. The standard library starts a process for it, once.
platform.processor()
sys.addaudithook(_note_processes)


@pytest.fixture(autouse=True)
def no_child_process() -> Iterator[None]:
    """Fail a test that starts a process."""
    _started.clear()
    yield
    assert _started == [], "the test belongs in tests/process"


@pytest.fixture(autouse=True)
def litellm_in_its_files_only(request: pytest.FixtureRequest) -> Iterator[None]:
    """Fail a test that makes DSPy use litellm although its file is not one of `LITELLM_FILES`.

    The calls are counted as well, since another test of the process may have imported it already.
    """
    before = _litellm_state()
    yield
    after = _litellm_state()
    if request.node.nodeid.partition("::")[0] not in LITELLM_FILES:
        assert after == before, "the file belongs in LITELLM_FILES of tests/support/one_worker.py"
    elif after[0] and not before[0]:
        gc.freeze()  # as in tests/conftest.py; litellm has most of the objects


def _litellm_state() -> tuple[bool, int]:
    """Whether litellm is imported, and how many times DSPy has asked for it.

    Before 3.4, which added the lazy import, DSPy calls every model through litellm.
    """
    lazy = sys.modules.get("dspy.clients._litellm")
    if lazy is None:
        return False, 0
    calls = lazy.get_litellm.cache_info()
    return "litellm" in sys.modules, calls.hits + calls.misses
