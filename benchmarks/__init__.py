# Copyright The opentelemetry-instrumentation-dspy Authors
# SPDX-License-Identifier: Apache-2.0
"""The cost of instrumentation, measured on this machine. Run with ``make bench``."""
