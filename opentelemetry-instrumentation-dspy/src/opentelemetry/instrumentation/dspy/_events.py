# Copyright The opentelemetry-instrumentation-dspy Authors
# SPDX-License-Identifier: Apache-2.0
"""Events as OpenTelemetry log records.

The GenAI conventions define one for model calls, ``gen_ai.client.inference.operation.details``: all
attributes of the span, with the messages as structured values instead of JSON text. It is emitted
in the modes that record content in events. Their event for scores, ``gen_ai.evaluation.result``, is
emitted in every mode, if the program has set up logs.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Mapping
from typing import Any

import orjson
from opentelemetry.context import Context

from opentelemetry.instrumentation.dspy._guarding import pass_on
from opentelemetry.instrumentation.dspy.semconv import DSPY_VERSION, SCHEMA_URL
from opentelemetry.instrumentation.dspy.version import __version__

# The logs API is stable, but its package still has the name of an API in development.
try:
    from opentelemetry import _logs as logs_api
except ImportError:  # pragma: no cover
    logs_api = None

logger = logging.getLogger(__name__)


class EventLog:
    """The emitter of events. All methods may be called from any thread.

    Args:
        provider: A logger provider; None for the global provider, whenever it is set.
        dspy_version: An attribute of the instrumentation scope.
        required: Whether content goes to events, so that a warning is logged if there can be none.
    """

    def __init__(self, provider: Any, dspy_version: str, *, required: bool = True) -> None:
        self._logger: Any = None
        self._provider = provider
        try:
            assert logs_api is not None
            self._record: Any = logs_api.LogRecord
            self._logger = logs_api.get_logger(
                __package__ or "",
                __version__,
                provider,
                schema_url=SCHEMA_URL,
                attributes={DSPY_VERSION: dspy_version},
            )
        except Exception as error:
            pass_on(error)
            logger.log(
                logging.WARNING if required else logging.DEBUG,
                "The logs API of this release of opentelemetry-api cannot be used (%s: %s): "
                "no events are emitted, and content is recorded on spans only, if at all.",
                type(error).__name__,
                error,
            )

    def is_on(self, name: str) -> bool:
        """Whether anything receives events of this name."""
        if self._logger is None or logs_api is None:
            return False
        provider = self._provider or logs_api.get_logger_provider()
        # The no-op provider, and the one before the SDK is set up, are classes of the API.
        if type(provider).__module__.startswith("opentelemetry._logs"):
            return False
        enabled = getattr(self._logger, "enabled", None)  # missing in older releases of the API
        return enabled is None or bool(enabled(event_name=name))

    def emit(self, name: str, attributes: Mapping[str, Any], context: Context | None) -> None:
        """Emit an event for the span that is current in the context."""
        if self._logger is None:
            return
        now = time.time_ns()
        record = self._record(
            timestamp=now,
            observed_timestamp=now,
            context=context,
            attributes=dict(attributes),
            event_name=name,
        )
        self._logger.emit(record)


def structured(text: str) -> Any:
    """The value whose JSON text is a content attribute of a span."""
    return orjson.loads(text)
