# Copyright The opentelemetry-instrumentation-dspy Authors
# SPDX-License-Identifier: Apache-2.0
"""The environment variables that most programs set; `MLflowDSPyConfig` lists all of them.

They keep the names under which MLflow knows them. ``opentelemetry-instrument`` makes command line
options of names with the prefix ``OTEL_`` only.
"""

MLFLOW_TRACKING_URI = "MLFLOW_TRACKING_URI"
"""
Where traces go: a SQL store such as sqlite:///mlflow.db, or a server such as
http://127.0.0.1:5000. Default: sqlite:///mlflow.db.
"""

MLFLOW_EXPERIMENT_NAME = "MLFLOW_EXPERIMENT_NAME"
"""
The experiment by name; it is created if absent. Default: "Default".
"""

MLFLOW_EXPERIMENT_ID = "MLFLOW_EXPERIMENT_ID"
"""
The experiment by id, instead of a name.
"""
