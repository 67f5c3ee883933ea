# Copyright The opentelemetry-instrumentation-dspy Authors
# SPDX-License-Identifier: Apache-2.0
"""Mapping of a span's inputs and outputs to the attributes that MLflow's UI shows."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final, cast

from mlflow_bridge._export.mapping.messages import chat_of, openai_tools
from mlflow_bridge._export.mapping.storable import (
    JsonText,
    Storable,
    json_text,
    parsed_json,
    storable,
)
from mlflow_bridge._export.mapping.summaries import summary_of
from mlflow_bridge._spans.names import CHAT_TOOLS, INPUTS, MESSAGE_FORMAT, OUTPUTS
from opentelemetry.instrumentation.dspy import semconv

_SYSTEM_INSTRUCTIONS: Final = "gen_ai.system_instructions"
_RETRIEVAL_QUERY: Final = "gen_ai.retrieval.query.text"
_RETRIEVAL_DOCUMENTS: Final = "gen_ai.retrieval.documents"
# OpenInference
_INPUT_VALUE: Final = "input.value"
_INPUT_MIME_TYPE: Final = "input.mime_type"
_OUTPUT_VALUE: Final = "output.value"
_OUTPUT_MIME_TYPE: Final = "output.mime_type"

# Attributes that hold JSON by definition, the most specific first.
_JSON_INPUTS: Final = (
    semconv.DSPY_MODULE_INPUT,
    semconv.DSPY_ADAPTER_INPUT,
    semconv.GEN_AI_TOOL_CALL_ARGUMENTS,
    semconv.DSPY_EMBEDDER_INPUT,
    semconv.DSPY_INTERPRETER_INPUT,
    semconv.DSPY_EXAMPLE_INPUT,
    semconv.DSPY_METRIC_INPUT,
)
_JSON_OUTPUTS: Final = (
    semconv.DSPY_MODULE_OUTPUT,
    semconv.DSPY_ADAPTER_OUTPUT,
    semconv.GEN_AI_TOOL_CALL_RESULT,
    semconv.DSPY_INTERPRETER_OUTPUT,
    semconv.DSPY_EVALUATE_OUTPUT,
)
CONTENT: Final = frozenset(
    {
        *_JSON_INPUTS,
        *_JSON_OUTPUTS,
        _RETRIEVAL_QUERY,
        _RETRIEVAL_DOCUMENTS,
        _INPUT_VALUE,
        _OUTPUT_VALUE,
        semconv.GEN_AI_INPUT_MESSAGES,
        semconv.GEN_AI_OUTPUT_MESSAGES,
        INPUTS,
        OUTPUTS,
    }
)
"""The attributes from which inputs and outputs are made."""
# Outputs of DSPy's agents and reasoning modules that are not the answer but the way to it.
_STEPS: Final = ("trajectory", "reasoning", "final_reasoning", "rationale")
_BEGINS_WITH_STEPS: Final = re.compile(rf'\s*{{\s*"(?:{"|".join(_STEPS)})"')
# The parameter that holds the content, for content that is the value of one parameter.
_PARAMETERS: Final = {
    semconv.DSPY_EMBEDDER_INPUT: "inputs",
    _INPUT_VALUE: "input",
}
_PARAMETER: Final = "inputs"
_REQUEST_PARAMETERS: Final = {
    semconv.GEN_AI_REQUEST_TEMPERATURE: "temperature",
    semconv.GEN_AI_REQUEST_TOP_P: "top_p",
    semconv.GEN_AI_REQUEST_TOP_K: "top_k",
    semconv.GEN_AI_REQUEST_MAX_TOKENS: "max_tokens",
    semconv.GEN_AI_REQUEST_SEED: "seed",
    semconv.GEN_AI_REQUEST_FREQUENCY_PENALTY: "frequency_penalty",
    semconv.GEN_AI_REQUEST_PRESENCE_PENALTY: "presence_penalty",
    semconv.GEN_AI_REQUEST_STOP_SEQUENCES: "stop",
    semconv.GEN_AI_REQUEST_CHOICE_COUNT: "n",
}


@dataclass(frozen=True, slots=True)
class ContentFields:
    """MLflow's attributes for a span's content, and the attributes that they replace."""

    fields: dict[str, Storable]
    consumed: frozenset[str]


def content_fields(source: Mapping[str, Any], limit: int, *, is_root: bool) -> ContentFields:
    """Inputs, outputs and tools of the span with these attributes; empty without content.

    The inputs of a root are a mapping, which MLflow's evaluation datasets require. Its outputs
    begin with the answer, since MLflow's list of traces shows their first characters.
    """
    draft = _Draft(source, limit)
    if INPUTS not in source and OUTPUTS not in source:
        draft.add_values()
        draft.add_chat()
        draft.add_summary()
        if is_root:
            draft.name_inputs()
            draft.put_answer_first()
    draft.add_tools()
    return ContentFields(draft.fields, frozenset(draft.consumed))


class _Draft:
    """The fields of one span so far, and the attributes that they were made from."""

    def __init__(self, source: Mapping[str, Any], limit: int) -> None:
        self._source = source
        self._limit = limit
        self.fields: dict[str, Storable] = {}
        self.consumed: set[str] = set()
        self._parameter = _PARAMETER

    def add_values(self) -> None:
        for key in _JSON_INPUTS:
            self._add(INPUTS, key, is_json=True)
        if semconv.DSPY_EMBEDDER_INPUT in self._source:
            self.name_inputs()
        for key in _JSON_OUTPUTS:
            self._add(OUTPUTS, key, is_json=True)
        self._add_retrieval()
        self._add_of_stated_type(INPUTS, _INPUT_VALUE, _INPUT_MIME_TYPE)
        self._add_of_stated_type(OUTPUTS, _OUTPUT_VALUE, _OUTPUT_MIME_TYPE)

    def add_chat(self) -> None:
        asked, answered = semconv.GEN_AI_INPUT_MESSAGES, semconv.GEN_AI_OUTPUT_MESSAGES
        if asked not in self._source and answered not in self._source:
            return
        chat = chat_of(
            parsed_json(self._source.get(asked)),
            parsed_json(self._source.get(answered)),
            system_instructions=parsed_json(self._source.get(_SYSTEM_INSTRUCTIONS)),
            parameters=self._request_parameters(),
            is_dspy=semconv.DSPY_OPERATION in self._source,
        )
        if chat.inputs is not None and INPUTS not in self.fields:
            self.fields[INPUTS] = json_text(chat.inputs, self._limit)
            self.consumed |= {asked, _SYSTEM_INSTRUCTIONS}
        if chat.outputs is not None and OUTPUTS not in self.fields:
            self.fields[OUTPUTS] = json_text(chat.outputs, self._limit)
            self.consumed.add(answered)
        if self.consumed.isdisjoint((asked, answered)):
            return  # the fields of a module say the same as the messages of an agent
        self.fields[MESSAGE_FORMAT] = chat.message_format

    def add_summary(self) -> None:
        """Add figures if there are no values; the attributes stay, so that searches find them."""
        summary = summary_of(self._source)
        for field, figures in ((INPUTS, summary.inputs), (OUTPUTS, summary.outputs)):
            if figures is not None and field not in self.fields:
                self.fields[field] = json_text(figures, self._limit)

    def name_inputs(self) -> None:
        """Make a mapping of inputs that are the value of one parameter."""
        value = self.fields.get(INPUTS)
        if value is None or (isinstance(value, JsonText) and value.lstrip().startswith("{")):
            return
        given = parsed_json(value) if isinstance(value, JsonText) else value
        named = json_text({self._parameter: given}, self._limit)
        # A value that had to be cut to its limit may be a text again.
        if named.startswith("{"):
            self.fields[INPUTS] = named

    def put_answer_first(self) -> None:
        """Move the trajectory and the reasoning of a module behind its answer."""
        value = self.fields.get(OUTPUTS)
        if semconv.DSPY_MODULE_OUTPUT not in self.consumed or not isinstance(value, JsonText):
            return
        outputs = parsed_json(value) if _BEGINS_WITH_STEPS.match(value) else None
        if isinstance(outputs, dict):
            named = cast("dict[str, Any]", outputs)
            steps = {name: named.pop(name) for name in _STEPS if name in named}
            self.fields[OUTPUTS] = json_text({**named, **steps}, self._limit)

    def add_tools(self) -> None:
        definitions = parsed_json(self._source.get(semconv.GEN_AI_TOOL_DEFINITIONS))
        tools = openai_tools(definitions)
        if tools and CHAT_TOOLS not in self._source:
            self.fields[CHAT_TOOLS] = json_text(tools, self._limit)
            if len(tools) == len(definitions):
                self.consumed.add(semconv.GEN_AI_TOOL_DEFINITIONS)

    def _add(self, field: str, key: str, *, is_json: bool) -> None:
        if field in self.fields or key not in self._source:
            return
        value = _content(self._source[key], is_json=is_json, limit=self._limit)
        if value is not None:
            self.fields[field] = value
            if field == INPUTS:
                self._parameter = _PARAMETERS.get(key, _PARAMETER)
        self.consumed.add(key)

    def _add_of_stated_type(self, field: str, key: str, mime_type_key: str) -> None:
        mime_type = str(self._source.get(mime_type_key, ""))
        self._add(field, key, is_json=mime_type.startswith("application/json"))
        if key in self.consumed:
            self.consumed.add(mime_type_key)

    def _add_retrieval(self) -> None:
        query = self._source.get(_RETRIEVAL_QUERY)
        if query is not None and INPUTS not in self.fields:
            self.fields[INPUTS] = json_text({"query": query}, self._limit)
            self.consumed.add(_RETRIEVAL_QUERY)
        documents = parsed_json(self._source.get(_RETRIEVAL_DOCUMENTS))
        if isinstance(documents, list) and OUTPUTS not in self.fields:
            shown = [_document(item) for item in cast("list[Any]", documents)]
            self.fields[OUTPUTS] = json_text(shown, self._limit)
            self.consumed.add(_RETRIEVAL_DOCUMENTS)

    def _request_parameters(self) -> dict[str, Any]:
        return {
            name: self._source[key]
            for key, name in _REQUEST_PARAMETERS.items()
            if self._source.get(key) is not None
        }


def _content(value: Any, *, is_json: bool, limit: int) -> Storable | None:
    if not isinstance(value, str):
        return storable(value, limit)
    if value.lstrip()[:1] in ("{", "["):
        return storable(value, limit)
    document = parsed_json(value) if is_json else value
    # A text stays a text, even if it looks like JSON.
    return json_text(document, limit) if isinstance(document, str) else storable(document, limit)


def _document(item: Any) -> Any:
    """A retrieved document with the field names that MLflow's UI looks for."""
    if not isinstance(item, dict):
        return {"page_content": item if isinstance(item, str) else str(item), "metadata": {}}
    fields = dict(cast("dict[str, Any]", item))
    texts = [fields.pop(key, None) for key in ("page_content", "content", "text", "long_text")]
    text = next((text for text in texts if text is not None), "")
    identifier = fields.pop("id", None)
    return {"page_content": text, "metadata": fields, "id": identifier}
