# Copyright The opentelemetry-instrumentation-dspy Authors
# SPDX-License-Identifier: Apache-2.0
"""The settings that switch the bridge on and off."""

from __future__ import annotations

from pydantic import Field

from mlflow_bridge._config.recording import RecordingSettings


class ControlSettings(RecordingSettings):
    """Immutable settings of whether anything is recorded; a part of `MLflowDSPyConfig`.

    Raises:
        ConfigurationError: A value is not accepted.
    """

    enabled: bool = Field(
        default=True,
        description="true or false: whether the bridge does anything. With false, autolog() "
        "instruments nothing and makes no tracer provider; at run time, traces that begin later "
        "are left out.",
    )
