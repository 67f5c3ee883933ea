# Copyright The opentelemetry-instrumentation-dspy Authors
# SPDX-License-Identifier: Apache-2.0
"""Joining MLflow's own tracing to OpenTelemetry: common traces, which the bridge delivers once.

MLflow keeps the spans of ``@mlflow.trace``, ``mlflow.start_span`` and its autologging separate from
OpenTelemetry's, with its own tracer provider, context and delivery. Its documented setting
``MLFLOW_USE_DEFAULT_TRACER_PROVIDER=false`` joins provider and context, but MLflow then delivers
every span a second time. The processor of the module `spans` replaces the delivering processor of
MLflow.

``mlflow`` is not imported here. A hook joins its tracing when the program imports it.
"""

from __future__ import annotations

import logging
import os
import sys
import threading
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Final, cast

from opentelemetry import trace
from wrapt import register_post_import_hook

from mlflow_bridge._config.base import report_once
from mlflow_bridge._spans.tracer_provider import (
    AcceptsProcessors,
    accepts_processors,
    add_processor,
)

if TYPE_CHECKING:
    from mlflow_bridge._mlflow_tracing.spans import MLflowSpansProcessor

_logger = logging.getLogger(__name__)

SEPARATE_PROVIDER: Final = "MLFLOW_USE_DEFAULT_TRACER_PROVIDER"
"""MLflow's switch. "Default" means MLflow's own tracer provider, not OpenTelemetry's global one."""

_TRUE: Final = ("true", "1")


class _Joint:
    """State of joint tracing in this process. Guarded by ``lock``."""

    def __init__(self) -> None:
        self.lock = threading.RLock()
        self.provider: AcceptsProcessors | None = None
        """The provider that MLflow is to use; None while MLflow's tracing is separate."""
        self.processor: MLflowSpansProcessor | None = None
        self.processors_provider: AcceptsProcessors | None = None
        self.hooked = False
        self.is_switched = False
        self.keeps_annotations = False
        self.waits = False
        """Whether a span of MLflow's own tracing was open at the last attempt."""
        self.has_set_variable = False
        self.listener: Callable[[bool], None] | None = None
        """Called when MLflow's tracing is switched off or on."""
        self.is_followed = False


_joint = _Joint()


def join_mlflow_tracing(provider: object) -> bool:
    """Make MLflow create its spans with this provider, in the same traces. Never raises.

    Changes nothing if ``MLFLOW_USE_DEFAULT_TRACER_PROVIDER`` is already true, or while a span of
    MLflow's own tracing is open in this thread. May be called before or after the program imports
    MLflow, and may be repeated.

    Args:
        provider: The provider whose spans the bridge delivers. If it is not the global one,
            MLflow's tracing stays unchanged, since MLflow can use no other provider.

    Returns:
        False if a span of MLflow's own tracing is open now, so that a later call may succeed.
    """
    with _joint.lock:
        # The value "false" is not checked: this function may have set it, also in a parent process.
        if os.environ.get(SEPARATE_PROVIDER, "").lower() in _TRUE:
            _logger.debug("MLflow's tracing is left as it is: %s is set.", SEPARATE_PROVIDER)
            return True
        current = cast("object", trace.get_tracer_provider())
        if provider is not current or not accepts_processors(provider):
            return True
        watch_import_of_mlflow()
        _joint.provider = provider
        mlflow = sys.modules.get("mlflow")
        # While another thread imports MLflow, that thread will call the hook.
        if mlflow is not None and not _is_being_imported(mlflow):
            _join(mlflow)
        return not _joint.waits


def follow_mlflow_tracing(listener: Callable[[bool], None]) -> None:
    """Call a function when the program switches MLflow's tracing off or on. Never raises.

    It is also called once with the present state. May be called before or after the program imports
    MLflow, and may be repeated; `leave_mlflow_tracing` ends it.

    Args:
        listener: Gets whether MLflow's tracing is on. It must not raise.
    """
    with _joint.lock:
        _joint.listener = listener
        watch_import_of_mlflow()
        mlflow = sys.modules.get("mlflow")
        if mlflow is not None and not _is_being_imported(mlflow):
            _follow(mlflow)


def watch_import_of_mlflow() -> None:
    """Register the hook that joins MLflow's tracing as soon as MLflow is imported.

    A hook that is registered during an import of MLflow on another thread would not be called. May
    be repeated. The hook does nothing before `join_mlflow_tracing`.
    """
    with _joint.lock:
        if not _joint.hooked:
            _joint.hooked = True
            register_post_import_hook(_join, "mlflow")


def _is_being_imported(module: Any) -> bool:
    # The import system itself decides by this attribute whether to wait for another thread.
    return getattr(getattr(module, "__spec__", None), "_initializing", False) is True


def leave_mlflow_tracing() -> None:
    """Separate MLflow's own tracing from OpenTelemetry's again. Never raises."""
    with _joint.lock:
        _joint.provider = None
        if _joint.processor is not None:
            _joint.processor.active = False
        if _joint.has_set_variable:
            os.environ.pop(SEPARATE_PROVIDER, None)
        if _joint.is_switched:
            from mlflow_bridge._mlflow_tracing.context_tokens import give_back_tokens
            from mlflow_bridge._mlflow_tracing.provider import give_back_provider

            give_back_provider()
            give_back_tokens()
        if _joint.keeps_annotations:
            from mlflow_bridge._mlflow_tracing.annotations import release_annotations

            release_annotations()
            if _joint.processor is not None:
                _joint.processor.release_annotations()
        _joint.is_switched = _joint.keeps_annotations = _joint.has_set_variable = False
        if _joint.is_followed:
            from mlflow_bridge._mlflow_tracing.provider import leave_switch

            leave_switch()
        _joint.listener, _joint.is_followed = None, False


def leave_provider() -> None:
    """Do what `leave_mlflow_tracing` does, for a provider that was shut down. Never raises.

    A later join adds a processor again, since the provider may have lost the one that it had.
    """
    with _joint.lock:
        leave_mlflow_tracing()
        _joint.processors_provider = None


def _follow(mlflow: Any) -> None:
    if _joint.listener is None or _joint.is_followed:
        return
    try:
        from mlflow_bridge._mlflow_tracing.provider import watch_switch

        watch_switch(_joint.listener)
        _joint.is_followed = True
    # The watched function is not documented, so another version may fail in any way.
    except Exception:
        report_once(
            f"With MLflow {getattr(mlflow, '__version__', '?')}, mlflow.tracing.disable() does not "
            "stop the delivery of the bridge. Call get_autolog_client().reconfigure(enabled=False) "
            "of mlflow_bridge instead."
        )
        _joint.listener = None


def _join(mlflow: Any) -> None:
    """Join MLflow's tracing; called by the thread that has imported MLflow."""
    with _joint.lock:
        # Before the join, after which MLflow's own state says nothing of this.
        _follow(mlflow)
        if _joint.provider is None or _joint.is_switched:
            return
        try:
            _switch(mlflow, _joint.provider)
        # MLflow's processor is not documented, so another version may fail in any way.
        except Exception:
            _logger.warning(
                "Spans of MLflow's own tracing cannot be part of the bridge's traces with MLflow "
                "%s; MLflow stores them separately.",
                getattr(mlflow, "__version__", "?"),
                exc_info=_logger.isEnabledFor(logging.DEBUG),
            )


def _switch(mlflow: Any, provider: AcceptsProcessors) -> None:
    from mlflow_bridge._mlflow_tracing.context_tokens import share_tokens
    from mlflow_bridge._mlflow_tracing.provider import share_provider
    from mlflow_bridge._mlflow_tracing.spans import MLflowSpansProcessor

    _joint.waits = mlflow.get_current_active_span() is not None
    if _joint.waits:
        report_once(
            "MLflow's own tracing stays apart from the bridge's for now, because one of its spans "
            "was open when the delivery to MLflow was set up. Call autolog() at the start of the "
            "program."
        )
        return
    share_tokens()
    share_provider()
    if _joint.processor is None or _joint.processors_provider is not provider:
        _joint.processor = MLflowSpansProcessor(provider)
        _joint.processors_provider = provider
        # Added before MLflow searches for a processor of its class; otherwise MLflow adds its own.
        add_processor(provider, _joint.processor)
    _joint.processor.active = True
    _joint.is_switched = True
    _keep_annotations(mlflow, _joint.processor)
    if not os.environ.get(SEPARATE_PROVIDER):
        os.environ[SEPARATE_PROVIDER] = "false"
        _joint.has_set_variable = True


def _keep_annotations(mlflow: Any, processor: MLflowSpansProcessor) -> None:
    try:
        from mlflow_bridge._mlflow_tracing.annotations import keep_annotations

        keep_annotations(processor)
        _joint.keeps_annotations = True
    # The replaced methods are not documented, so another version may fail in any way.
    except Exception:
        _logger.warning(
            "With MLflow %s, mlflow.log_feedback(), log_expectation() and set_trace_tag() have no "
            "effect on a trace that is not stored yet. Call mlflow.flush_trace_async_logging() "
            "before them.",
            getattr(mlflow, "__version__", "?"),
            exc_info=_logger.isEnabledFor(logging.DEBUG),
        )
