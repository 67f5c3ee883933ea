# Copyright The opentelemetry-instrumentation-dspy Authors
# SPDX-License-Identifier: Apache-2.0
"""The sampler by settings alone: ``OTEL_TRACES_SAMPLER=dspy``, and for `mlflow_bridge.autolog`."""

from __future__ import annotations

import logging
import os
from typing import Final

from opentelemetry.sdk.environment_variables import OTEL_TRACES_SAMPLER, OTEL_TRACES_SAMPLER_ARG
from opentelemetry.sdk.trace.sampling import Sampler

from mlflow_bridge._config.base import ConfigurationError
from mlflow_bridge._config.resolved import report_once, resolve_config
from mlflow_bridge._config.settings import SAMPLING_FIELDS, MLflowDSPyConfig, environment_variable
from mlflow_bridge.sampling.sampler import DSPySampler

_logger = logging.getLogger(__name__)

NAME: Final = "dspy"
"""Of the sampler, for ``OTEL_TRACES_SAMPLER``."""


def dspy_sampler(argument: float | str | None = None) -> Sampler:
    """The sampler by the environment's settings. Never raises.

    The entry points ``opentelemetry_traces_sampler`` and ``opentelemetry_sampler``: what is raised
    there is logged as a failure of the SDK's, and another sampler takes the place. With a setting
    that cannot be used, one warning says so, and its default holds: every trace is recorded.

    Args:
        argument: ``OTEL_TRACES_SAMPLER_ARG``: the rate, instead of the one in the settings.
    """
    given = {} if argument is None or argument == "" else {"sampling_rate": argument}
    try:
        return DSPySampler(resolve_config(given).config)
    except ConfigurationError as error:
        _warn_about_argument(argument, error)
    except Exception:
        _logger.warning("Sampling: every trace is recorded.", exc_info=True)
    return DSPySampler(resolve_config({}).config)


def sampler_of_new_provider(config: MLflowDSPyConfig) -> Sampler | None:
    """The sampler for a tracer provider that is about to be made.

    None leaves it to the SDK, which reads ``OTEL_TRACES_SAMPLER``, but does not know it by that
    name.
    """
    named = os.environ.get(OTEL_TRACES_SAMPLER, "").strip().lower()
    if named == NAME:
        return _with_argument(config)
    return DSPySampler(config) if _given_settings(config) and not named else None


def _with_argument(config: MLflowDSPyConfig) -> Sampler:
    """The sampler with these settings, and the rate in ``OTEL_TRACES_SAMPLER_ARG``.

    A rate that code gives goes before that one.
    """
    argument = os.environ.get(OTEL_TRACES_SAMPLER_ARG)
    rate = "sampling_rate"
    if rate in config.model_fields_set and not os.environ.get(environment_variable(rate)):
        argument = None
    if not argument:
        return DSPySampler(config)
    try:
        return DSPySampler(config.replace(sampling_rate=argument))
    except ConfigurationError as error:
        _warn_about_argument(argument, error)
        return DSPySampler(config)


def _warn_about_argument(argument: object, error: ConfigurationError) -> None:
    report_once(f"Sampling: {OTEL_TRACES_SAMPLER_ARG}={argument}: {error}")


def warn_of_unused_settings(provider: object, config: MLflowDSPyConfig) -> None:
    """Say it where a tracer provider has another sampler than the settings are meant for."""
    unused = unused_settings(provider, config)
    if unused is not None:
        report_once(unused)


def unused_settings(provider: object, config: MLflowDSPyConfig) -> str | None:
    """The warning about sampling settings that a tracer provider does not use; None if it does."""
    sampler = getattr(provider, "sampler", None)
    if not isinstance(sampler, Sampler):
        return None
    unused = [name for name in _given_settings(config) if not _is_used(name, sampler, config)]
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
    # Inside of another sampler its settings cannot be seen.
    return DSPySampler.__name__ in sampler.get_description()


def _given_settings(config: MLflowDSPyConfig) -> list[str]:
    return [name for name in SAMPLING_FIELDS if name in config.model_fields_set]
