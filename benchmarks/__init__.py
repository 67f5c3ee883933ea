# Copyright The opentelemetry-instrumentation-dspy Authors
# SPDX-License-Identifier: Apache-2.0
"""What instrumentation costs, measured on the machine at hand. Run with ``make bench``."""
