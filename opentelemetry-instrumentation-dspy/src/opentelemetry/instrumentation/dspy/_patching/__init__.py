# Copyright The opentelemetry-instrumentation-dspy Authors
# SPDX-License-Identifier: Apache-2.0
"""Replacements of DSPy's functions, and their installation and removal."""
