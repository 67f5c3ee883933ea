# Copyright The opentelemetry-instrumentation-dspy Authors
# SPDX-License-Identifier: Apache-2.0
"""Tokens of MLflow's open blocks, which stay valid when MLflow's tracing is joined or separated.

A block of MLflow's, such as ``mlflow.start_span``, enters its span in a context and keeps a token
to leave it. MLflow has a context of its own for separate tracing, and uses OpenTelemetry's for
joint tracing. Its two forms of token differ, and at the end of the block MLflow takes the token to
be of the present form: it then raises, or leaves the block's span in its own context for ever.

The bridge replaces the module through which MLflow enters OpenTelemetry's context. While tracing is
joined, it makes tokens that MLflow also accepts for separate tracing, and it accepts the tokens of
blocks that began before.

The replaced names are not documented, but are the same from MLflow 3.15 to 3.17. No other file
replaces them.
"""

from __future__ import annotations

from contextlib import suppress
from typing import Any, Final, cast

from mlflow.tracing import provider as mlflow_tracing
from opentelemetry import context as otel_context
from opentelemetry.context import Context

_NAME: Final = "context_api"
_runtime: Final[Any] = mlflow_tracing.mlflow_runtime_context


class _Contexts:
    """OpenTelemetry's context, as MLflow uses it, with tokens of both forms."""

    def __getattr__(self, name: str) -> Any:
        return getattr(otel_context, name)

    def attach(self, context: Context) -> tuple[Any, Any]:
        """Enter the context; the token is in MLflow's form for separate tracing."""
        # MLflow's own context stays as it is, but MLflow needs a token of it to leave it.
        own = _runtime.attach(_runtime.get_current())
        return own, otel_context.attach(context)

    def detach(self, token: Any) -> None:
        """Leave the contexts of a token of either form."""
        is_pair = isinstance(cast("object", token), tuple)
        own, joint = token if is_pair else (None, token)
        if joint is not None:
            otel_context.detach(joint)
        if own is not None:
            # A block may end in another asynchronous context than the context of its start.
            with suppress(ValueError):
                _runtime.detach(own)


def share_tokens() -> None:
    """Have MLflow make and accept tokens of both forms. May be repeated.

    Raises:
        AttributeError: This version of MLflow does not have the name to replace.
    """
    getattr(mlflow_tracing, _NAME)
    setattr(mlflow_tracing, _NAME, _Contexts())


def give_back_tokens() -> None:
    """Undo `share_tokens`. The tokens of open blocks stay valid."""
    setattr(mlflow_tracing, _NAME, otel_context)
