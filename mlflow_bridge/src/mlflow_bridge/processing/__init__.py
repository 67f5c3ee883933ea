# Copyright The opentelemetry-instrumentation-dspy Authors
# SPDX-License-Identifier: Apache-2.0
"""Span processors: what happens to a span between its start and its hand-over to an exporter."""
