# Copyright The opentelemetry-instrumentation-dspy Authors
# SPDX-License-Identifier: Apache-2.0
"""Mapping of spans to MLflow's attributes: type, inputs, outputs, messages, tokens and cost."""
