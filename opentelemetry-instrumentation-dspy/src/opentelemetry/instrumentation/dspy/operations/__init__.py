# Copyright The opentelemetry-instrumentation-dspy Authors
# SPDX-License-Identifier: Apache-2.0
"""One module for each kind of DSPy operation: what is patched, and how a call becomes attributes.

Each of them has ``patch_points(runtime)``. They may import dspy: they are used only once it is
imported.
"""
