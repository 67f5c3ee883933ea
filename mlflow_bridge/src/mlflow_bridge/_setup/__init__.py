# Copyright The opentelemetry-instrumentation-dspy Authors
# SPDX-License-Identifier: Apache-2.0
"""Set-up of one pipeline for every way to use the bridge: autolog, zero-code and by hand."""
