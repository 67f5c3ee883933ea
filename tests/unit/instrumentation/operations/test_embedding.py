# Copyright The opentelemetry-instrumentation-dspy Authors
# SPDX-License-Identifier: Apache-2.0
"""Calls of ``dspy.Embedder``."""

from __future__ import annotations

import functools
import importlib
import sys
import traceback
from collections.abc import Callable
from typing import Any
from unittest import mock

import dspy
import numpy as np
import pytest
from dspy.clients import embedding as embedding_module
from packaging.version import Version

from tests.support.fake_openai import FakeOpenAI
from tests.support.faults import Status
from tests.support.lms import DSPY
from tests.support.traced import Traced, everything_in, uninstrument

pytestmark = pytest.mark.surface("Embedder")

KEY = "sk-test-key-of-no-value"
NAME = "embeddings text-embedding-3-small"
Run = Callable[..., Any]


def served(
    server: FakeOpenAI, model: str = "openai/text-embedding-3-small", **options: Any
) -> dspy.Embedder:
    """An embedder that talks to the fake server; uncached unless told otherwise."""
    defaults = {"api_base": server.base_url, "api_key": KEY, "caching": False}
    return dspy.Embedder(model, **{**defaults, **options})


def price() -> float:
    """What LiteLLM says that one token costs, in US dollars."""
    litellm = importlib.import_module("litellm")
    return litellm.model_cost["text-embedding-3-small"]["input_cost_per_token"]


def each(traced: Traced, name: str) -> list[Any]:
    """One attribute of all spans in the order of their end; None where a span lacks it."""
    return [(span.attributes or {}).get(name) for span in traced.spans]


def lengths(texts: list[str]) -> Any:
    return np.array([[len(text), 1.0] for text in texts], dtype=np.float32)


async def call_sync(embedder: dspy.Embedder, *args: Any, **kwargs: Any) -> Any:
    return embedder(*args, **kwargs)


async def call_async(embedder: dspy.Embedder, *args: Any, **kwargs: Any) -> Any:
    return await embedder.acall(*args, **kwargs)


@pytest.fixture(params=[call_sync, call_async])
def run(request: pytest.FixtureRequest) -> Run:
    return request.param


async def test_a_hosted_model(traced: Traced, server: FakeOpenAI, run: Run) -> None:
    vectors = await run(served(server, batch_size=2), ["one", "two", "three"])
    assert vectors.shape == (3, 8)
    assert len(server.requests) == 2
    assert traced.kinds() == f"{NAME} [CLIENT]"
    attributes = traced.attributes(NAME)
    assert isinstance(attributes.pop("server.port"), int)
    assert attributes.pop("dspy.lm.cost.total") == pytest.approx(3 * price())
    assert attributes == {
        "dspy.lm.cost.source": "litellm",
        "dspy.operation": "embedding",
        "gen_ai.operation.name": "embeddings",
        "gen_ai.provider.name": "openai",
        "gen_ai.request.model": "text-embedding-3-small",
        "gen_ai.response.model": "text-embedding-3-small",
        "gen_ai.usage.input_tokens": 3,
        "gen_ai.embeddings.dimension.count": 8,
        "server.address": "127.0.0.1",
        "dspy.embedder.batch_size": 2,
        "dspy.embedder.input.count": 3,
        "dspy.embedder.input": '["one","two","three"]',
    }


async def test_the_cache(traced: Traced, server: FakeOpenAI, run: Run) -> None:
    embedder = served(server, caching=True, batch_size=1)
    for texts in (["a"], ["a"], ["a", "b"]):
        await run(embedder, texts)
    assert each(traced, "dspy.embedder.cache.hit") == [False, True, False]
    # What the cache gave cost nothing, so tokens are those of the second text alone.
    assert each(traced, "gen_ai.usage.input_tokens") == [1, None, 1]
    assert each(traced, "dspy.lm.cost.total") == [price(), None, price()]
    model = "text-embedding-3-small"
    assert each(traced, "gen_ai.response.model") == [model, None, model]


async def test_a_model_without_a_price(traced: Traced, server: FakeOpenAI, run: Run) -> None:
    await run(served(server, model="openai/my-own-embeddings"), ["a"])
    attributes = traced.attributes("embeddings my-own-embeddings")
    assert attributes["gen_ai.usage.input_tokens"] == 1
    assert not [name for name in attributes if name.startswith("dspy.lm.cost")]


async def test_one_text_and_arguments_of_the_call(
    traced: Traced, server: FakeOpenAI, run: Run
) -> None:
    embedder = served(server, encoding_format="float")
    vector = await run(embedder, "one", 7, dimensions=4)
    assert vector.shape == (4,)
    attributes = traced.attributes(NAME)
    assert attributes["dspy.embedder.input"] == '["one"]'
    assert attributes["dspy.embedder.input.count"] == 1
    assert attributes["dspy.embedder.batch_size"] == 7
    assert attributes["gen_ai.embeddings.dimension.count"] == 4
    assert attributes["gen_ai.request.encoding_formats"] == ("float",)


@pytest.mark.parametrize(
    ("address", "server"),
    [
        ("https://models.example/v1", ("models.example", 443)),
        ("http://user:password@10.0.0.7:8080/v1?key=secret", ("10.0.0.7", 8080)),
        ("http://[::1]/v1", ("::1", 80)),
        ("models.example", (None, None)),
        ("http://models.example:port", (None, None)),
        (None, (None, None)),
    ],
)
def test_addresses(traced: Traced, address: Any, server: tuple[Any, Any]) -> None:
    with mock.patch.object(embedding_module, "_compute_embeddings", return_value=[[1.0]]):
        dspy.Embedder("openai/m", caching=False, api_base=address)("text")
    attributes = traced.attributes("embeddings m")
    assert (attributes.get("server.address"), attributes.get("server.port")) == server


class Model:
    def encode(self, texts: list[str]) -> Any:
        return lengths(texts)

    def __call__(self, texts: list[str]) -> Any:
        return lengths(texts)


@pytest.mark.parametrize(
    ("model", "name"),
    [
        (lengths, "lengths"),
        (Model().encode, "Model.encode"),
        (Model(), "Model"),
        (functools.partial(lengths), "lengths"),
        ("cohere/embed-english-v3.0", "embed-english-v3.0"),
        ("azure/text-embedding-3-small", "text-embedding-3-small"),
        ("huggingface/microsoft/codebert-base", "microsoft/codebert-base"),
        ("text-embedding-3-small", "text-embedding-3-small"),
        ("embed-english-v3.0", "embed-english-v3.0"),
    ],
)
def test_names_of_models(traced: Traced, model: Any, name: str) -> None:
    with mock.patch.object(embedding_module, "_compute_embeddings", return_value=[[1.0, 2.0]]):
        dspy.Embedder(model, caching=False)("text")
    attributes = traced.attributes(f"embeddings {name}")
    assert attributes["gen_ai.request.model"] == name
    prefix = model.partition("/")[0] if isinstance(model, str) and "/" in model else None
    known = {"azure": "azure.ai.openai"}
    expected = "openai" if model == "text-embedding-3-small" else known.get(str(prefix), prefix)
    assert attributes.get("gen_ai.provider.name") == expected


async def test_a_function_as_model(traced: Traced, run: Run) -> None:
    vectors = await run(dspy.Embedder(lengths, caching=False), ["a", "bb"])
    assert vectors.tolist() == [[1.0, 1.0], [2.0, 1.0]]
    assert traced.attributes("embeddings lengths") == {
        "dspy.operation": "embedding",
        "gen_ai.operation.name": "embeddings",
        "gen_ai.request.model": "lengths",
        "gen_ai.embeddings.dimension.count": 2,
        "dspy.embedder.batch_size": 200,
        "dspy.embedder.input.count": 2,
        "dspy.embedder.input": '["a","bb"]',
    }


async def test_a_model_that_raises(traced: Traced, run: Run) -> None:
    error = LookupError("no such word")

    def broken(texts: list[str]) -> Any:
        raise error

    with pytest.raises(LookupError) as caught:
        await run(dspy.Embedder(broken, caching=False), ["a"])
    assert caught.value is error
    span = traced.span("embeddings test_a_model_that_raises.<locals>.broken")
    assert span.status.description == "LookupError: no such word"
    assert "dspy.embedder.cache.hit" not in (span.attributes or {})


@pytest.mark.skipif(sys.version_info < (3, 11), reason="frames cannot be hidden")
async def test_an_error_does_not_show_us(traced: Traced, run: Run) -> None:
    def broken(texts: list[str]) -> Any:
        raise LookupError

    with pytest.raises(LookupError) as caught:
        await run(dspy.Embedder(broken), ["a"])
    files = {frame.filename for frame in traceback.extract_tb(caught.value.__traceback__)}
    assert [file for file in files if "instrumentation/dspy" in file and "/src/" in file] == []


async def test_bad_input(traced: Traced, run: Run) -> None:
    with pytest.raises(ValueError, match="must be strings"):
        await run(dspy.Embedder(lengths), [1])
    attributes = traced.attributes("embeddings lengths")
    assert attributes["error.type"] == "ValueError"
    assert "dspy.embedder.cache.hit" not in attributes


async def test_a_refusal_by_the_server(traced: Traced, server: FakeOpenAI, run: Run) -> None:
    server.fail_with(*[Status(401)] * 8)
    with pytest.raises(Exception) as caught:
        await run(served(server), ["a"])
    attributes = traced.attributes(NAME)
    error = type(caught.value)
    assert attributes["error.type"] == f"{error.__module__}.{error.__qualname__}"
    assert "gen_ai.usage.input_tokens" not in attributes


async def test_an_error_with_the_key_in_it(traced: Traced, run: Run) -> None:
    def picky(texts: list[str], api_key: str) -> Any:
        raise PermissionError(f"bad key {api_key}")

    with pytest.raises(PermissionError, match="bad key opaque-0123456789"):
        await run(dspy.Embedder(picky, caching=False, api_key="opaque-0123456789"), ["a"])
    assert "opaque-0123456789" not in everything_in(traced.spans)


async def test_no_content(trace_with: Any, server: FakeOpenAI, run: Run) -> None:
    traced = trace_with(capture_content=False)
    await run(served(server), ["canary"])
    failing = mock.Mock(side_effect=ValueError("canary in an error"))
    with pytest.raises(ValueError, match="canary in an error"):
        await run(dspy.Embedder(failing), ["canary"])
    attributes = traced.attributes(NAME)
    assert attributes["dspy.embedder.input.count"] == 1
    assert attributes["gen_ai.usage.input_tokens"] == 1
    assert "canary" not in everything_in(traced.spans)


async def test_the_key_is_on_no_span(traced: Traced, server: FakeOpenAI, run: Run) -> None:
    await run(served(server, extra_headers={"X-Tenant": "tenant-secret"}), ["a"])
    assert KEY not in everything_in(traced.spans)
    assert "tenant-secret" not in everything_in(traced.spans)


async def test_redaction(trace_with: Any, run: Run) -> None:
    seen: list[tuple[str, str]] = []

    def redact(operation: str, field: str, value: Any) -> Any:
        seen.append((operation, field))
        return ["hidden"]

    traced = trace_with(redact=redact)
    await run(dspy.Embedder(lengths), ["canary"])
    assert seen == [("embedding", "input")]
    assert traced.attributes("embeddings lengths")["dspy.embedder.input"] == '["hidden"]'


async def test_an_embedder_of_the_programs_own(traced: Traced, run: Run) -> None:
    class Delegating(dspy.Embedder):
        def __call__(self, *args: Any, **kwargs: Any) -> Any:
            return super().__call__(*args, **kwargs)

        async def acall(self, *args: Any, **kwargs: Any) -> Any:
            return await super().acall(*args, **kwargs)

    class Own(dspy.Embedder):
        def __init__(self) -> None:
            pass

        def __call__(self, inputs: Any) -> Any:
            return lengths(inputs)

        async def acall(self, inputs: Any) -> Any:
            return self(inputs)

    await run(Delegating(lengths), ["a"])
    assert (await run(Own(), ["a"])).shape == (1, 2)
    assert traced.names() == ["embeddings lengths", f"embeddings {Own.__qualname__}"]
    assert each(traced, "dspy.embedder.cache.hit") == [False, None]


def test_a_mocked_litellm(traced: Traced) -> None:
    litellm = pytest.importorskip("litellm")
    original = litellm.embedding
    response = litellm.EmbeddingResponse(
        model="mocked", data=[{"embedding": [1.0, 2.0, 3.0]}], usage={"prompt_tokens": 9}
    )
    with mock.patch("litellm.embedding", return_value=response) as mocked:
        vectors = dspy.Embedder("openai/mocked", caching=False)(["a"])
    assert vectors.tolist() == [[1.0, 2.0, 3.0]]
    mocked.assert_called_once_with(model="openai/mocked", input=["a"], caching=False)
    assert litellm.embedding is original
    assert traced.attributes("embeddings mocked")["gen_ai.usage.input_tokens"] == 9


@pytest.mark.skipif(Version("3.3") <= DSPY, reason="the module imports litellm only when needed")
def test_a_mocked_litellm_of_the_module(traced: Traced) -> None:
    litellm = pytest.importorskip("litellm")
    original = litellm.embedding
    response = litellm.EmbeddingResponse(data=[{"embedding": [1.0]}])
    with mock.patch("dspy.clients.embedding.litellm.embedding", return_value=response) as mocked:
        dspy.Embedder("openai/mocked", caching=False)(["a"])
    mocked.assert_called_once()
    assert litellm.embedding is original
    with mock.patch("dspy.clients.embedding.litellm.not_there", 1, create=True):
        assert litellm.not_there == 1
    assert not hasattr(litellm, "not_there")


def test_the_cache_has_the_same_keys(trace_with: Any, server: FakeOpenAI) -> None:
    embedder = served(server, caching=True)
    embedder(["same key"])
    trace_with()
    embedder(["same key"])
    uninstrument()
    embedder(["same key"])
    assert len(server.requests) == 1


def test_uninstrumented_as_before(trace_with: Any, server: FakeOpenAI) -> None:
    before = dict(vars(embedding_module)), dict(vars(dspy.Embedder))
    traced = trace_with()
    assert (dict(vars(embedding_module)), dict(vars(dspy.Embedder))) != before
    uninstrument()
    assert (dict(vars(embedding_module)), dict(vars(dspy.Embedder))) == before
    served(server)(["a"])
    assert traced.spans == []


def test_a_provider_that_is_named_beside_the_model(traced: Traced, server: FakeOpenAI) -> None:
    served(server, "my-own-embedder", custom_llm_provider="openai")("one")
    attributes = traced.attributes("embeddings my-own-embedder")
    assert attributes["gen_ai.provider.name"] == "openai"
    assert attributes["gen_ai.usage.input_tokens"] == 1
    assert "dspy.lm.cost.total" not in attributes  # its price is unknown
