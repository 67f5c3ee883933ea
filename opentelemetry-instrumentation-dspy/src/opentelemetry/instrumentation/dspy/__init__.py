# Copyright The opentelemetry-instrumentation-dspy Authors
# SPDX-License-Identifier: Apache-2.0
"""
Every DSPy operation as an OpenTelemetry span.

Usage
-----

.. code-block:: python

    import dspy
    from opentelemetry.instrumentation.dspy import DSPyInstrumentor

    DSPyInstrumentor().instrument()

    program = dspy.ChainOfThought("question -> answer")
    program(question="...")  # invoke_workflow > Predict > ChatAdapter > chat

``instrument()`` may be called before or after dspy is imported, from any thread; a process that
never imports dspy pays nothing. Its arguments are keyword-only and optional:

- ``tracer_provider``, ``meter_provider``, ``logger_provider``: instead of the global providers;
- ``capture_content``: a `ContentMode`, its name, or a bool. If unset, the environment variable
  ``OTEL_INSTRUMENTATION_GENAI_CAPTURE_MESSAGE_CONTENT`` decides; without it, no content is
  recorded;
- ``capture_inputs``, ``capture_outputs``, ``capture_signatures``, ``capture_intermediate_steps``:
  switches for parts of what is recorded;
- ``adapter_steps``: ``attributes`` (default) or ``spans``, for the format and parse steps of
  adapters;
- ``resource_usage``: ``off``, ``outermost`` (default) or ``all``, for the CPU time and memory
  growth of modules;
- ``evaluation_traces``: ``tree`` (default), an evaluation is one trace; or ``per_example``, each of
  its examples is a trace of its own, with a link to the evaluation;
- ``max_content_length``: the longest content attribute, in characters;
- ``redact``: what is removed from content: names of fields (``field:ssn``), ``email``, ``phone``,
  ``card``, ``iban``, ``api_key``, ``ip``, regular expressions, a function
  ``redact(operation, field, value)`` that returns what to record instead of ``value``, or a list;
- ``input_sanitizer``, ``output_sanitizer``: functions that get a copy of inputs or outputs by name,
  and return what to record instead;
- ``module_filter``: names of classes and patterns such as ``Chat*``, or a function that gets the
  name of a class: only these modules are recorded, and the calls below them;
- ``trace_condition``: a function that gets the arguments of an outermost call, and decides whether
  the call is recorded;
- ``request_hook``, ``response_hook``: ``request_hook(span, call)`` is called before an operation,
  ``response_hook(span, call, result)`` after it returned, for recording spans. Both may set
  attributes on the span and read the call, a `DSPyCall`. They are ordinary functions, also for
  async operations. Their exceptions are logged once and dropped;
- ``program_hook``: called as ``program_hook(span, digest, describe)`` with the outermost module of
  each recorded trace; see `ProgramHook`.

Metrics are recorded as soon as there is a meter provider, for unsampled traces as well: durations
of LM, embedder, tool, agent, workflow and module calls, tokens, and look-ups in DSPy's cache.

An instrumentation of a provider's client that builds on ``opentelemetry-util-genai`` starts no
second span for an LM call; the data that it reports (response id, tokens, server) is put on ours.

``uninstrument()`` restores DSPy completely. ``status()`` returns the status of each patch point.

API
---
"""

from __future__ import annotations

import dataclasses
import importlib
import importlib.metadata
import logging
import sys
import threading
from collections.abc import Callable, Collection
from types import ModuleType
from typing import TYPE_CHECKING, Any, Final, NamedTuple

import wrapt
from opentelemetry.instrumentation.instrumentor import BaseInstrumentor  # type: ignore[attr-defined]
from opentelemetry.metrics import MeterProvider
from opentelemetry.trace import TracerProvider, get_tracer

from opentelemetry.instrumentation.dspy._function_settings import (
    ModuleFilter,
    ModuleFilterSetting,
    Sanitizer,
    TraceCondition,
)
from opentelemetry.instrumentation.dspy._guarding import pass_on
from opentelemetry.instrumentation.dspy._redact_setting import RedactionRules
from opentelemetry.instrumentation.dspy._settings import (
    AdapterSteps,
    ContentMode,
    EvaluationTraces,
    ResourceUsage,
    Settings,
    load_settings,
    set_default_arguments,
)
from opentelemetry.instrumentation.dspy.api import (
    DSPyCall,
    PatchStatus,
    ProgramHook,
    RequestHook,
    ResponseHook,
    SpanRedactor,
    current_dspy_call,
)
from opentelemetry.instrumentation.dspy.package import _instruments  # type: ignore[reportPrivateUsage]
from opentelemetry.instrumentation.dspy.semconv import DSPY_VERSION, SCHEMA_URL
from opentelemetry.instrumentation.dspy.version import __version__

if TYPE_CHECKING:
    from opentelemetry.instrumentation.dspy._calls.call import Runtime
    from opentelemetry.instrumentation.dspy._calls.selection import Selection
    from opentelemetry.instrumentation.dspy._content.redactor import Redactor
    from opentelemetry.instrumentation.dspy._patching.points import Patches

__all__ = [
    "AdapterSteps",
    "ContentMode",
    "DSPyCall",
    "DSPyInstrumentor",
    "EvaluationTraces",
    "ModuleFilter",
    "PatchStatus",
    "ProgramHook",
    "RedactionRules",
    "RequestHook",
    "ResourceUsage",
    "ResponseHook",
    "Sanitizer",
    "Settings",
    "SpanRedactor",
    "TraceCondition",
    "current_dspy_call",
    "load_settings",
    "program_hash",
    "set_default_arguments",
    "watch_redactor",
]

logger = logging.getLogger(__name__)


class _InUse:
    redactor: Redactor | None = None


_watchers: list[Callable[[SpanRedactor | None], None]] = []


def program_hash(program: Any) -> str | None:
    """The hash of a program's state, as on its spans (``dspy.program.hash``).

    Args:
        program: A ``dspy.Module``.

    Returns:
        12 hexadecimal digits; None for a program without predictors.
    """
    # Imported here, since it imports DSPy.
    from opentelemetry.instrumentation.dspy._operations.modules import program_hash as module

    return module.program_hash(program)


def watch_redactor(watcher: Callable[[SpanRedactor | None], None]) -> None:
    """Call a function now and whenever the setting ``redact`` in use changes.

    For a package that delivers spans of other origin, so that these spans are redacted as well.

    Args:
        watcher: Gets what redacts spans; None while the setting is not set, or DSPy is not
            instrumented. It must not raise.
    """
    _watchers.append(watcher)
    watcher(_InUse.redactor)


_NO_SETTINGS: Final = frozenset({"skip_dep_check", "raise_exception_on_conflict"})


class _Providers(NamedTuple):
    tracer_provider: TracerProvider | None
    meter_provider: MeterProvider | None
    logger_provider: Any


class DSPyInstrumentor(BaseInstrumentor):
    """The instrumentor of DSPy; a singleton, like every OpenTelemetry instrumentor."""

    _lock = threading.RLock()
    _patches: Patches | None = None
    _runtime: Runtime | None = None
    _pending: tuple[_Providers, Settings] | None = None
    _hooked = False

    def instrumentation_dependencies(self) -> Collection[str]:
        """The versions of dspy that can be instrumented."""
        return _instruments

    def status(self) -> tuple[PatchStatus, ...]:
        """The status of each patch point; empty while dspy is not imported or not instrumented."""
        return () if self._patches is None else self._patches.status()

    @property
    def settings(self) -> Settings | None:
        """The settings in use; None while DSPy is not instrumented."""
        return None if self._pending is None else self._pending[1]

    def instrument(self, **kwargs: Any) -> None:
        """Instrument DSPy, now or when it is imported.

        A further call changes nothing until `uninstrument`, and a warning says so if it asks for
        other settings or providers than are in use.

        Args:
            **kwargs: ``tracer_provider``, ``meter_provider``, ``logger_provider``, and the settings
                that `load_settings` takes.
        """
        if not self.is_instrumented_by_opentelemetry:
            super().instrument(**kwargs)
        elif self._asks_for_others(kwargs):
            logger.warning(
                "DSPy is instrumented already, and these arguments of instrument() have no effect: "
                "%s. Give them to the first call, or call uninstrument() before.",
                ", ".join(sorted(kwargs.keys() - _NO_SETTINGS)),
            )

    def select(
        self,
        *,
        module_filter: ModuleFilterSetting | None = None,
        trace_condition: TraceCondition | str | None = None,
    ) -> None:
        """Record other calls from now on, without instrumenting DSPy again.

        A trace that has begun is completed as it has begun. Nothing happens if DSPy is not
        instrumented.

        Args:
            module_filter: As in `load_settings`; None for its default.
            trace_condition: As in `load_settings`; None for its default.

        Raises:
            ValueError: A value is not accepted.
        """
        wanted = load_settings(module_filter=module_filter, trace_condition=trace_condition)
        with self._lock:
            if self._pending is None:
                return
            providers, settings = self._pending
            settings = dataclasses.replace(
                settings,
                module_filter=wanted.module_filter,
                trace_condition=wanted.trace_condition,
            )
            self._pending = (providers, settings)
            if self._runtime is not None:
                self._runtime.select_by(_selection_by(settings))

    def _asks_for_others(self, kwargs: dict[str, Any]) -> bool:
        given = {name: value for name, value in kwargs.items() if name not in _NO_SETTINGS}
        if not given or self._pending is None:
            return False
        providers, settings = self._pending
        for name in _Providers._fields:
            asked = given.pop(name, None)
            if asked is not None and asked is not getattr(providers, name):
                return True
        return bool(given) and load_settings(**given) != settings

    def _instrument(self, **kwargs: Any) -> None:
        providers = _Providers(*(kwargs.pop(name, None) for name in _Providers._fields))
        kwargs.pop("skip_dep_check", None)
        settings = load_settings(**kwargs)
        with self._lock:
            self._pending = (providers, settings)
            self._use_redactor(settings)
            hooked, DSPyInstrumentor._hooked = DSPyInstrumentor._hooked, True
        if not hooked:
            wrapt.register_post_import_hook(self._on_dspy_imported, "dspy")  # type: ignore[reportUnknownMemberType]
        # Also for an import that another thread had started before the hook was registered.
        self._apply()
        logger.info(
            "DSPy calls are traced; content: %s (set by capture_content or "
            "OTEL_INSTRUMENTATION_GENAI_CAPTURE_MESSAGE_CONTENT).",
            settings.content_mode.value,
        )

    def _uninstrument(self, **kwargs: Any) -> None:
        with self._lock:
            self._pending = None
            self._remove()
            self._use_redactor(None)

    def _use_redactor(self, settings: Settings | None) -> None:
        redactor = None
        if settings is not None and settings.redacts:
            # Imported here, since most processes do not need it.
            from opentelemetry.instrumentation.dspy._content.redactor import Redactor

            redactor = Redactor(settings)
        if redactor is not _InUse.redactor:
            _InUse.redactor = redactor
            for watcher in list(_watchers):
                watcher(redactor)

    def _remove(self) -> None:
        if self._runtime is not None:
            self._runtime.deactivate()
        if self._patches is not None:
            self._patches.remove()
        self._runtime = None

    def _on_dspy_imported(self, module: ModuleType) -> None:
        self._apply()

    def _apply(self) -> None:
        """Install the patches if the instrumentation is on and dspy is imported."""
        _wait_for_import("dspy")  # without the lock, which the other thread's hook needs
        module = sys.modules.get("dspy")
        with self._lock:
            if module is None or self._pending is None or self._runtime is not None:
                return
            try:
                self._install(module, *self._pending)
            except Exception as error:
                # An exception would reach the program as a failure of its "import dspy".
                self._remove()
                pass_on(error)
                logger.exception("DSPy calls are not traced")

    def _install(self, module: ModuleType, providers: _Providers, settings: Settings) -> None:
        # Imported here, since a process without dspy does not need them.
        from opentelemetry.instrumentation.dspy._calls.call import Runtime
        from opentelemetry.instrumentation.dspy._events import EventLog
        from opentelemetry.instrumentation.dspy._metrics import Metrics
        from opentelemetry.instrumentation.dspy._operations import patch_points
        from opentelemetry.instrumentation.dspy._patching.points import Patches

        version = _dspy_version(module)
        tracer = get_tracer(
            __name__,
            __version__,
            providers.tracer_provider,
            schema_url=SCHEMA_URL,
            attributes={DSPY_VERSION: version},
        )
        metrics = Metrics(providers.meter_provider, version)
        self._runtime = Runtime(tracer, settings, metrics, _InUse.redactor)
        if settings.selects:
            self._runtime.select_by(_selection_by(settings))
        in_events = settings.content_mode.in_events
        log = EventLog(providers.logger_provider, version, required=in_events)
        self._runtime.log = log
        if in_events:
            self._runtime.events = log
        patches = DSPyInstrumentor._patches = self._patches or Patches()
        patches.install(patch_points(self._runtime), self._runtime, version)


def _selection_by(settings: Settings) -> Selection | None:
    # Imported here, since a process without dspy does not need it.
    from opentelemetry.instrumentation.dspy._calls.selection import Selection

    return Selection(settings) if settings.selects else None


def _wait_for_import(name: str) -> None:
    """Wait until no other thread is importing the module."""
    # There is no public API for this. Without it, patches may meet a partly imported module.
    wait: Any = getattr(importlib, "_bootstrap", None)
    wait = getattr(wait, "_lock_unlock_module", None)
    if wait is not None:
        wait(name)


def _dspy_version(module: ModuleType) -> str:
    version = getattr(module, "__version__", None)
    return version if isinstance(version, str) else importlib.metadata.version("dspy")
