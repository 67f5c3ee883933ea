# Copyright The opentelemetry-instrumentation-dspy Authors
# SPDX-License-Identifier: Apache-2.0
"""Traces that MLflow's own tracing shares with OpenTelemetry."""
