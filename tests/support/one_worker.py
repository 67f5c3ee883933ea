# Copyright The opentelemetry-instrumentation-dspy Authors
# SPDX-License-Identifier: Apache-2.0
"""Test files that run in the same xdist worker, so that only one worker imports litellm."""

from __future__ import annotations

from typing import Any

LITELLM_FILES = frozenset(
    {
        "tests/integration/test_dspy_otlp.py",
        "tests/integration/test_lm_totals.py",
        "tests/unit/instrumentation/operations/modules/test_agents.py",
        "tests/unit/instrumentation/calls/test_cancellation.py",
        "tests/unit/instrumentation/operations/test_embedding.py",
        "tests/unit/instrumentation/operations/lm/test_lm_cost.py",
        "tests/unit/instrumentation/operations/lm/test_lm_events.py",
        "tests/unit/instrumentation/operations/lm/test_lm_forward.py",
        "tests/unit/instrumentation/operations/lm/test_lm_provider.py",
        "tests/unit/instrumentation/operations/lm/test_lm_responses.py",
        "tests/unit/instrumentation/test_metrics.py",
        "tests/unit/instrumentation/operations/lm/test_streaming_lm.py",
        "tests/unit/support/test_fake_openai_with_dspy.py",
    }
)
"""The tests that import litellm, or have DSPy import it.

tests/unit/conftest.py checks that they are all; tests/integration/conftest.py hides it from others.
"""


def scheduler(config: Any, log: Any) -> Any:
    """The scheduler of ``--dist loadfile``, for which `LITELLM_FILES` are one file.

    xdist's own groups (``--dist loadgroup``) need a test's id to change, which pytest 9.2 ignores.
    """
    from xdist.scheduler import LoadFileScheduling

    class OneWorkerForLitellm(LoadFileScheduling):
        def _split_scope(self, nodeid: str) -> str:
            file = super()._split_scope(nodeid)
            return "litellm" if file in LITELLM_FILES else file

    return OneWorkerForLitellm(config, log)
