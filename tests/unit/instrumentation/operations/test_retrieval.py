# Copyright The opentelemetry-instrumentation-dspy Authors
# SPDX-License-Identifier: Apache-2.0
"""Calls of retrievers."""

from __future__ import annotations

import json
import pickle
from typing import Any
from urllib.parse import parse_qs, urlsplit

import dspy
import numpy as np
import pytest
from dspy.dsp.colbertv2 import ColBERTv2RetrieverLocal
from dspy.dsp.utils import dotdict
from dspy.predict.knn import KNN
from dspy.retrievers import Embeddings
from dspy.retrievers.retrieve import Retrieve

from opentelemetry.instrumentation.dspy._operations.retrieval import documents_of
from tests.support.lms import DSPY, Version
from tests.support.loopback import HttpReply, HttpRequest, LoopbackServer
from tests.support.span_tree import assert_one_tree
from tests.support.traced import Traced, everything_in, uninstrument

pytestmark = pytest.mark.surface("Retrieve")

RETRIEVERS = (Retrieve, Embeddings, dspy.ColBERTv2, ColBERTv2RetrieverLocal, KNN)
PASSAGES = [
    dotdict({"long_text": "blue whales", "pid": 7, "score": 0.9}),
    dotdict({"long_text": "grey whales", "pid": 3, "score": 0.5}),
]


def each(traced: Traced, name: str) -> list[Any]:
    """One attribute of all spans in the order of their end; None where a span lacks it."""
    return [(span.attributes or {}).get(name) for span in traced.spans]


def letters(texts: list[str]) -> Any:
    counts = [[text.count("a") + 0.1, text.count("b") + 0.1] for text in texts]
    return np.array(counts, dtype=np.float32)


def embeddings(kind: type[Any] = Embeddings, k: int = 2) -> Any:
    return kind(["aaa", "bbb", "aab"], dspy.Embedder(letters, caching=False), k=k)


class Answering(Retrieve):
    """A retriever of the program's own, in the way DSPy's are made."""

    def forward(self, query: str, k: int | None = None, **kwargs: Any) -> Any:
        return PASSAGES[: k or self.k]


class Program(dspy.Module):
    def __init__(self, retriever: Any) -> None:
        super().__init__()
        self.retriever = retriever

    def forward(self, question: str) -> Any:
        return self.retriever(question)


def test_embeddings(traced: Traced) -> None:
    retriever = embeddings()
    traced.clear()
    result = Program(retriever)(question="aaaa")
    assert result.passages == ["aaa", "aab"]
    assert_one_tree(traced.spans)
    assert traced.kinds() == (
        "invoke_workflow Program [INTERNAL]\n"
        "└─ retrieval Embeddings [CLIENT]\n"
        "   └─ embeddings letters [CLIENT]"
    )
    attributes = traced.attributes("retrieval Embeddings")
    documents = json.loads(attributes.pop("gen_ai.retrieval.documents"))
    assert [(found["content"], found["id"]) for found in documents] == [("aaa", "0"), ("aab", "2")]
    if Version("3.1") <= DSPY:  # earlier releases have no scores
        assert documents[0]["score"] > documents[1]["score"] > 0
    assert attributes == {
        "dspy.operation": "retrieval",
        "gen_ai.operation.name": "retrieval",
        "dspy.retrieval.type": "Embeddings",
        "dspy.retrieval.document.count": 2,
        "gen_ai.retrieval.top_k": 2,
        "gen_ai.retrieval.query.text": "aaaa",
    }


@pytest.mark.skipif(not hasattr(dspy.retrievers, "EmbeddingsWithScores"), reason="not in this dspy")
def test_embeddings_with_scores(traced: Traced) -> None:
    result = embeddings(dspy.retrievers.EmbeddingsWithScores)("aaaa")
    documents = traced.content("retrieval EmbeddingsWithScores", "gen_ai.retrieval.documents")
    assert [document["score"] for document in documents] == pytest.approx(result.scores)
    assert [document["id"] for document in documents] == [str(index) for index in result.indices]


def test_retrieve_through_the_configured_retriever(traced: Traced) -> None:
    with dspy.context(rm=Answering()):
        result: Any = Retrieve(k=1)("whales")
    assert result.passages == ["blue whales"]
    assert traced.tree() == "retrieval Retrieve\n└─ retrieval Answering"
    outer, inner = traced.attributes("retrieval Retrieve"), traced.attributes("retrieval Answering")
    assert outer["gen_ai.retrieval.top_k"] == inner["gen_ai.retrieval.top_k"] == 1
    assert outer["gen_ai.retrieval.documents"] == '[{"content":"blue whales"}]'
    assert json.loads(inner["gen_ai.retrieval.documents"]) == [
        {"content": "blue whales", "id": "7", "score": 0.9}
    ]


def test_a_function_as_configured_retriever(traced: Traced) -> None:
    with dspy.context(rm=lambda query, k: PASSAGES[:k]):
        Retrieve(k=2)(query="whales")
    assert traced.names() == ["retrieval Retrieve"]
    assert traced.attributes("retrieval Retrieve")["gen_ai.retrieval.query.text"] == "whales"


def test_no_retriever_configured(traced: Traced) -> None:
    with pytest.raises(AssertionError, match="No RM is loaded"):
        Retrieve()("whales")
    assert traced.tree() == "retrieval Retrieve ERROR(AssertionError)"
    assert "dspy.retrieval.document.count" not in traced.attributes("retrieval Retrieve")


@pytest.mark.parametrize(
    ("arguments", "top_k"), [(((), {}), 3), (((1,), {}), 1), (((), {"k": 2}), 2)]
)
def test_how_many(traced: Traced, arguments: Any, top_k: int) -> None:
    positional, named = arguments
    Answering(k=3)("whales", *positional, **named)
    assert traced.attributes("retrieval Answering")["gen_ai.retrieval.top_k"] == top_k


def search(request: HttpRequest) -> HttpReply:
    query = parse_qs(urlsplit(request.path).query)
    found = [
        {"text": f"{query['query'][0]} {number}", "pid": number, "rank": number, "score": 9.5}
        for number in range(int(query["k"][0]))
    ]
    return HttpReply(
        200, {"Content-Type": "application/json"}, json.dumps({"topk": found}).encode()
    )


def test_colbert(traced: Traced) -> None:
    with LoopbackServer(search) as server:
        host, port = urlsplit(server.url).hostname, urlsplit(server.url).port
        colbert = dspy.ColBERTv2(url=f"http://user:secret-password@{host}", port=port)
        assert len(colbert("whales", k=2)) == 2
        assert len(colbert("sharks", simplify=True)) == 10
    assert each(traced, "gen_ai.retrieval.top_k") == [2, 10]
    assert each(traced, "server.address") == [host] * 2
    assert each(traced, "server.port") == [port] * 2
    first, second = each(traced, "gen_ai.retrieval.documents")
    assert json.loads(first) == [
        {"content": "whales 0", "id": "0", "score": 9.5},
        {"content": "whales 1", "id": "1", "score": 9.5},
    ]
    assert json.loads(second)[0] == {"content": "sharks 0"}
    assert "secret-password" not in everything_in(traced.spans)


def test_colbert_in_process(traced: Traced) -> None:
    class Local(ColBERTv2RetrieverLocal):
        def __init__(self) -> None:
            pass

        def forward(self, query: str, k: int = 7, **kwargs: Any) -> Any:
            return PASSAGES

    Local()("whales")
    attributes = traced.attributes("retrieval Local")
    assert attributes["gen_ai.retrieval.top_k"] == 7
    assert attributes["dspy.retrieval.document.count"] == 2


def test_nearest_examples(traced: Traced) -> None:
    examples = [
        dspy.Example(question=text, text="t", answer=1).with_inputs("question")
        for text in ("aaa", "bbb")
    ]
    knn = KNN(1, examples, dspy.Embedder(letters, caching=False))
    traced.clear()
    assert knn(question="aa", query="none") == [examples[0]]
    assert traced.tree() == "retrieval KNN\n└─ embeddings letters"
    attributes = traced.attributes("retrieval KNN")
    assert json.loads(attributes["gen_ai.retrieval.query.text"]) == {
        "question": "aa",
        "query": "none",
    }
    assert json.loads(attributes["gen_ai.retrieval.documents"]) == [
        {"content": {"question": "aaa", "text": "t", "answer": 1}}
    ]
    assert attributes["gen_ai.retrieval.top_k"] == 1


@pytest.mark.parametrize(
    ("result", "documents"),
    [
        (None, []),
        ([], []),
        ("one text", [{"content": "one text"}]),
        (("a", "b"), [{"content": "a"}, {"content": "b"}]),
        ([{"text": "a", "id": "x"}], [{"content": "a", "id": "x"}]),
        ([{"page_content": "a", "metadata": {}}], [{"content": "a"}]),
        ([{"other": 1}], [{"content": {"other": 1}}]),
        ([dspy.Example(long_text="a", pid=4)], [{"content": "a", "id": "4"}]),
        (dspy.Prediction(passages=["a"], scores=[0.5]), [{"content": "a", "score": 0.5}]),
        (dspy.Prediction(docs=["a"], doc_ids=["x"]), [{"content": "a", "id": "x"}]),
        (dspy.Prediction(passages="a"), [{"content": "a"}]),
        (dspy.Prediction(answer="a"), [{"content": {"answer": "a"}}]),
        ([dspy.Prediction(passages=["a"]), dspy.Prediction(passages=["b"])], [
            {"content": "a"},
            {"content": "b"},
        ]),
    ],
)  # fmt: skip
def test_what_retrievers_return(result: Any, documents: list[dict[str, Any]]) -> None:
    assert documents_of(result) == documents


class DefinedBefore(Retrieve):
    def __call__(self, question: str) -> Any:
        return [f"found {question}"]


def test_a_subclass_with_a_call_of_its_own(traced: Traced) -> None:
    class DefinedAfter(Retrieve):
        def __call__(self, question: str) -> Any:
            return [f"found {question}"]

    class Delegating(Answering):
        def __call__(self, *args: Any, **kwargs: Any) -> Any:
            return super().__call__(*args, **kwargs)

    assert DefinedBefore()("it") == DefinedAfter()("it") == ["found it"]
    assert Delegating()("whales") == PASSAGES
    assert traced.names() == [
        "retrieval DefinedBefore",
        "retrieval DefinedAfter",
        "retrieval Delegating",
    ]
    assert each(traced, "gen_ai.retrieval.query.text") == ["it", "it", "whales"]
    assert each(traced, "dspy.retrieval.document.count") == [1, 1, 2]


async def test_an_async_retriever(traced: Traced) -> None:
    class Async(Retrieve):
        async def __call__(self, query: str) -> Any:
            return PASSAGES

    assert await Async()("whales") == PASSAGES
    assert traced.attributes("retrieval Async")["dspy.retrieval.document.count"] == 2


def test_the_callers_own_exception(traced: Traced) -> None:
    error = TimeoutError("index is slow")

    class Broken(Retrieve):
        def forward(self, *args: Any, **kwargs: Any) -> Any:
            raise error

    with pytest.raises(TimeoutError) as caught:
        Program(Broken())(question="whales")
    assert caught.value is error
    span = traced.span("retrieval Broken")
    assert span.status.description == "TimeoutError: index is slow"
    assert traced.tree() == (
        "invoke_workflow Program ERROR(TimeoutError)\n└─ retrieval Broken ERROR(TimeoutError)"
    )


def test_no_content(trace_with: Any) -> None:
    traced = trace_with(capture_content=False)

    class Echo(Retrieve):
        def forward(self, query: str, **kwargs: Any) -> Any:
            if query == "canary: raise":
                raise ValueError(query)
            return [query]

    Echo()("canary")
    with pytest.raises(ValueError, match="canary"):
        Echo()("canary: raise")
    assert each(traced, "dspy.retrieval.document.count") == [1, None]
    assert "canary" not in everything_in(traced.spans)


def test_one_direction_of_content(trace_with: Any) -> None:
    traced = trace_with(capture_outputs=False)
    Answering()("whales")
    attributes = traced.attributes("retrieval Answering")
    assert attributes["gen_ai.retrieval.query.text"] == "whales"
    assert "gen_ai.retrieval.documents" not in attributes


@pytest.mark.any_shape
def test_redaction(trace_with: Any) -> None:
    def redact(operation: str, field: str, value: Any) -> Any:
        return {"text": "[query]", "documents": ["[documents]"]}[field]

    traced = trace_with(redact=redact)
    Answering()("canary")
    attributes = traced.attributes("retrieval Answering")
    assert attributes["gen_ai.retrieval.query.text"] == "[query]"
    assert attributes["gen_ai.retrieval.documents"] == '["[documents]"]'


def test_a_query_that_is_no_text(traced: Traced) -> None:
    Answering()(query_or_queries=["a", "b"], query="b")
    Answering()(["a", "b"])
    assert each(traced, "gen_ai.retrieval.query.text") == ["b", '["a","b"]']


def test_the_classes_look_as_ever(trace_with: Any) -> None:
    original = vars(DefinedBefore)["__call__"]
    trace_with()
    assert DefinedBefore.__call__ is original
    assert pickle.loads(pickle.dumps(DefinedBefore(k=5))).k == 5


def test_uninstrumented_as_before(trace_with: Any) -> None:
    classes = (*RETRIEVERS, DefinedBefore, Answering)
    before = [dict(vars(cls)) for cls in classes]
    traced = trace_with()
    assert [dict(vars(cls)) for cls in classes] != before
    uninstrument()
    assert [dict(vars(cls)) for cls in classes] == before
    assert Answering()("whales") == PASSAGES
    assert traced.spans == []
