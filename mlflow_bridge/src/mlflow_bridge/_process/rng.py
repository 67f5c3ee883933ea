# Copyright The opentelemetry-instrumentation-dspy Authors
# SPDX-License-Identifier: Apache-2.0
"""Random numbers that do not depend on the program's seed.

The functions of the ``random`` module share one generator with the program. If telemetry used it, a
program that sets a seed would draw other numbers than without telemetry. Telemetry would also
repeat its own numbers in each run.
"""

from __future__ import annotations

import random
from typing import Final

from mlflow_bridge._process.forks import call_in_child

rng: Final = random.Random()
"""Seeded by the system, and again in a forked child. Thread-safe."""

call_in_child(rng.seed)
