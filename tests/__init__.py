# Copyright The opentelemetry-instrumentation-dspy Authors
# SPDX-License-Identifier: Apache-2.0
"""Tests of both packages."""

from pathlib import Path
from typing import Final

ROOT: Final = Path(__file__).parents[1]
"""The directory of the repository."""
