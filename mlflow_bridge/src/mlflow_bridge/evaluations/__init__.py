# Copyright The opentelemetry-instrumentation-dspy Authors
# SPDX-License-Identifier: Apache-2.0
"""Comparison of evaluations in MLflow, and criteria that their metrics must meet."""
