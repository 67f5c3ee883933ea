# Copyright The opentelemetry-instrumentation-dspy Authors
# SPDX-License-Identifier: Apache-2.0
"""Runs in MLflow for evaluations and optimizers, made of spans on their way."""
