# Copyright The opentelemetry-instrumentation-dspy Authors
# SPDX-License-Identifier: Apache-2.0
"""Calls of retrievers: ``dspy.Retrieve``, ``Embeddings``, ``ColBERTv2``, ``KNN`` and their
subclasses."""

from __future__ import annotations

import inspect
from collections.abc import Mapping, Sequence
from typing import Any, cast

import dspy
from opentelemetry.instrumentation.dspy import semconv
from opentelemetry.instrumentation.dspy._calls.call import (
    CLIENT,
    Attributes,
    Call,
    Operation,
    Runtime,
    SpanStart,
)
from opentelemetry.instrumentation.dspy._content.encoder import ContentEncoder
from opentelemetry.instrumentation.dspy._operations.evaluation.scores import as_number
from opentelemetry.instrumentation.dspy._operations.reading import instance_dict
from opentelemetry.instrumentation.dspy._operations.services.endpoint import (
    read_connection,
    without_credential,
    without_credentials,
)
from opentelemetry.instrumentation.dspy._patching.class_trees import ClassTreePatch
from opentelemetry.instrumentation.dspy._patching.points import PatchPoint

_RETRIEVERS = (
    ("dspy.retrievers.retrieve", "Retrieve"),
    ("dspy.retrievers.embeddings", "Embeddings"),
    ("dspy.dsp.colbertv2", "ColBERTv2"),
    ("dspy.dsp.colbertv2", "ColBERTv2RetrieverLocal"),
    ("dspy.predict.knn", "KNN"),
)

_QUERY_NAMES = ("query", "query_or_queries", "queries")
# Names of the parts of results, in DSPy's retrievers and in its documentation.
_LIST_NAMES = ("passages", "docs", "documents")
_ID_LIST_NAMES = ("indices", "doc_ids", "ids")
_CONTENT_NAMES = ("long_text", "text", "content", "page_content", "passage")
_ID_NAMES = ("id", "pid", "doc_id", "document_id")

_SCORED = len(("passages", "indices", "scores"))
_MISSING: Any = object()
_COUNT_NAMES = ("k", "n", "top_k", "num", "limit", "n_results", "num_results", "max_results")
_SOURCE_NAMES = (
    "data_source_id",
    "knowledge_base_id",
    "collection_name",
    "index_name",
    "weaviate_collection_name",
    "databricks_index_name",
    "table_name",
)


def patch_points(runtime: Runtime) -> Sequence[PatchPoint]:
    """The patch points of retrievals."""
    operation = RetrievalOperation(runtime)
    return [
        ClassTreePatch(
            module,
            retriever,
            {"__call__": operation},
            f"calls of {retriever} get no span",
            closure_on_root=True,
        )
        for module, retriever in _RETRIEVERS
    ]


class RetrievalOperation(Operation):
    """One search."""

    name = semconv.Operations.RETRIEVAL

    def __init__(self, runtime: Runtime) -> None:
        self._content = runtime.content
        self._settings = runtime.settings

    def start(self, call: Call) -> SpanStart:
        kind = type(call.instance).__name__
        attributes: Attributes = {
            semconv.DSPY_OPERATION: self.name,
            semconv.GEN_AI_OPERATION_NAME: semconv.GenAIOperations.RETRIEVAL,
            semconv.DSPY_RETRIEVAL_TYPE: kind,
        }
        return f"retrieval {kind}", attributes, CLIENT

    def inputs(self, call: Call, attributes: Attributes) -> None:
        connection = {"url": getattr(call.instance, "url", None)}
        attributes.update(read_connection(connection, self._content.secrets))
        top_k = _top_k(call)
        if top_k is not None:
            attributes[semconv.GEN_AI_RETRIEVAL_TOP_K] = top_k
        source = _data_source(call.instance)
        if source is not None:
            attributes[semconv.GEN_AI_DATA_SOURCE_ID] = without_credential("", source)
        if self._settings.records_inputs:
            query = _query(call)
            put = self._content.put_text if isinstance(query, str) else self._content.put
            put(attributes, semconv.GEN_AI_RETRIEVAL_QUERY_TEXT, self.name, query)
            if not isinstance(call.instance, dspy.KNN):  # whose arguments are the query
                _put_arguments(self._content, call, attributes)

    def outputs(self, call: Call, result: Any, attributes: Attributes) -> None:
        documents = documents_of(result)
        _put_scores(documents, call.state)
        attributes[semconv.DSPY_RETRIEVAL_DOCUMENT_COUNT] = len(documents)
        if self._settings.records_outputs:
            self._content.put(attributes, semconv.GEN_AI_RETRIEVAL_DOCUMENTS, self.name, documents)


def documents_of(result: Any) -> list[dict[str, Any]]:
    """The result of a retriever as ``{"id", "content", "score"}``, with the parts that it has.

    Takes a Prediction of parallel lists, or texts, records or Predictions, one or a list of them.
    An id is a text, as the conventions want it, and a score is a number.
    """
    if result is None:
        return []
    if isinstance(result, dspy.Prediction):
        return _documents_of_prediction(result)
    if not isinstance(result, (list, tuple)):
        return [_document(result)]
    documents: list[dict[str, Any]] = []
    for item in cast("Sequence[Any]", result):
        if isinstance(item, dspy.Prediction):
            documents += _documents_of_prediction(item)
        else:
            documents.append(_document(item))
    return documents


def _documents_of_prediction(prediction: Any) -> list[dict[str, Any]]:
    fields: dict[str, Any] = dict(prediction.items())
    passages = _first(fields, _LIST_NAMES)
    if not isinstance(passages, (list, tuple)):
        return [{"content": fields if passages is _MISSING else passages}]
    documents = [_document(passage) for passage in cast("Sequence[Any]", passages)]
    ids, scores = _first(fields, _ID_LIST_NAMES), fields.get("scores")
    for name, values in (("id", ids), ("score", scores)):
        if isinstance(values, (list, tuple)):
            for document, value in zip(documents, cast("Sequence[Any]", values), strict=False):
                _put(document, name, value)
    return documents


def _put(document: dict[str, Any], name: str, value: Any) -> None:
    if name == "score":
        score = as_number(value)
        if score is not None and not isinstance(value, bool):
            document[name] = score
    elif value is not None:
        document[name] = value if isinstance(value, str) else str(value)


def _put_scores(documents: list[dict[str, Any]], found: Any) -> None:
    """Add the scores of a search of ``Embeddings``, which leaves them out of its result.

    Args:
        documents: The documents in the result.
        found: Passages, indices and scores, as the batched search has returned them.
    """
    if not isinstance(found, tuple):
        return
    lists = cast("tuple[Any, ...]", found)
    if len(lists) != _SCORED or not isinstance(lists[-1], (list, tuple)):
        return
    scores = cast("Sequence[Any]", lists[-1])
    if len(scores) == len(documents):
        for document, score in zip(documents, scores, strict=True):
            if "score" not in document:
                _put(document, "score", score)


def _document(item: Any) -> dict[str, Any]:
    content_names = _CONTENT_NAMES
    if isinstance(item, dspy.Example):
        # The fields of an example are the program's, not a retriever's.
        content_names = _CONTENT_NAMES[:1]
        fields: Mapping[Any, Any] = dict(item.items())
    elif isinstance(item, Mapping):
        fields = cast("Mapping[Any, Any]", item)
    else:
        return {"content": item}
    content = _first(fields, content_names)
    if content is _MISSING:
        return {"content": item}
    document: dict[str, Any] = {"content": content}
    for name, names in (("id", _ID_NAMES), ("score", ("score",))):
        value = _first(fields, names)
        if value is not _MISSING:
            _put(document, name, value)
    return document


def _first(fields: Mapping[Any, Any], names: Sequence[str]) -> Any:
    return next((fields[name] for name in names if name in fields), _MISSING)


def _query(call: Call) -> Any:
    """The query; for a search by named fields, such as KNN's, these fields."""
    if isinstance(call.instance, dspy.KNN):
        return dict(call.kwargs)
    if call.args:
        return call.args[0]
    query = _first(call.kwargs, _QUERY_NAMES)
    return dict(call.kwargs) if query is _MISSING else query


def _put_arguments(content: ContentEncoder, call: Call, attributes: Attributes) -> None:
    """Record the arguments beside the query and the number of documents, such as filters."""
    given = {**_positional(call), **call.kwargs}
    known = {*_COUNT_NAMES, *_QUERY_NAMES}
    others = {name: value for name, value in given.items() if name not in known}
    others = without_credentials(others)
    if others:
        content.put(attributes, semconv.DSPY_RETRIEVAL_ARGUMENTS, RetrievalOperation.name, others)


def _positional(call: Call) -> dict[str, Any]:
    """The positional arguments after the query by name."""
    if len(call.args) <= 1:
        return {}
    kind: type[Any] = type(call.instance)  # type: ignore[reportUnknownVariableType]
    function = getattr(kind, "forward", kind.__call__)
    names = list(inspect.signature(function).parameters)[2:]
    return dict(zip(names, call.args[1:], strict=False))


def _top_k(call: Call) -> int | None:
    named = [call.kwargs.get(name) for name in _COUNT_NAMES]
    positional = call.args[1] if len(call.args) > 1 else None
    own = instance_dict(call.instance)
    for candidate in (*named, positional, *(own.get(name) for name in _COUNT_NAMES)):
        if _is_count(candidate):
            return candidate
    return _default_k(call.instance)


def _data_source(retriever: Any) -> str | None:
    """The collection, index or knowledge base of a retriever, by the names of its attributes."""
    own = instance_dict(retriever)
    for name in _SOURCE_NAMES:
        for form in (name, f"_{name}"):
            source = own.get(form)
            if isinstance(source, str) and source:
                return source
    return None


def _default_k(retriever: Any) -> int | None:
    kind: type[Any] = type(retriever)  # type: ignore[reportUnknownVariableType]
    function = getattr(kind, "forward", kind.__call__)
    parameter = inspect.signature(function).parameters.get("k")
    return parameter.default if parameter and _is_count(parameter.default) else None


def _is_count(candidate: Any) -> bool:
    return isinstance(candidate, int) and not isinstance(candidate, bool)
