# Copyright The opentelemetry-instrumentation-dspy Authors
# SPDX-License-Identifier: Apache-2.0
"""The functions that replace DSPy's, and how they are installed and removed."""
