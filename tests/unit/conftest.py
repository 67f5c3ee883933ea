# Copyright The opentelemetry-instrumentation-dspy Authors
# SPDX-License-Identifier: Apache-2.0
"""Keeps the import of litellm, seconds of CPU time, in one of the workers that run the tests."""

from __future__ import annotations

import gc
import sys
from collections.abc import Iterator

import pytest

from tests.support.one_worker import LITELLM_FILES


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
