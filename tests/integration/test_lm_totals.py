# Copyright The opentelemetry-instrumentation-dspy Authors
# SPDX-License-Identifier: Apache-2.0
"""The tokens and the cost of a trace in MLflow are the sums of those of its spans."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from typing import Any

import dspy
import pytest

from mlflow_bridge._export.contract import Sent
from mlflow_bridge._export.exporter import MLflowSpanExporter
from tests.integration.stored import traces_by
from tests.support.dspy_spans import Recorder, lm_attributes
from tests.support.fake_openai import FakeOpenAI, Reply, Usage
from tests.support.lms import served
from tests.support.traced import Traced, uninstrument

pytest.importorskip("mlflow", reason="needs the extra mlflow")

pytestmark = pytest.mark.integration


@pytest.fixture
def traced() -> Iterator[Traced]:
    yield Traced()
    uninstrument()


@pytest.fixture
def server() -> Iterator[FakeOpenAI]:
    with FakeOpenAI() as running:
        yield running


class Judged(dspy.LM):
    """An LM that has its answer judged by another one, which costs more."""

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        result = super().__call__(*args, **kwargs)
        self.judge("is it true?")
        return result


class Program(dspy.Module):
    """Embeds, asks an LM twice in threads, and another one, whose answer is judged."""

    def __init__(self, server: FakeOpenAI) -> None:
        super().__init__()
        address = {"api_base": server.base_url, "api_key": "test"}
        self.embed = dspy.Embedder("openai/text-embedding-3-small", caching=False, **address)
        self.lm = served(server)
        self.judged = Judged("openai/gpt-4o-mini", cache=False, **address)
        self.judged.judge = served(server, "openai/gpt-4o")

    def forward(self) -> None:
        self.embed(["one", "two"])
        executor = dspy.Parallel(num_threads=2, disable_progress_bar=True)
        executor([(self.lm, {"prompt": "one"}), (self.lm, {"prompt": "two"})])
        self.judged("three")


def stored(traced: Traced, store_uri: str) -> list[Any]:
    exporter = MLflowSpanExporter(store_uri)
    assert exporter.deliver(traced.spans) == Sent(len(traced.spans))
    return traces_by(exporter)


def total(traced: Traced, name: str) -> Any:
    return sum((span.attributes or {}).get(name, 0) for span in traced.spans)


def test_unknown_cost_is_left_to_mlflow_without_a_trip_to_the_network(
    store_uri: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("LITELLM_LOCAL_MODEL_COST_MAP", raising=False)
    exporter = MLflowSpanExporter(store_uri)
    span = Recorder().one("chat", lm_attributes(dspy__lm__cost__total=None))
    assert exporter.deliver([span]) == Sent(1)
    assert "LITELLM_LOCAL_MODEL_COST_MAP" not in os.environ
    [trace] = traces_by(exporter)
    assert trace.info.cost is not None
    assert trace.info.cost["total_cost"] > 0


def test_the_sums_of_a_trace(traced: Traced, server: FakeOpenAI, store_uri: str) -> None:
    for number in range(4):
        usage = Usage(1000 + number, 500 + number, cached=100)
        server.reply_with(Reply("yes", usage=usage))
    Program(server)()
    (trace,) = stored(traced, store_uri)
    usage = trace.info.token_usage or {}
    assert usage["input_tokens"] == total(traced, "gen_ai.usage.input_tokens") == 4008
    assert usage["output_tokens"] == total(traced, "gen_ai.usage.output_tokens") == 2006
    assert usage["cache_read_input_tokens"] == 400
    cost = (trace.info.cost or {})["total_cost"]
    assert cost == pytest.approx(total(traced, "dspy.lm.cost.total"))
    assert cost > 0


def test_a_model_of_ones_own_costs_nothing(
    traced: Traced, server: FakeOpenAI, store_uri: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    server.reply_with(Reply("yes", usage=Usage(1000, 500)))
    served(server, "hosted_vllm/deepseek-ai/DeepSeek-R1")("hello")
    # As on a server without litellm, where MLflow asks a price list of its own.
    monkeypatch.setitem(sys.modules, "litellm", None)
    (trace,) = stored(traced, store_uri)
    assert (trace.info.token_usage or {})["total_tokens"] == 1500
    assert (trace.info.cost or {}).get("total_cost", 0) == 0
