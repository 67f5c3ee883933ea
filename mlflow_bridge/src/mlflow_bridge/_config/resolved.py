# Copyright The opentelemetry-instrumentation-dspy Authors
# SPDX-License-Identifier: Apache-2.0
"""Settings that can always be used, although the environment may have wrong values.

A wrong argument is an error of the calling code, and raises. A wrong variable must not stop a
program: one warning names the variable, and a safer value is used instead.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from enum import Enum
from typing import Any, Final

from mlflow_bridge._config.base import ConfigurationError, report_once, variable_of
from mlflow_bridge._config.settings import INSTRUMENT_ARGUMENTS, MLflowDSPyConfig
from mlflow_bridge._config.tail import TAIL_FIELDS
from opentelemetry.instrumentation.dspy import ContentMode

_DESTINATION_FIELDS: Final = frozenset(
    {
        "tracking_uri",
        "experiment_name",
        "experiment_id",
        "tracking_username",
        "tracking_password",
        "tracking_token",
        "tracking_auth",
        "insecure_tls",
        "server_cert_path",
        "client_cert_path",
        "workspace",
        "headers",
    }
)
"""Settings without a safe default, because spans must not go to another destination than meant."""


def _withhold(operation: str, field: str, value: Any) -> str:
    """The redaction function in place of a setting that cannot be used."""
    return "[REDACTED]"


def select_nothing(name_or_inputs: Any) -> bool:
    """The filter or condition with which no call is recorded."""
    return False


_NO_CONTENT: Final[Mapping[str, Any]] = {"capture_content": ContentMode.NO_CONTENT}
_LESS_CONTENT: Final[Mapping[str, Mapping[str, Any]]] = {
    "capture_content": _NO_CONTENT,
    # Without its redaction, content is not recorded at all. The function is for spans of others.
    "redact": {"redact": _withhold, **_NO_CONTENT},
    "input_sanitizer": {"input_sanitizer": None, **_NO_CONTENT},
    "output_sanitizer": {"output_sanitizer": None, **_NO_CONTENT},
    "module_filter": {"module_filter": select_nothing},
    "trace_condition": {"trace_condition": select_nothing},
    **{name: {name: False} for name in INSTRUMENT_ARGUMENTS if name.startswith("log_")},
}


@dataclass(frozen=True)
class ResolvedConfig:
    """Settings that can be used.

    Attributes:
        config: The settings.
        obstacle: Why no span can be sent with these settings; None if spans can be sent.
    """

    config: MLflowDSPyConfig
    obstacle: str | None = None


def resolve_config(arguments: Mapping[str, Any]) -> ResolvedConfig:
    """The settings from arguments and the environment, with safer values for wrong variables.

    Raises:
        ConfigurationError: The value of an argument is not accepted.
    """
    safer: dict[str, Any] = {}
    obstacles: list[str] = []
    while True:
        try:
            config = MLflowDSPyConfig(**{**arguments, **safer})
            return ResolvedConfig(config, "; ".join(obstacles) or None)
        except ConfigurationError as error:
            wrong = set(error.fields)
            if not wrong or wrong & (arguments.keys() | safer.keys()):
                raise
            choice = _safer_choice(wrong)
            if wrong & _DESTINATION_FIELDS:
                obstacles.append(str(error))
            else:
                report_once(f"{error}. Used instead: {_described(choice)}.")
            safer.update(choice)


def _safer_choice(wrong: Iterable[str]) -> dict[str, Any]:
    choice: dict[str, Any] = {}
    for name in wrong:
        default = {name: MLflowDSPyConfig.model_fields[name].default}
        choice.update(_LESS_CONTENT.get(name, default))
        if name in TAIL_FIELDS:
            choice["tail_rate"] = 1.0  # Without one of its rules, no trace is to be left out.
    return choice


def _described(choice: Mapping[str, Any]) -> str:
    shown = {
        variable_of(MLflowDSPyConfig, name): value.value if isinstance(value, Enum) else value
        for name, value in sorted(choice.items())
        if value is not _withhold and not name.endswith("_sanitizer")
    }
    nothing = "a function that selects no call"
    return ", ".join(
        f"{name}={nothing if callable(value) else value}" for name, value in shown.items()
    )
