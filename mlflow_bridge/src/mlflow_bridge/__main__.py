# Copyright The opentelemetry-instrumentation-dspy Authors
# SPDX-License-Identifier: Apache-2.0
"""The command ``mlflow-bridge`` as ``python -m mlflow_bridge``, if scripts are not on the path."""

import sys

from mlflow_bridge.cli import main

if __name__ == "__main__":
    sys.exit(main())
