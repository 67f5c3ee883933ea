# Copyright The opentelemetry-instrumentation-dspy Authors
# SPDX-License-Identifier: Apache-2.0
"""MLflow's own tracing and OpenTelemetry's in one: the same traces, delivered once, by the bridge.

MLflow keeps the spans of ``@mlflow.trace``, ``mlflow.start_span`` and its autologging apart from
OpenTelemetry's: a tracer provider, a context and a delivery of its own. Its documented setting
``MLFLOW_USE_DEFAULT_TRACER_PROVIDER=false`` joins provider and context, but has MLflow deliver
everything a second time. The processor of the module `spans` takes the place of MLflow's there.

``mlflow`` is not imported here: what is to be done with it is done once the program imports it.
"""

from __future__ import annotations

import logging
import os
import sys
import threading
from typing import TYPE_CHECKING, Any, Final, cast

from opentelemetry import trace
from wrapt import register_post_import_hook

from mlflow_bridge._config.resolved import report_once
from mlflow_bridge._spans.tracer_provider import AcceptsProcessors, accepts_processors

if TYPE_CHECKING:
    from mlflow_bridge._mlflow_tracing.spans import MLflowSpansProcessor

_logger = logging.getLogger(__name__)

SEPARATE_PROVIDER: Final = "MLFLOW_USE_DEFAULT_TRACER_PROVIDER"
"""MLflow's switch. "Default" is meant as MLflow's default, which is a provider of its own."""

_TRUE: Final = ("true", "1")


class _Joint:
    """What is joined in this process. Guarded by ``lock``."""

    def __init__(self) -> None:
        self.lock = threading.RLock()
        self.provider: AcceptsProcessors | None = None
        """The provider that MLflow is to use; None while MLflow goes its own way."""
        self.processor: MLflowSpansProcessor | None = None
        self.processors_provider: AcceptsProcessors | None = None
        self.hooked = False
        self.is_switched = False
        self.waits = False
        """Whether a span of MLflow's own was open at the latest attempt."""
        self.has_set_variable = False


_joint = _Joint()


def join_mlflow_tracing(provider: object) -> bool:
    """Have MLflow make its spans with this provider, as part of the same traces. Never raises.

    Nothing is changed where ``MLFLOW_USE_DEFAULT_TRACER_PROVIDER`` is true already, or while a span
    of MLflow's own is open in this thread. May be called before or after the program imports
    MLflow, and again.

    Args:
        provider: The one that the bridge delivers from. If it is not the global one, MLflow's
            tracing is left as it is, since MLflow knows how to use no other.

    Returns:
        False if a later call may do it, because a span of MLflow's own is open now.
    """
    with _joint.lock:
        # False is what this function sets, in a parent process for instance.
        if os.environ.get(SEPARATE_PROVIDER, "").lower() in _TRUE:
            _logger.debug("MLflow's tracing is left as it is: %s is set.", SEPARATE_PROVIDER)
            return True
        current = cast("object", trace.get_tracer_provider())
        if provider is not current or not accepts_processors(provider):
            return True
        _joint.provider = provider
        if not _joint.hooked:
            _joint.hooked = True
            register_post_import_hook(_join, "mlflow")  # which calls at once if it is imported
        elif "mlflow" in sys.modules:
            _join(sys.modules["mlflow"])
        return not _joint.waits


def leave_mlflow_tracing() -> None:
    """Give MLflow's tracing back to MLflow, which will trace apart from others. Never raises."""
    with _joint.lock:
        _joint.provider = None
        if _joint.processor is not None:
            _joint.processor.active = False
        if _joint.has_set_variable:
            os.environ.pop(SEPARATE_PROVIDER, None)
        if _joint.is_switched:
            from mlflow_bridge._mlflow_tracing.provider import give_back_provider

            give_back_provider()
        _joint.is_switched = _joint.has_set_variable = False


def _join(mlflow: Any) -> None:
    """Called when the program has imported MLflow, by its thread."""
    with _joint.lock:
        if _joint.provider is None or _joint.is_switched:
            return
        try:
            _switch(mlflow, _joint.provider)
        # MLflow's processor is not part of its documented interface.
        except Exception:
            _logger.warning(
                "Spans of MLflow's own tracing cannot be part of the traces of the bridge with "
                "MLflow %s; MLflow stores them apart.",
                getattr(mlflow, "__version__", "?"),
                exc_info=_logger.isEnabledFor(logging.DEBUG),
            )


def _switch(mlflow: Any, provider: AcceptsProcessors) -> None:
    from mlflow_bridge._mlflow_tracing.provider import share_provider
    from mlflow_bridge._mlflow_tracing.spans import MLflowSpansProcessor

    _joint.waits = mlflow.get_current_active_span() is not None
    if _joint.waits:
        report_once(
            "MLflow's own tracing stays apart from the bridge's for now, because a span of it was "
            "open when the delivery to MLflow was set up. Call autolog() at the start of the "
            "program."
        )
        return
    share_provider()
    if _joint.processor is None or _joint.processors_provider is not provider:
        _joint.processor = MLflowSpansProcessor(provider)
        _joint.processors_provider = provider
        # Before MLflow looks for a processor of its kind, and would add its own.
        provider.add_span_processor(_joint.processor)
    _joint.processor.active = True
    _joint.is_switched = True
    if not os.environ.get(SEPARATE_PROVIDER):
        os.environ[SEPARATE_PROVIDER] = "false"
        _joint.has_set_variable = True
