# Copyright The opentelemetry-instrumentation-dspy Authors
# SPDX-License-Identifier: Apache-2.0
"""The ways to instrument that are compared, each installed in a separate process."""

from __future__ import annotations

import os
import sqlite3
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.sdk.trace.sampling import ParentBased, Sampler, TraceIdRatioBased

from benchmarks.null_exporter import NullExporter, null_provider


@dataclass
class Installed:
    """An installed instrumentation."""

    flush: Callable[[], Any]
    """Returns when no span waits any more."""
    span_count: Callable[[], int]
    """Returns the number of exported spans."""
    exporter: NullExporter | None = None

    def spans_of(self, run: Callable[[], Any]) -> Sequence[ReadableSpan]:
        """Return the spans of one call; empty if they go to another exporter."""
        if self.exporter is None:
            return ()
        self.flush()
        self.exporter.kept = kept = []
        run()
        self.flush()
        self.exporter.kept = None
        return kept


@dataclass(frozen=True)
class Way:
    """One way to instrument."""

    label: str
    install: Callable[[], Installed]
    needs: str = ""
    """A distribution that has to be installed."""

    @property
    def installed_version(self) -> str | None:
        """The version of the distribution in ``needs``; None if it is not installed."""
        if not self.needs:
            return ""
        try:
            return version(self.needs)
        except PackageNotFoundError:
            return None


def _nothing() -> Installed:
    return Installed(flush=lambda: None, span_count=lambda: 0)


def _ours(content: bool = True, ratio: float | None = None) -> Callable[[], Installed]:
    def install() -> Installed:
        from opentelemetry.instrumentation.dspy import DSPyInstrumentor

        sampler = None if ratio is None else ParentBased(TraceIdRatioBased(ratio))
        installed, provider = _into_nothing(sampler)
        DSPyInstrumentor().instrument(tracer_provider=provider, capture_content=content)
        return installed

    return install


def _openinference() -> Installed:
    from openinference.instrumentation.dspy import (  # pyright: ignore[reportMissingImports]
        DSPyInstrumentor,
    )

    installed, provider = _into_nothing(None)
    DSPyInstrumentor().instrument(tracer_provider=provider, skip_dep_check=True)
    return installed


def _genai_dspy() -> Installed:
    os.environ["OTEL_INSTRUMENTATION_GENAI_CAPTURE_MESSAGE_CONTENT"] = "SPAN_ONLY"
    os.environ["OTEL_SEMCONV_STABILITY_OPT_IN"] = "gen_ai_latest_experimental"
    from opentelemetry.instrumentation.genai.dspy import (  # pyright: ignore[reportMissingImports]
        DSPyInstrumentor,
    )

    installed, provider = _into_nothing(None)
    DSPyInstrumentor().instrument(tracer_provider=provider, skip_dep_check=True)
    return installed


def _into_nothing(sampler: Sampler | None) -> tuple[Installed, Any]:
    provider, exporter = null_provider(sampler)
    installed = Installed(
        flush=provider.force_flush, span_count=lambda: exporter.count, exporter=exporter
    )
    return installed, provider


def _mlflow_autolog() -> Installed:
    """Install MLflow's instrumentation with a new SQLite store: it has no null exporter."""
    import mlflow

    file = Path(tempfile.mkdtemp(prefix="bench-")) / "mlflow.db"
    mlflow.set_tracking_uri(f"sqlite:///{file}")
    autolog: Any = mlflow.dspy.autolog  # pyright: ignore[reportPrivateImportUsage]
    autolog(silent=True)

    def span_count() -> int:
        with sqlite3.connect(file) as connection:
            return connection.execute("select count(*) from spans").fetchone()[0]

    return Installed(flush=mlflow.flush_trace_async_logging, span_count=span_count)


WAYS: dict[str, Way] = {
    "none": Way("DSPy alone", _nothing),
    "openinference": Way("openinference", _openinference, "openinference-instrumentation-dspy"),
    "genai-dspy": Way(
        "genai-dspy (official)", _genai_dspy, "opentelemetry-instrumentation-genai-dspy"
    ),
    "mlflow": Way("mlflow autolog", _mlflow_autolog, "mlflow"),
    "ours": Way("ours", _ours()),
    "ours-no-content": Way("ours, NO_CONTENT", _ours(content=False)),
    "ours-sampled-out": Way("ours, sampled out", _ours(ratio=0.0)),
    "ours-tenth": Way("ours, 10 % sampled", _ours(ratio=0.1)),
}


def available(names: Sequence[str]) -> list[str]:
    """Select the ways that can be installed here."""
    return [name for name in names if WAYS[name].installed_version is not None]
