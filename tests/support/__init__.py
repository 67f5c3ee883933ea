# Copyright The opentelemetry-instrumentation-dspy Authors
# SPDX-License-Identifier: Apache-2.0
"""What the tests share: real servers on loopback, and span trees as readable text."""
