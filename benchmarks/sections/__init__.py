# Copyright The opentelemetry-instrumentation-dspy Authors
# SPDX-License-Identifier: Apache-2.0
"""What is measured, one file for each question; see `benchmarks.sections.registry`."""
