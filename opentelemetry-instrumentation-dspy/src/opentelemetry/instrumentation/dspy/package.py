# Copyright The opentelemetry-instrumentation-dspy Authors
# SPDX-License-Identifier: Apache-2.0
"""The requirement that the zero-code loader reads from an instrumentation package."""

_instruments = ("dspy >= 3.0, < 4",)
_supports_metrics = True
_semconv_status = "development"
