# Copyright The opentelemetry-instrumentation-dspy Authors
# SPDX-License-Identifier: Apache-2.0
"""Data of model services: endpoint, model names, token usage and cost."""
