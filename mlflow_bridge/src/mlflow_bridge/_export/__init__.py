# Copyright The opentelemetry-instrumentation-dspy Authors
# SPDX-License-Identifier: Apache-2.0
"""From ended spans to MLflow: mapping, delivery, destinations."""
