# Copyright The opentelemetry-instrumentation-dspy Authors
# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

from importlib.util import find_spec

# They compare what is deployed with MLflow's own code.
collect_ignore = [] if find_spec("mlflow") else ["test_environment.py", "test_mlflow_endpoint.py"]
