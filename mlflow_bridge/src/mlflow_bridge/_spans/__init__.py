# Copyright The opentelemetry-instrumentation-dspy Authors
# SPDX-License-Identifier: Apache-2.0
"""A span and its trace: names of attributes, context, local roots, OTLP JSON."""
