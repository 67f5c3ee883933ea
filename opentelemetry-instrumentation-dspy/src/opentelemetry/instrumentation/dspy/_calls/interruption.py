# Copyright The opentelemetry-instrumentation-dspy Authors
# SPDX-License-Identifier: Apache-2.0
"""A call that is stopped while telemetry looks at it, by Ctrl-C for one."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

from opentelemetry.instrumentation.dspy._calls.propagation import restore_context

if TYPE_CHECKING:
    from opentelemetry.instrumentation.dspy._calls.call import Call

logger = logging.getLogger(__name__)


def abandon(call: Call | None) -> None:
    """Take the context back and end the span, whatever had been done of the call by then.

    A call that stayed current would be the parent of all that the thread does from then on, such
    as the cells of a notebook after the one that was interrupted.
    """
    if call is None:
        return
    token = getattr(call, "_token", None)
    if token is not None:
        restore_context(token)
    span, parent = call.span, call.parent
    if span is None or (parent is not None and span is parent.span) or not span.is_recording():
        return
    try:
        span.end()
    except Exception:
        logger.debug("The span of an interrupted call could not be ended", exc_info=True)
