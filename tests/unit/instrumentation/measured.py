# Copyright The opentelemetry-instrumentation-dspy Authors
# SPDX-License-Identifier: Apache-2.0
"""A meter provider of a test's own, and the programs that the tests of metrics run."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import dspy
import yaml
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader

from tests import ROOT

_REGISTRY = ROOT / "opentelemetry-instrumentation-dspy/semconv/registry"
REGISTERED: Mapping[str, Mapping[str, Any]] = {
    group["metric_name"]: group
    for group in yaml.safe_load((_REGISTRY / "metrics.yaml").read_text("utf-8"))["groups"]
}

DURATION = "gen_ai.client.operation.duration"
TOKENS = "gen_ai.client.token.usage"
LOOKUPS = "dspy.lm.cache.lookups"
MODULES = "dspy.module.duration"
ECHO = {"gen_ai.operation.name": "chat", "gen_ai.request.model": "echo"}
ECHO_ANSWERED = {**ECHO, "gen_ai.response.model": "echo-2025"}
SERVED = {
    "gen_ai.operation.name": "chat",
    "gen_ai.provider.name": "openai",
    "gen_ai.request.model": "gpt-4o-mini",
    "gen_ai.response.model": "gpt-4o-mini",
}


class Measured:
    """A meter provider of a test's own, and what was recorded with it."""

    def __init__(self) -> None:
        self._reader = InMemoryMetricReader()
        self.provider = MeterProvider([self._reader], shutdown_on_exit=False)

    def metrics(self) -> dict[str, Any]:
        data = self._reader.get_metrics_data()
        return {
            metric.name: metric
            for resource in (data.resource_metrics if data else [])
            for scope in resource.scope_metrics
            if scope.scope.name == "opentelemetry.instrumentation.dspy"
            for metric in scope.metrics
        }

    def points(self, name: str) -> list[Any]:
        metric = self.metrics().get(name)
        return list(metric.data.data_points) if metric else []

    def counts(self, name: str) -> dict[frozenset[tuple[str, Any]], int]:
        """Attributes -> how many values a histogram has, or the sum of a counter."""
        return {
            key(point.attributes): getattr(point, "count", None) or point.value
            for point in self.points(name)
        }

    def all_counts(self) -> dict[str, dict[frozenset[tuple[str, Any]], int]]:
        return {name: self.counts(name) for name in self.metrics()}

    def check(self) -> None:
        """Hold what was recorded against the registry."""
        for name, metric in self.metrics().items():
            registered = REGISTERED[name]
            assert metric.unit == registered["unit"]
            allowed = {entry["ref"] for entry in registered["attributes"]}
            required = {
                entry["ref"]
                for entry in registered["attributes"]
                if entry["requirement_level"] == "required"
            }
            for point in metric.data.data_points:
                assert required <= set(point.attributes) <= allowed

    def scope(self) -> Any:
        """The one instrumentation scope."""
        data = self._reader.get_metrics_data()
        assert data is not None
        (scope,) = (scope.scope for part in data.resource_metrics for scope in part.scope_metrics)
        return scope

    def tokens(self, model: str | None = None) -> dict[str, int]:
        """Input and output tokens, of one requested model alone if it is given."""
        return {
            point.attributes["gen_ai.token.type"]: point.sum
            for point in self.points(TOKENS)
            if model in (None, point.attributes["gen_ai.request.model"])
        }


def key(attributes: Mapping[str, Any]) -> frozenset[tuple[str, Any]]:
    return frozenset(attributes.items())


def search(query: str) -> str:
    return f"found {query}"


class Program(dspy.Module):
    """One call of everything that is measured, but an agent and an embedder."""

    def __init__(self) -> None:
        super().__init__()
        self.generate = dspy.ChainOfThought("question -> answer")
        self.search = dspy.Tool(search)

    def forward(self, question: str) -> Any:
        self.search(query=question)
        return self.generate(question=question)

    async def aforward(self, question: str) -> Any:
        await self.search.acall(query=question)
        return await self.generate.acall(question=question)


REASONED = "[[ ## reasoning ## ]]\nbecause\n\n[[ ## answer ## ]]\nblue\n\n[[ ## completed ## ]]"
