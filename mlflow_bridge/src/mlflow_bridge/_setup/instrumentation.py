# Copyright The opentelemetry-instrumentation-dspy Authors
# SPDX-License-Identifier: Apache-2.0
"""Transfer of settings from the bridge to the instrumentation of DSPy."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping
from typing import Any

from mlflow_bridge._config.base import report_once
from mlflow_bridge._config.recording import SELECTION
from mlflow_bridge._config.settings import INSTRUMENT_ARGUMENTS, MLflowDSPyConfig
from mlflow_bridge._spans.redaction import held_redaction
from opentelemetry.instrumentation.dspy import (
    DSPyInstrumentor,
    Settings,
    load_settings,
    set_default_arguments,
)


def set_instrument_defaults(configs: Iterable[MLflowDSPyConfig]) -> str:
    """Set the defaults of the next ``instrument()`` call to these settings.

    If configurations differ, an explicitly given setting takes precedence over a default.

    Returns:
        The name of the resulting content mode.
    """
    arguments: dict[str, Any] = {}
    for config in configs:
        given = {INSTRUMENT_ARGUMENTS[name] for name in _given(config)}
        for name, value in config.instrument_arguments().items():
            if name in given or name not in arguments:
                arguments[name] = value
    set_default_arguments(**arguments)
    return load_settings().content_mode.name


def _given(config: MLflowDSPyConfig) -> list[str]:
    return [name for name in INSTRUMENT_ARGUMENTS if name in config.model_fields_set]


def instrument_again(config: MLflowDSPyConfig) -> None:
    """Instrument DSPy again with the explicitly given settings; other settings stay as they are.

    For DSPy that ``opentelemetry-instrument`` has instrumented with the defaults of the bridge.
    """
    instrumentor = DSPyInstrumentor()
    used = instrumentor.settings
    if used is None:
        return
    arguments: dict[str, Any] = {
        name: _value(used, field) for field, name in INSTRUMENT_ARGUMENTS.items()
    }
    arguments |= {"request_hook": used.request_hook, "response_hook": used.response_hook}
    wanted = config.instrument_arguments()
    given = [INSTRUMENT_ARGUMENTS[name] for name in _given(config)]
    arguments |= {name: wanted[name] for name in given if name in wanted}
    settings = load_settings(**arguments)
    if settings == used:
        return
    same_selection = {name: getattr(used, name) for name in SELECTION}
    if dataclasses.replace(settings, **same_selection) == used:
        instrumentor.select(**selection_in(arguments))
    else:
        with held_redaction():
            instrumentor.uninstrument()
            instrumentor.instrument(**arguments)


def changes_selection_only(before: Mapping[str, Any], after: Mapping[str, Any]) -> bool:
    """Whether two sets of arguments differ at most in what ``select()`` changes at run time."""
    names = (before.keys() | after.keys()) - set(SELECTION)
    return all(before.get(name) == after.get(name) for name in names)


def selection_in(arguments: Mapping[str, Any]) -> dict[str, Any]:
    """The arguments of ``select()`` among those of ``instrument()``."""
    return {name: arguments.get(name) for name in SELECTION}


def warn_of_unused_instrument_settings(config: MLflowDSPyConfig) -> None:
    """Log a warning about settings that a program did not use when it instrumented DSPy itself."""
    unused = [name for name in other_instrument_settings(config) if name in _given(config)]
    if unused:
        report_once(
            f"{', '.join(unused)}: no effect, because DSPy was instrumented with other settings. "
            "Instrument it with DSPyInstrumentor().instrument(**config.instrument_arguments())."
        )


def other_instrument_settings(config: MLflowDSPyConfig) -> list[str]:
    """Names of settings that differ in the instrumentation; empty if DSPy is not instrumented."""
    used = DSPyInstrumentor().settings
    if used is None:
        return []
    wanted = load_settings(**config.instrument_arguments())
    return [name for name in INSTRUMENT_ARGUMENTS if _value(wanted, name) != _value(used, name)]


def _value(settings: Settings, name: str) -> object:
    argument = INSTRUMENT_ARGUMENTS[name]
    if argument == "redact":
        parts = [part for part in (settings.redact, settings.redaction_rules) if part is not None]
        return parts or None
    return getattr(settings, "content_mode" if argument == "capture_content" else argument)
