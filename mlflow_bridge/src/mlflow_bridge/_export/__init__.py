# Copyright The opentelemetry-instrumentation-dspy Authors
# SPDX-License-Identifier: Apache-2.0
"""Export of ended spans to MLflow: mapping, delivery and destinations."""
