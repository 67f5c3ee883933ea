# Copyright The opentelemetry-instrumentation-dspy Authors
# SPDX-License-Identifier: Apache-2.0
"""What ``status()`` returns."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class PatchStatus:
    """What became of one patch point.

    Attributes:
        point: The target, as ``module:attribute``.
        state: ``installed``, ``missing`` (DSPy has no such target) or ``not_applicable`` (this
            DSPy version works without it).
        detail: Why, and what is not recorded because of it; empty when installed.
    """

    point: str
    state: str
    detail: str = ""
