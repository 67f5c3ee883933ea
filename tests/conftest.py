# Copyright The opentelemetry-instrumentation-dspy Authors
# SPDX-License-Identifier: Apache-2.0
"""Environment that must be set before any test module imports dspy, mlflow or the SDK.

The three packages read their environment at import, some variables only once in a process.
"""

from __future__ import annotations

import atexit
import gc
import os
import shutil
import tempfile
from typing import Any

import pytest

from tests.support.children import share_zygotes
from tests.support.one_worker import scheduler

_FOREIGN_PREFIXES = ("OPENAI_", "MLFLOW_", "OTEL_", "DSPY_")


def _isolate_environment() -> None:
    """Drop what the caller's shell sets for these libraries; give DSPy a cache of its own.

    The model price list that litellm would fetch from the network while it is imported is taken
    from its own files: offline, the fetch together with mlflow's import hooks can block for ever.
    """
    for name in [name for name in os.environ if name.startswith(_FOREIGN_PREFIXES)]:
        del os.environ[name]
    scratch = tempfile.mkdtemp(prefix="dspy-otel-tests-")
    atexit.register(shutil.rmtree, scratch, ignore_errors=True)
    os.environ["DSPY_CACHEDIR"] = os.path.join(scratch, "dspy-cache")
    # Where the spool is by default; a process that a test starts would deliver what is in it.
    os.environ["XDG_STATE_HOME"] = os.path.join(scratch, "state")
    # Most tests of delivery send spans that have nothing of DSPy; by default they are filtered out.
    os.environ["MLFLOW_DSPY_TRACES"] = "all"
    os.environ["LITELLM_LOCAL_MODEL_COST_MAP"] = "True"
    os.environ["MLFLOW_DISABLE_TELEMETRY"] = "true"


_isolate_environment()


def pytest_configure(config: pytest.Config) -> None:
    if not hasattr(config, "workerinput"):
        share_zygotes()


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Leave out the tests that take minutes, unless they are asked for by their mark."""
    for mark in ("scale", "installed"):
        if mark not in config.getoption("markexpr"):
            left_out = [item for item in items if item.get_closest_marker(mark)]
            config.hook.pytest_deselected(items=left_out)
            items[:] = [item for item in items if not item.get_closest_marker(mark)]


@pytest.hookimpl(optionalhook=True)  # xdist may be absent
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    return scheduler(config, log) if config.getvalue("dist") == "loadfile" else None


def pytest_collection_finish() -> None:
    """Exclude the objects of the imported libraries from garbage collection.

    Collecting the tests imports dspy, the SDK and, for integration tests, mlflow. Their objects
    live as long as the process, and several tests call `gc.collect`, which would visit all of them
    each time.
    """
    gc.collect()
    gc.freeze()
