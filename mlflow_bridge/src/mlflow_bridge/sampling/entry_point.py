# Copyright The opentelemetry-instrumentation-dspy Authors
# SPDX-License-Identifier: Apache-2.0
"""The sampler by settings alone: ``OTEL_TRACES_SAMPLER=dspy``, and for `mlflow_bridge.autolog`."""

from __future__ import annotations

import logging
import os
from typing import Final

from opentelemetry.sdk.environment_variables import OTEL_TRACES_SAMPLER, OTEL_TRACES_SAMPLER_ARG
from opentelemetry.sdk.trace.sampling import Sampler

from mlflow_bridge.environment_settings import ConfigurationError
from mlflow_bridge.sampling.sampler import DSPySampler
from mlflow_bridge.sampling.settings import SamplingSettings, sampling_variable

_logger = logging.getLogger(__name__)

NAME: Final = "dspy"
"""Of the sampler, for ``OTEL_TRACES_SAMPLER``."""


def dspy_sampler(argument: float | str | None = None) -> Sampler:
    """The sampler by the environment's settings. Never raises.

    The entry points ``opentelemetry_traces_sampler`` and ``opentelemetry_sampler``: what is raised
    there is logged as a failure of the SDK's, and another sampler takes the place. With a setting
    that cannot be used, one warning says so, and everything is recorded.

    Args:
        argument: ``OTEL_TRACES_SAMPLER_ARG``: the ratio, instead of the one in the settings.
    """
    given = {} if argument is None or argument == "" else {"ratio": argument}
    try:
        return DSPySampler(SamplingSettings(**given))  # type: ignore[reportArgumentType]
    except ConfigurationError as error:
        where = f"{OTEL_TRACES_SAMPLER_ARG}={argument}: " if given else ""
        _logger.warning("Sampling: %s%s. Every trace is recorded.", where, error)
    except Exception:
        _logger.warning("Sampling: every trace is recorded.", exc_info=True)
    return DSPySampler(SamplingSettings.model_construct())


def sampler_of_new_provider() -> Sampler | None:
    """The sampler for a tracer provider that is about to be made.

    None leaves it to the SDK, which reads ``OTEL_TRACES_SAMPLER``, but does not know it by that
    name.
    """
    named = os.environ.get(OTEL_TRACES_SAMPLER, "").strip().lower()
    if named == NAME:
        return dspy_sampler(os.environ.get(OTEL_TRACES_SAMPLER_ARG))
    return dspy_sampler() if _given_variables() and not named else None


def warn_of_unused_settings(provider: object) -> None:
    """Say it where a tracer provider has another sampler than the settings are meant for."""
    unused = unused_settings(provider)
    if unused is not None:
        _logger.warning("%s", unused)


def unused_settings(provider: object) -> str | None:
    """What to say of settings that have no effect on a tracer provider; None if they have."""
    given = _given_variables()
    sampler = getattr(provider, "sampler", None)
    if not given or not isinstance(sampler, Sampler):
        return None
    description = sampler.get_description()
    if DSPySampler.__name__ in description:
        return None
    return (
        f"{', '.join(given)}: no effect, because the tracer provider has another sampler "
        f"({description}). Set {OTEL_TRACES_SAMPLER}={NAME}, or give the provider a DSPySampler."
    )


def _given_variables() -> list[str]:
    variables = map(sampling_variable, SamplingSettings.model_fields)
    return [name for name in variables if os.environ.get(name)]
