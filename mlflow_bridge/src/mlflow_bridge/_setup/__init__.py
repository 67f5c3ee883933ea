# Copyright The opentelemetry-instrumentation-dspy Authors
# SPDX-License-Identifier: Apache-2.0
"""Puts the parts together: one pipeline, whichever way a program comes by."""
