# Copyright The opentelemetry-instrumentation-dspy Authors
# SPDX-License-Identifier: Apache-2.0
"""DSPy programs that say what their traces belong to. The modules here import DSPy."""
