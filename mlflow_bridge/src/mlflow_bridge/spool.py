# Copyright The opentelemetry-instrumentation-dspy Authors
# SPDX-License-Identifier: Apache-2.0
"""The command ``mlflow-bridge spool`` as ``python -m mlflow_bridge.spool``."""

import sys

from mlflow_bridge.cli.spool import main

if __name__ == "__main__":
    sys.exit(main())
