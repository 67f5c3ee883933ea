# Copyright The opentelemetry-instrumentation-dspy Authors
# SPDX-License-Identifier: Apache-2.0
"""The process that the bridge runs in: forks, exit, log lines, random numbers."""
