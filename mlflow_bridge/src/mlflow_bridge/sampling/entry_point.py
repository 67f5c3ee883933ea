# Copyright The opentelemetry-instrumentation-dspy Authors
# SPDX-License-Identifier: Apache-2.0
"""Samplers from settings, for ``OTEL_TRACES_SAMPLER=dspy`` and for `mlflow_bridge.autolog`."""

from __future__ import annotations

import logging
import os
from typing import Final

from opentelemetry.sdk.environment_variables import OTEL_TRACES_SAMPLER, OTEL_TRACES_SAMPLER_ARG
from opentelemetry.sdk.trace.sampling import DEFAULT_ON, Sampler

from mlflow_bridge._config.base import ConfigurationError, report_once
from mlflow_bridge._config.resolved import resolve_config
from mlflow_bridge._config.settings import SAMPLING_FIELDS, MLflowDSPyConfig, environment_variable
from mlflow_bridge.sampling.sampler import DSPySampler
from mlflow_bridge.sampling.switchable import SwitchableSampler, given_settings, is_sampled

_logger = logging.getLogger(__name__)

NAME: Final = "dspy"
"""Name of the sampler in ``OTEL_TRACES_SAMPLER``."""

_RATE: Final = "sampling_rate"


def dspy_sampler(argument: float | str | None = None) -> Sampler:
    """Create the sampler from the settings in the environment. Never raises.

    The entry points ``opentelemetry_traces_sampler`` and ``opentelemetry_sampler`` name this
    function. If an entry point raises, the SDK reports a failure of the SDK and uses another
    sampler. So a setting that cannot be used causes one warning and has its default: every trace
    is recorded.

    Args:
        argument: A rate that replaces ``sampling_rate``. The text of ``OTEL_TRACES_SAMPLER_ARG``
            counts only without the bridge's own variable.
    """
    is_variable = isinstance(argument, str) and argument == os.environ.get(OTEL_TRACES_SAMPLER_ARG)
    if (not argument and argument != 0) or (is_variable and _is_set(_RATE)):
        argument = None
    given = {} if argument is None else {_RATE: argument}
    try:
        return SwitchableSampler(DSPySampler(resolve_config(given).config))
    except ConfigurationError as error:
        _warn_about_argument(argument, error)
    except Exception:
        _logger.warning("Sampling: every trace is recorded.", exc_info=True)
    return SwitchableSampler(DSPySampler(resolve_config({}).config))


def sampler_of_new_provider(config: MLflowDSPyConfig) -> Sampler | None:
    """The sampler for a new tracer provider, which can follow other settings later.

    The SDK's constructor reads ``OTEL_TRACES_SAMPLER``, but knows only the SDK's own samplers, not
    the name ``dspy``.

    Returns:
        None if the SDK is to choose the sampler, which the variable names.
    """
    if _named() in ("", NAME):
        return SwitchableSampler(_sampler_by(config))
    return None


def put_sampler_in(provider: object, config: MLflowDSPyConfig) -> None:
    """Give a provider that the SDK has made by default a sampler that follows settings.

    For ``opentelemetry-instrument``, before there are tracers. A sampler that the program, a file
    or ``OTEL_TRACES_SAMPLER`` has chosen stays.
    """
    if not _named() and getattr(provider, "sampler", None) is DEFAULT_ON:
        setattr(provider, "sampler", SwitchableSampler(_sampler_by(config)))  # noqa: B010


def use_sampling(provider: object, config: MLflowDSPyConfig) -> bool:
    """Sample further traces of a provider by these settings; False if its sampler is not ours."""
    sampler = getattr(provider, "sampler", None)
    if not isinstance(sampler, SwitchableSampler):
        return False
    current = sampler.current
    is_same = isinstance(current, DSPySampler) and all(
        getattr(current.config, name) == getattr(config, name) for name in SAMPLING_FIELDS
    )
    if not is_same:
        sampler.switch(_sampler_by(config))
    return True


def _named() -> str:
    return os.environ.get(OTEL_TRACES_SAMPLER, "").strip().lower()


def _sampler_by(config: MLflowDSPyConfig) -> Sampler:
    if _named() == NAME:
        return _with_argument(config)
    return DSPySampler(config) if given_settings(config) else DEFAULT_ON


def _with_argument(config: MLflowDSPyConfig) -> Sampler:
    """The sampler with these settings and the rate in ``OTEL_TRACES_SAMPLER_ARG``.

    A rate that code or the bridge's own variable gives takes precedence over the variable.
    """
    argument = os.environ.get(OTEL_TRACES_SAMPLER_ARG)
    if not argument or _RATE in config.model_fields_set or _is_set(_RATE):
        return DSPySampler(config)
    try:
        return DSPySampler(config.replace(sampling_rate=argument))
    except ConfigurationError as error:
        _warn_about_argument(argument, error)
        return DSPySampler(config)


def _is_set(name: str) -> bool:
    return bool(os.environ.get(environment_variable(name), "").strip())


def _warn_about_argument(argument: object, error: ConfigurationError) -> None:
    report_once(f"Sampling: {OTEL_TRACES_SAMPLER_ARG}={argument}: {error}")


def warn_of_unused_settings(provider: object, config: MLflowDSPyConfig) -> None:
    """Log a warning if the sampler of a tracer provider ignores sampling settings."""
    unused = unused_settings(provider, config)
    if unused is not None:
        report_once(unused)


def unused_settings(provider: object, config: MLflowDSPyConfig) -> str | None:
    """The warning about sampling settings that a tracer provider ignores; None if it uses them."""
    sampler = getattr(provider, "sampler", None)
    if isinstance(sampler, SwitchableSampler):
        sampler = sampler.current
    if not isinstance(sampler, Sampler) or is_sampled(provider):
        return None
    unused = [name for name in given_settings(config) if not _is_used(name, sampler, config)]
    if not unused:
        return None
    variables = [environment_variable(name) for name in unused]
    if isinstance(sampler, DSPySampler):
        remedy = "Give that sampler these settings: in the environment, or as DSPySampler(config)."
    else:
        remedy = f"Set {OTEL_TRACES_SAMPLER}={NAME}, or give the provider a DSPySampler(config)."
    return (
        f"{', '.join(variables)}: no effect, because the tracer provider has another sampler "
        f"({sampler.get_description()}). {remedy}"
    )


def _is_used(name: str, sampler: Sampler, config: MLflowDSPyConfig) -> bool:
    if isinstance(sampler, DSPySampler):
        return getattr(sampler.config, name) == getattr(config, name)
    # If another sampler wraps a DSPySampler, the settings of the latter cannot be read.
    return DSPySampler.__name__ in sampler.get_description()
