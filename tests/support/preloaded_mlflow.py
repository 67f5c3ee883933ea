# Copyright The opentelemetry-instrumentation-dspy Authors
# SPDX-License-Identifier: Apache-2.0
"""What programs with DSPy and a store of MLflow's import, some of it lazily; see `children`."""

import contextlib

import alembic.command
import dspy.utils
import mlflow.cli
import mlflow.genai
import mlflow.pyfunc
import mlflow.server.fastapi_app
import mlflow.store.tracking.sqlalchemy_store

from tests.support import preloaded_sdk

with contextlib.suppress(ImportError):
    import git
with contextlib.suppress(ImportError):
    import litellm

__all__ = ["alembic", "dspy", "git", "litellm", "mlflow", "preloaded_sdk"]
