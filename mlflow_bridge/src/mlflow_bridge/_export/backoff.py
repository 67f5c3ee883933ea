# Copyright The opentelemetry-instrumentation-dspy Authors
# SPDX-License-Identifier: Apache-2.0
"""How long to wait before the next attempt."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from mlflow_bridge._process.rng import own_random


@dataclass(frozen=True)
class Backoff:
    """Exponential waiting times with jitter; all times in seconds.

    The jitter spreads the processes that lost the same server at the same moment.
    """

    first: float = 0.5
    factor: float = 2.0
    longest: float = 30.0
    longest_asked: float = 300.0
    """The most that is granted to a server that names the time itself."""
    random: Callable[[], float] = own_random.random
    """Gives numbers in [0, 1)."""

    def delay(self, attempt: int, asked: float | None = None) -> float:
        """Seconds to wait after failed attempt number ``attempt`` (from 1).

        ``asked`` is the server's own wish, such as a Retry-After header; it is never undercut.
        """
        if asked is not None:
            return min(max(asked, 0.0), self.longest_asked)
        # The exponent is bounded: an outage of weeks would overflow a float otherwise.
        delay = min(self.first * self.factor ** min(attempt - 1, 64), self.longest)
        return delay * (0.5 + self.random() / 2)
