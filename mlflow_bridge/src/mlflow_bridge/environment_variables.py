# Copyright The opentelemetry-instrumentation-dspy Authors
# SPDX-License-Identifier: Apache-2.0
"""The environment variables that most programs set; `MLflowDSPyConfig` lists all of them.

They have MLflow's names. They are no command line options of ``opentelemetry-instrument``, which
has options only for names with the prefix ``OTEL_``.
"""

MLFLOW_TRACKING_URI = "MLFLOW_TRACKING_URI"
"""
Destination of traces: a SQL store such as sqlite:///mlflow.db, or a tracking server such as
http://127.0.0.1:5000. Default: sqlite:///mlflow.db.
"""

MLFLOW_EXPERIMENT_NAME = "MLFLOW_EXPERIMENT_NAME"
"""
Name of the experiment, created if absent. Default: "Default".
"""

MLFLOW_EXPERIMENT_ID = "MLFLOW_EXPERIMENT_ID"
"""
Id of the experiment, a number. The experiment must exist; the id takes precedence over a name.
"""
