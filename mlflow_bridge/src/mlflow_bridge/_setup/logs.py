# Copyright The opentelemetry-instrumentation-dspy Authors
# SPDX-License-Identifier: Apache-2.0
"""The setting ``log_level``, and the line that says at the start where traces go."""

from __future__ import annotations

import logging
import re
import threading
from typing import TYPE_CHECKING, Final

from mlflow_bridge.sampling.tail import TailSampling

if TYPE_CHECKING:
    from mlflow_bridge._config.settings import MLflowDSPyConfig

_LOGGERS: Final = ("mlflow_bridge", "opentelemetry.instrumentation.dspy")
_PARENT_BASED: Final = re.compile(
    r"^ParentBased\{root:(.*),remoteParentSampled:AlwaysOnSampler,"
    r"remoteParentNotSampled:AlwaysOffSampler,localParentSampled:AlwaysOnSampler,"
    r"localParentNotSampled:AlwaysOffSampler\}$"
)

_before: dict[str, int] = {}
_lock = threading.Lock()


def use_log_level(level: str | None) -> None:
    """Give the loggers of both packages a level; None gives back the levels that they had."""
    with _lock:
        for name in _LOGGERS:
            log = logging.getLogger(name)
            if level is not None:
                _before.setdefault(name, log.level)
                log.setLevel(level)
            elif name in _before:
                log.setLevel(_before.pop(name))


def log_start(
    log: logging.Logger, config: MLflowDSPyConfig, *, door: str, content: str, provider: object
) -> None:
    """Log the one line at the start of a delivery.

    Args:
        log: The logger of the door.
        config: The settings of the delivery.
        door: How the program came to the bridge.
        content: The name of the content mode.
        provider: The tracer provider, which has the sampler.
    """
    tail = TailSampling.from_config(config)
    log.info(
        "Traces go to %s (mode: %s, %s%s; sampling: %s%s; content: %s).",
        config.destination_description,
        door,
        "tracking server" if config.is_server else "SQL store in this process",
        ", write-ahead" if config.write_ahead else "",
        described_sampler(getattr(provider, "sampler", None)),
        "" if tail is None else f", and {tail.description()}",
        content,
    )


def described_sampler(sampler: object) -> str:
    """The description of a sampler, in short if it follows the parent of a span."""
    describe = getattr(sampler, "get_description", None)
    if describe is None:
        return "unknown"
    return _PARENT_BASED.sub(r"\1, and by the parent of a span that has a parent", str(describe()))
