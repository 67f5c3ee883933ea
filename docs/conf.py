# Copyright The opentelemetry-instrumentation-dspy Authors
# SPDX-License-Identifier: Apache-2.0
"""Sphinx configuration. The page of conventions is written from the registry before each build."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Any

# Before autodoc imports mlflow: see the page on troubleshooting.
os.environ["LITELLM_LOCAL_MODEL_COST_MAP"] = "True"
sys.path.insert(0, os.path.dirname(__file__))

from render_registry import render

from mlflow_bridge._config.settings import MLflowDSPyConfig, environment_variable
from opentelemetry.instrumentation.dspy.version import __version__

HERE = Path(__file__).parent
REGISTRIES = {
    "registry.md": HERE.parent / "opentelemetry-instrumentation-dspy" / "semconv" / "registry",
    "bridge_registry.md": HERE.parent / "mlflow_bridge" / "semconv" / "registry",
}

project = "opentelemetry-instrumentation-dspy"
author = "The opentelemetry-instrumentation-dspy Authors"
copyright = author
version = release = __version__

extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon"]
exclude_patterns = ["_build", "_generated"]
html_theme = "furo"
html_title = "OpenTelemetry for DSPy, delivered to MLflow"

myst_heading_anchors = 3
autodoc_typehints = "description"
autodoc_member_order = "bysource"


def _write_registries(_app: Any) -> None:
    folder = HERE / "_generated"
    folder.mkdir(exist_ok=True)
    for page, registry in REGISTRIES.items():
        (folder / page).write_text(render(registry), "utf-8")


def _describe_setting(
    _app: Any, _what: str, name: str, _obj: Any, _options: Any, lines: list[str]
) -> None:
    """Give a setting of the bridge its description, which is no docstring, as its text."""
    owner, _, setting = name.rpartition(".")
    field = MLflowDSPyConfig.model_fields.get(setting)
    if field is None or owner != "mlflow_bridge.MLflowDSPyConfig":
        return
    default = field.default if isinstance(field.default, str) else repr(field.default)
    variable = environment_variable(setting)
    lines[:] = [f"{field.description} (``{variable}``; default ``{default}``.)"]


def setup(app: Any) -> None:
    app.connect("builder-inited", _write_registries)
    app.connect("autodoc-process-docstring", _describe_setting)
