# Copyright The opentelemetry-instrumentation-dspy Authors
# SPDX-License-Identifier: Apache-2.0
"""Write the table of ``docs/configuration.md`` that says which source of a setting counts.

``python -m tools.precedence`` writes the table between the two comments of the page. A test
compares the table with `table`, and each row with what the settings do.
"""

from __future__ import annotations

from enum import Enum
from pathlib import Path
from typing import Any, Final

from mlflow_bridge._config.base import ENVIRONMENT_PREFIX
from mlflow_bridge._config.settings import (
    INSTRUMENT_ARGUMENTS,
    MLflowDSPyConfig,
    environment_variable,
    own_variable,
)
from opentelemetry.instrumentation.dspy import load_settings

PAGE: Final = Path(__file__).parents[1] / "docs" / "configuration.md"
BEGIN: Final = "<!-- tools.precedence: begin -->\n"
END: Final = "<!-- tools.precedence: end -->\n"

_HEAD: Final = (
    "| argument | variable of the bridge | variable of MLflow or OpenTelemetry | default |\n"
    "|---|---|---|---|\n"
)
_OTHERS: Final = (
    "| every other setting | its variable in the tables below | - | "
    "its default in the tables below |\n"
)
_SAMPLER_ARGUMENT: Final = "`OTEL_TRACES_SAMPLER_ARG` with `OTEL_TRACES_SAMPLER=dspy`"


def other_variable(name: str) -> str | None:
    """The variable of MLflow or OpenTelemetry that sets a field; None if there is none."""
    if name == "capture_content":
        return "OTEL_INSTRUMENTATION_GENAI_CAPTURE_MESSAGE_CONTENT"
    if name in INSTRUMENT_ARGUMENTS:
        return f"OTEL_INSTRUMENTATION_DSPY_{INSTRUMENT_ARGUMENTS[name].upper()}"
    variable = environment_variable(name)
    return None if variable.startswith(ENVIRONMENT_PREFIX) else variable


def table() -> str:
    """The table for an environment without variables of these packages."""
    return _HEAD + "".join(map(_row, _names())) + _OTHERS


def written(page: str) -> str:
    """The page with the table between its two comments."""
    before, _, rest = page.partition(BEGIN)
    _, _, after = rest.partition(END)
    return f"{before}{BEGIN}\n{table()}\n{END}{after}"


def _names() -> list[str]:
    fields = MLflowDSPyConfig.model_fields
    return [name for name in fields if name == "sampling_rate" or other_variable(name)]


def _row(name: str) -> str:
    own = f"`{own_variable(name)}`"
    other = _SAMPLER_ARGUMENT if name == "sampling_rate" else f"`{other_variable(name)}`"
    return f"| `{name}` | {own} | {other} | {_shown(_default(name))} |\n"


def _default(name: str) -> Any:
    if name not in INSTRUMENT_ARGUMENTS:
        return MLflowDSPyConfig.model_fields[name].default
    argument = INSTRUMENT_ARGUMENTS[name]
    settings = load_settings(**MLflowDSPyConfig().instrument_arguments())
    return getattr(settings, "content_mode" if argument == "capture_content" else argument)


def _shown(value: Any) -> str:
    if value is None:
        return "-"
    if isinstance(value, bool):
        return f"`{str(value).lower()}`"
    shown = value.value if isinstance(value, Enum) else value
    return f"`{shown:g}`" if isinstance(shown, float) else f"`{shown}`"


if __name__ == "__main__":
    PAGE.write_text(written(PAGE.read_text("utf-8")), "utf-8")
