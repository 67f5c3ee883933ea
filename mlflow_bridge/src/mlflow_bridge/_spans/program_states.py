# Copyright The opentelemetry-instrumentation-dspy Authors
# SPDX-License-Identifier: Apache-2.0
"""Descriptions of the programs that have made traces, on their way to MLflow.

The description of a program is saved once, under the hash that is on its traces. It travels as an
annotation that belongs to no trace, since the trace itself may not be kept.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from typing import Final

from opentelemetry.sdk.trace import Span as SDKSpan
from opentelemetry.trace import Span

from mlflow_bridge._process.rng import rng
from mlflow_bridge._spans.annotation import Annotation, annotate
from mlflow_bridge._spans.names import EXPERIMENT_ID
from opentelemetry.instrumentation.dspy import DSPyInstrumentor

_MAX_KNOWN: Final = 10_000

_known: Final[OrderedDict[tuple[str, str | None], None]] = OrderedDict()
"""The programs that were handed over, by hash and experiment."""


def save_program(span: Span, digest: str, describe: Callable[[], str | None]) -> None:
    """Hand a program over to the delivery, if it is new in this process and content is recorded.

    Args:
        span: The span of the program's call.
        digest: The hash of the program.
        describe: Returns the description as JSON; None if the program cannot be described.
    """
    attributes = span.attributes if isinstance(span, SDKSpan) else None
    experiment = (attributes or {}).get(EXPERIMENT_ID)
    experiment_id = None if experiment is None else str(experiment)
    key = (digest, experiment_id)
    if key in _known or not _records_content():
        return
    _known[key] = None
    if len(_known) > _MAX_KNOWN:
        _known.popitem(last=False)
    text = describe()
    if text is not None:
        trace_id = rng.getrandbits(128) or 1
        program = Annotation("", program=(digest, text), experiment_id=experiment_id)
        annotate(program, trace_id)


def _records_content() -> bool:
    settings = DSPyInstrumentor().settings
    return settings is not None and settings.content_mode.in_spans and settings.capture_inputs
