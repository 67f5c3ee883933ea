# Copyright The opentelemetry-instrumentation-dspy Authors
# SPDX-License-Identifier: Apache-2.0
"""The boundary between telemetry and the program: what goes wrong here never goes there."""

from __future__ import annotations

import logging
import traceback
from collections.abc import Callable
from typing import Any

from opentelemetry.instrumentation.dspy._locks import new_lock

logger = logging.getLogger(__name__)


def guarded(action: Callable[..., Any], *arguments: Any) -> None:
    """Run telemetry code; what it raises is logged once per kind and goes no further."""
    try:
        action(*arguments)
    except Exception as error:
        log_once(error)


_logged: set[tuple[type, str]] = set()
_logged_lock = new_lock()


def log_once(error: Exception) -> None:
    """Log what telemetry raised, unless the same was logged from the same place before."""
    frames = traceback.extract_tb(error.__traceback__)
    place = f"{frames[-1].filename}:{frames[-1].lineno}" if frames else ""
    kind = (type(error), place)
    with _logged_lock:
        if kind in _logged:
            return
        _logged.add(kind)
    # Without the message, which may well be made of the program's data.
    logger.warning(
        "Tracing of a DSPy call is incomplete; the call itself is not affected. "
        "This is reported once per cause. %s raised at:\n%s",
        type(error).__name__,
        "".join(traceback.format_list(frames)),
    )
