# Copyright The opentelemetry-instrumentation-dspy Authors
# SPDX-License-Identifier: Apache-2.0
"""Joint traces of MLflow's own tracing and OpenTelemetry."""
