# Copyright The opentelemetry-instrumentation-dspy Authors
# SPDX-License-Identifier: Apache-2.0
"""Random numbers of the bridge's own.

What the functions of the ``random`` module draw, they take from the program: one that seeds it
would draw something else wherever telemetry has drawn before, and telemetry would repeat itself.
"""

from __future__ import annotations

import random
from typing import Final

from mlflow_bridge._process.forks import call_in_child

rng: Final = random.Random()
"""Seeded by the system, and anew in a forked child. Thread-safe."""

call_in_child(rng.seed)
