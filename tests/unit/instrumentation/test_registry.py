# Copyright The opentelemetry-instrumentation-dspy Authors
# SPDX-License-Identifier: Apache-2.0
"""The registry, the constants and what is written are one and the same set of names."""

from __future__ import annotations

import importlib
import importlib.metadata
import pkgutil
from collections import Counter
from types import SimpleNamespace
from typing import Any

import dspy
import pytest
from packaging.version import Version

from opentelemetry.instrumentation.dspy import semconv
from opentelemetry.instrumentation.dspy._operations.services.model_names import _PROVIDERS
from tests.support.lms import answering
from tests.support.registry import ENTRIES, REGISTRY, faults_of
from tests.support.traced import Traced

_VALUE_SETS = {
    "dspy.operation": semconv.Operations,
}


def _constants() -> dict[str, str]:
    return {
        name: value
        for name, value in vars(semconv).items()
        if name.isupper() and isinstance(value, str) and name != "SCHEMA_URL"
    }


def _values(holder: type) -> set[str]:
    return {value for name, value in vars(holder).items() if name.isupper()}


def test_every_constant_is_registered() -> None:
    assert set(_constants().values()) - set(REGISTRY) == set()


def test_every_registered_name_has_a_constant() -> None:
    assert set(REGISTRY) - set(_constants().values()) == set()


def test_a_constant_is_named_like_its_value() -> None:
    assert {name: value for name, value in _constants().items() if name != _upper(value)} == {}


def _upper(value: str) -> str:
    return value.upper().replace(".", "_")


def test_no_name_is_registered_twice() -> None:
    counts = Counter(entry.name for entry in ENTRIES)
    assert [name for name, count in counts.items() if count > 1] == []


@pytest.mark.parametrize("name", _VALUE_SETS)
def test_values_agree_with_the_registry(name: str) -> None:
    assert _values(_VALUE_SETS[name]) == REGISTRY[name].members


def test_types_are_those_that_a_span_can_have() -> None:
    assert {entry.type for entry in ENTRIES} == {"string", "int", "double", "boolean", "string[]"}


def test_the_exception_event_is_registered(traced: Traced) -> None:
    def fail() -> None:
        raise ValueError("no")

    with pytest.raises(ValueError, match="no"):
        dspy.Tool(fail)()
    (event,) = traced.span("execute_tool fail").events
    assert set(event.attributes or {}) - set(REGISTRY) == set()


def test_the_scope_says_which_versions_are_at_work(traced: Traced) -> None:
    with dspy.context(lm=answering()):
        dspy.Predict("question -> answer")(question="?")
    (scope,) = {span.instrumentation_scope for span in traced.spans}
    assert scope is not None
    assert scope.name == "opentelemetry.instrumentation.dspy"
    assert scope.schema_url == semconv.SCHEMA_URL
    assert scope.version
    assert dict(scope.attributes or {}) == {"dspy.version": dspy.__version__}


@pytest.mark.parametrize(
    ("attributes", "fault"),
    [
        ({}, "dspy.operation is missing"),
        ({"dspy.operation": "made up"}, "registered are"),
        ({"dspy.operation": "lm", "dspy.invented": 1}, "is not registered"),
        ({"dspy.operation": "lm", "dspy.lm.call.count": True}, "registered as int"),
        ({"dspy.operation": "lm", "dspy.lm.cost.total": 1}, "registered as double"),
        ({"dspy.operation": "lm", "dspy.truncated": ["x"]}, "registered as string"),
        ({"dspy.operation": "lm", "dspy.module.input": '{"a": NaN}'}, "is not JSON"),
        ({"dspy.operation": "lm", "dspy.module.input": '{"a": '}, "is not JSON"),
        ({"dspy.operation": "lm", "gen_ai.tool.name": "\ud800"}, "cannot be encoded"),
    ],
)
def test_the_check_itself_finds(attributes: dict[str, Any], fault: str) -> None:
    span = SimpleNamespace(
        name="x",
        attributes=attributes,
        events=(),
        status=SimpleNamespace(description=None),
        instrumentation_scope=SimpleNamespace(attributes={}),
    )
    assert any(fault in found for found in faults_of(span))


# The attributes of the GenAI conventions in the release that the schema URL names.
_RELEASE = "1.41.0"
_OF_RELEASE = frozenset(
    {
        "agent.description",
        "agent.id",
        "agent.name",
        "agent.version",
        "conversation.id",
        "data_source.id",
        "embeddings.dimension.count",
        "evaluation.explanation",
        "evaluation.name",
        "evaluation.score.label",
        "evaluation.score.value",
        "input.messages",
        "operation.name",
        "output.messages",
        "output.type",
        "prompt.name",
        "provider.name",
        "request.choice.count",
        "request.encoding_formats",
        "request.frequency_penalty",
        "request.max_tokens",
        "request.model",
        "request.presence_penalty",
        "request.seed",
        "request.stop_sequences",
        "request.stream",
        "request.temperature",
        "request.top_k",
        "request.top_p",
        "response.finish_reasons",
        "response.id",
        "response.model",
        "response.time_to_first_chunk",
        "retrieval.documents",
        "retrieval.query.text",
        "system_instructions",
        "token.type",
        "tool.call.arguments",
        "tool.call.id",
        "tool.call.result",
        "tool.definitions",
        "tool.description",
        "tool.name",
        "tool.type",
        "usage.cache_creation.input_tokens",
        "usage.cache_read.input_tokens",
        "usage.input_tokens",
        "usage.output_tokens",
        "usage.reasoning.output_tokens",
        "workflow.name",
    }
)
_METRICS_OF_RELEASE = frozenset(
    {
        "gen_ai.client.operation.duration",
        "gen_ai.client.operation.time_to_first_chunk",
        "gen_ai.client.token.usage",
    }
)


def test_the_schema_url_is_that_of_the_release_of_the_names() -> None:
    assert f"https://opentelemetry.io/schemas/{_RELEASE}" == semconv.SCHEMA_URL
    names = {name for name in REGISTRY if name.startswith("gen_ai.")}
    metrics = {name for name in _values(semconv.MetricNames) if name.startswith("gen_ai.")}
    known = {f"gen_ai.{name}" for name in _OF_RELEASE} | _METRICS_OF_RELEASE
    assert (names | metrics) - known == _NEWER


def test_the_operations_are_those_of_the_release() -> None:
    assert _values(semconv.GenAIOperations) <= {
        "chat",
        "create_agent",
        "embeddings",
        "execute_tool",
        "generate_content",
        "invoke_agent",
        "invoke_workflow",
        "retrieval",
        "text_completion",
    }


# Named by the GenAI conventions, which are published apart by now, and used by
# opentelemetry-util-genai; the package of all conventions does not have them yet.
_NEWER = {
    "gen_ai.retrieval.top_k",
    "gen_ai.execute_tool.duration",
    "gen_ai.invoke_agent.duration",
    "gen_ai.invoke_workflow.duration",
}


def _published(*packages: Any) -> set[str]:
    names: set[str] = set()
    for package in packages:
        for module in pkgutil.iter_modules(package.__path__):
            constants = vars(importlib.import_module(f"{package.__name__}.{module.name}"))
            names |= {value for name, value in constants.items() if name.isupper()}
    return names


@pytest.mark.skipif(
    Version(importlib.metadata.version("opentelemetry-semantic-conventions")) < Version("0.61b0"),
    reason="opentelemetry-semantic-conventions < 0.61b0 (1.40) has no names of today",
)
def test_names_that_are_not_dspys_are_those_of_the_conventions() -> None:
    published = _published(
        importlib.import_module("opentelemetry.semconv.attributes"),
        importlib.import_module("opentelemetry.semconv._incubating.attributes"),
        importlib.import_module("opentelemetry.semconv._incubating.metrics"),
    )
    names = {*REGISTRY, *_values(semconv.MetricNames)}
    theirs = {name for name in names if not name.startswith("dspy.")}
    assert theirs - published - _NEWER == set()
    assert theirs >= _NEWER


def test_values_that_are_not_dspys_are_those_of_the_conventions() -> None:
    names = importlib.import_module(
        "opentelemetry.semconv._incubating.attributes.gen_ai_attributes"
    )
    operations = {member.value for member in names.GenAiOperationNameValues}
    providers = {member.value for member in names.GenAiProviderNameValues}
    known = {"retrieval", "invoke_workflow"}  # of later releases than the oldest one
    assert _values(semconv.GenAIOperations) - operations <= known
    assert set(_PROVIDERS.values()) - providers == set()
    assert _values(semconv.TokenTypes) == {
        member.value for member in names.GenAiTokenTypeValues if member.value in ("input", "output")
    }
