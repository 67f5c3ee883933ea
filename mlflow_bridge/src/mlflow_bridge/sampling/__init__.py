# Copyright The opentelemetry-instrumentation-dspy Authors
# SPDX-License-Identifier: Apache-2.0
"""Which traces are recorded at all: a sampler that knows DSPy's operations."""
