# Copyright The opentelemetry-instrumentation-dspy Authors
# SPDX-License-Identifier: Apache-2.0
"""``python -m mlflow_bridge``: the command ``mlflow-bridge``, where scripts are not on the path."""

import sys

from mlflow_bridge.cli import main

if __name__ == "__main__":
    sys.exit(main())
