# Copyright The opentelemetry-instrumentation-dspy Authors
# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

from collections.abc import Callable, Iterator

import dspy
import pytest

from tests.unit.bridge.sampling.sampled import Sampled, answering

SampleWith = Callable[..., Sampled]


@pytest.fixture
def sample_with() -> Iterator[SampleWith]:
    """Instruments DSPy with a sampler or its settings; its programs have an LM that answers."""
    begun: list[Sampled] = []

    def begin(*arguments: object, **settings: object) -> Sampled:
        begun.append(Sampled(*arguments, **settings))  # type: ignore[arg-type]
        return begun[-1]

    with dspy.context(lm=answering()):
        yield begin
    for sampled in begun:
        sampled.close()
