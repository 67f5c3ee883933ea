# Copyright The opentelemetry-instrumentation-dspy Authors
# SPDX-License-Identifier: Apache-2.0
"""A span in MLflow's form: type, inputs and outputs, chats, tokens and cost."""
