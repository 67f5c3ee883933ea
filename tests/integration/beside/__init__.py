# Copyright The opentelemetry-instrumentation-dspy Authors
# SPDX-License-Identifier: Apache-2.0
"""The same program traced by ``mlflow.dspy.autolog()`` and by the bridge, and what MLflow shows.

``python -m tests.integration.beside --write`` measures, and writes docs/beside-mlflow-autolog.md.
"""
