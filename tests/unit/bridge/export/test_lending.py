# Copyright The opentelemetry-instrumentation-dspy Authors
# SPDX-License-Identifier: Apache-2.0
"""Values that a root without any shows in MLflow."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import pytest
from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.trace import Span, set_span_in_context

from mlflow_bridge._export import lending
from mlflow_bridge._export.lending import Lending
from mlflow_bridge._export.mapping.span import SpanMapper
from mlflow_bridge._spans.lent_values import lent_to, with_lent_values
from mlflow_bridge._spans.otlp_json.decoder import spans_in
from mlflow_bridge._spans.otlp_json.encoder import line_of
from tests.support.dspy_spans import SCOPE, json_of, lm_attributes
from tests.support.memory import span_memory
from tests.unit.bridge.export.mapped_spans import attributes_of

INPUTS, OUTPUTS = "mlflow.spanInputs", "mlflow.spanOutputs"
Values = tuple[Any, Any]


def module(question: str, answer: str | None = None, **more: Any) -> dict[str, Any]:
    attributes = {
        "dspy.operation": "module",
        "dspy.module.input": json_of({"question": question}),
        **more,
    }
    if answer is not None:
        attributes["dspy.module.output"] = json_of({"answer": answer})
    return attributes


class Program:
    """Makes spans of DSPy and of a web framework, at times that a test gives."""

    def __init__(self) -> None:
        self.provider, self._memory = span_memory()
        self._now = 1_000
        self.lending = Lending()

    def start(
        self, name: str = "GET /ask", above: Span | None = None, scope: str = "web", **options: Any
    ) -> Span:
        self._now += 10
        context = None if above is None else set_span_in_context(above)
        tracer = self.provider.get_tracer(scope)
        return tracer.start_span(name, context, start_time=self._now, **options)

    def dspy(self, above: Span | None, attributes: Mapping[str, Any]) -> Span:
        return self.start("dspy", above, SCOPE, attributes=attributes)

    def end(self, *spans: Span) -> None:
        for span in spans:
            self._now += 10
            span.end(self._now)

    def call(self, above: Span | None, attributes: Mapping[str, Any]) -> None:
        self.end(self.dspy(above, attributes))

    def ended(self) -> Sequence[ReadableSpan]:
        spans = self._memory.get_finished_spans()
        self._memory.clear()
        return spans

    def values_of_last(self) -> Values:
        """What MLflow shows of the span that ended last."""
        spans = self.ended()
        for span in spans:
            self.lending.note(span)
        return values_of(spans[-1])


def values_of(span: ReadableSpan) -> Values:
    shown = attributes_of(span)
    return shown.get(INPUTS), shown.get(OUTPUTS)


@pytest.fixture
def program() -> Program:
    return Program()


def test_a_root_without_values_shows_those_of_the_program_below_it(program: Program) -> None:
    root = program.start()
    outer = program.dspy(root, module("hi", "fine"))
    inner = program.dspy(outer, module("deep", "deep"))
    program.call(inner, lm_attributes())
    program.end(inner, outer, root)
    assert program.values_of_last() == ({"question": "hi"}, {"answer": "fine"})


def test_the_ended_span_itself_gets_no_attribute(program: Program) -> None:
    root = program.start()
    program.call(root, module("hi", "fine"))
    program.end(root)
    spans = program.ended()
    for span in spans:
        program.lending.note(span)
    assert dict(spans[-1].attributes or {}) == {}


EXAMPLE = {
    "dspy.operation": "example",
    "dspy.example.input": json_of({"question": "hi", "answer": "fine"}),
}


def test_the_trace_of_an_example_shows_the_values_of_its_program(program: Program) -> None:
    root = program.dspy(None, {**EXAMPLE, "dspy.evaluate.trace_id": "5b" * 16})
    program.call(root, module("hi", "so-so"))
    metric = program.dspy(root, {"dspy.operation": "metric", "dspy.metric.input": "{}"})
    program.call(metric, module("judge", "no"))
    program.end(metric, root)
    assert program.values_of_last() == ({"question": "hi"}, {"answer": "so-so"})


def test_an_example_whose_program_makes_no_span_shows_its_own_values(program: Program) -> None:
    root = program.dspy(None, {**EXAMPLE, "dspy.evaluate.trace_id": "5b" * 16})
    program.call(root, {"dspy.operation": "metric", "dspy.metric.input": json_of({"a": 1})})
    program.end(root)
    assert program.values_of_last() == ({"question": "hi", "answer": "fine"}, None)


def test_an_example_inside_of_a_trace_keeps_its_own_values(program: Program) -> None:
    evaluation = program.dspy(None, {"dspy.operation": "evaluate"})
    example = program.dspy(evaluation, EXAMPLE)
    program.call(example, module("hi", "so-so"))
    program.end(example)
    assert program.values_of_last() == ({"question": "hi", "answer": "fine"}, None)


def test_spans_without_values_in_between_change_nothing(program: Program) -> None:
    root = program.start()
    handler = program.start("handler", root)
    program.call(handler, module("hi", "fine"))
    program.end(handler, root)
    assert program.values_of_last() == ({"question": "hi"}, {"answer": "fine"})


def test_a_root_with_a_value_keeps_its_own(program: Program) -> None:
    root = program.start(attributes={"input.value": "mine"})
    program.call(root, module("hi", "fine"))
    program.end(root)
    assert program.values_of_last() == ({"input": "mine"}, None)


def test_a_program_that_failed_is_not_lent_the_outputs_of_its_calls(program: Program) -> None:
    root = program.dspy(None, module("hi"))
    program.call(root, module("deep", "deep"))
    program.end(root)
    assert program.values_of_last() == ({"question": "hi"}, None)


def test_what_the_program_does_not_record_is_not_lent(program: Program) -> None:
    root = program.start()
    outer = program.dspy(root, {"dspy.operation": "module"})
    program.call(outer, lm_attributes())
    program.end(outer, root)
    assert program.values_of_last() == (None, None)


def test_calls_one_after_the_other_give_the_first_inputs_and_the_last_outputs(
    program: Program,
) -> None:
    root = program.start()
    for question in ("first", "second", "third"):
        program.call(root, module(question, f"to {question}"))
    program.end(root)
    assert program.values_of_last() == ({"question": "first"}, {"answer": "to third"})


def test_calls_at_the_same_time_give_lists_in_the_order_of_their_start(program: Program) -> None:
    root = program.start()
    first, second = (program.dspy(root, module(text, text * 2)) for text in "ab")
    program.end(second, first, root)
    assert program.values_of_last() == (
        {"inputs": [{"question": "a"}, {"question": "b"}]},
        [{"answer": "aa"}, {"answer": "bb"}],
    )


@pytest.mark.parametrize("below_a_request", [False, True])
def test_a_parallel_run_gives_lists_whether_its_calls_overlap_or_not(
    program: Program, below_a_request: bool
) -> None:
    root = program.start() if below_a_request else None
    parallel = program.dspy(root, {"dspy.operation": "parallel"})
    for text in "ab":
        program.call(parallel, module(text, text * 2))
    program.end(parallel, *([root] if root else []))
    assert program.values_of_last() == (
        {"inputs": [{"question": "a"}, {"question": "b"}]},
        [{"answer": "aa"}, {"answer": "bb"}],
    )


def test_a_stream_shows_the_values_of_its_program(program: Program) -> None:
    stream = program.dspy(None, {"dspy.operation": "stream"})
    program.call(stream, module("hi", "fine"))
    program.end(stream)
    assert program.values_of_last() == ({"question": "hi"}, {"answer": "fine"})


def test_programs_take_precedence_over_single_calls_beside_them(program: Program) -> None:
    root = program.start()
    embedding = {"dspy.operation": "embedding", "dspy.embedder.input": json_of(["hi"])}
    program.call(root, embedding)
    program.call(root, module("hi", "fine"))
    program.call(root, lm_attributes())
    program.end(root)
    assert program.values_of_last() == ({"question": "hi"}, {"answer": "fine"})


def test_a_chat_alone_is_shown_as_a_chat(program: Program) -> None:
    root = program.start()
    program.call(root, lm_attributes())
    program.end(root)
    spans = program.ended()
    for span in spans:
        program.lending.note(span)
    chat, shown = (attributes_of(span) for span in spans)
    names = (INPUTS, OUTPUTS, "mlflow.message.format")
    assert [shown[name] for name in names] == [chat[name] for name in names]


def test_a_span_of_mlflow_without_values_is_lent_them(program: Program) -> None:
    root = program.start(attributes={"mlflow.spanType": '"UNKNOWN"'})
    program.call(root, module("hi", "fine"))
    program.end(root)
    assert program.values_of_last() == ({"question": "hi"}, {"answer": "fine"})


def test_a_call_that_ends_after_a_span_in_between_counts(program: Program) -> None:
    root = program.start()
    handler = program.start("handler", root)
    call = program.dspy(handler, module("hi", "fine"))
    program.end(handler, call, root)
    assert program.values_of_last() == ({"question": "hi"}, {"answer": "fine"})


def test_roots_of_one_trace_keep_their_own_programs(program: Program) -> None:
    caller = program.start()
    remote = [program.start(f"GET /{text}", caller) for text in "ab"]
    for span, text in zip(remote, "ab", strict=True):
        program.call(span, module(text, text))
    program.end(*remote)
    spans = program.ended()
    for span in spans:
        is_root = span.name.startswith("GET")
        parent = span.parent
        if is_root and parent is not None:
            span._parent = type(parent)(  # pyright: ignore[reportPrivateUsage]
                parent.trace_id, parent.span_id, True, parent.trace_flags
            )
        program.lending.note(span)
    shown = [values_of(span) for span in spans if span.name.startswith("GET")]
    assert shown == [({"question": text}, {"answer": text}) for text in "ab"]


def test_a_span_may_be_given_twice(program: Program) -> None:
    parallel = program.dspy(None, {"dspy.operation": "parallel"})
    for text in "ab":
        program.call(parallel, module(text, text))
    program.end(parallel)
    spans = program.ended()
    for span in (*spans[:2], *spans, *spans):
        program.lending.note(span)
    assert values_of(spans[-1])[1] == [{"answer": "a"}, {"answer": "b"}]


def test_a_root_that_is_written_to_the_disk_keeps_the_values(program: Program) -> None:
    root = program.start(attributes={"http.route": "/ask"})
    program.call(root, module("hi", "fine"))
    program.end(root)
    spans = program.ended()
    for span in spans:
        program.lending.note(span)
    [read] = spans_in(line_of(with_lent_values(spans[-1:])))
    assert values_of(read) == ({"question": "hi"}, {"answer": "fine"})
    assert (read.attributes or {})["http.route"] == "/ask"


def test_a_long_row_of_calls_is_bounded(program: Program) -> None:
    parallel = program.dspy(None, {"dspy.operation": "parallel"})
    for index in range(100):
        program.call(parallel, module(str(index), str(index)))
    program.end(parallel)
    inputs, outputs = program.values_of_last()
    assert (len(inputs["inputs"]), len(outputs)) == (33, 33)
    assert (outputs[0], outputs[-2:]) == (
        {"answer": "0"},
        [{"answer": "99"}, "[... 68 more]"],
    )


def test_values_are_bounded_in_bytes(program: Program, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lending, "_MAX_TRACE_BYTES", 20_000)
    root = program.start()
    for index in range(20):
        program.call(root, module(str(index), "x" * 1_000))
    program.end(root)
    inputs, _ = program.values_of_last()
    assert inputs == {"question": "0"}


def test_nothing_is_remembered_of_traces_that_have_ended(program: Program) -> None:
    root = program.start()
    outer = program.dspy(root, module("hi", "fine"))
    program.call(outer, lm_attributes())
    program.end(outer, root)
    program.values_of_last()
    remembered = program.lending
    assert (remembered._size, len(remembered._traces)) == (0, 0)  # pyright: ignore[reportPrivateUsage]


def test_a_span_of_another_kind_of_object_is_left_alone(program: Program) -> None:
    program.lending.note(ReadableSpan("without ids"))
    assert lent_to(ReadableSpan("without ids")) == {}


HASH_TAG = "mlflow.traceTag.dspy.program.hash"


def test_a_root_of_a_web_framework_has_the_hash_of_its_program() -> None:
    program = Program()
    root = program.start()
    outer = program.dspy(root, module("q", "a", **{"dspy.program.hash": "outer"}))
    program.call(outer, module("q", "a", **{"dspy.program.hash": "inner"}))
    program.end(outer)
    program.call(root, module("q", "a", **{"dspy.program.hash": "second"}))
    program.end(root)
    for span in program.ended():
        program.lending.note(span)
        last = span
    assert attributes_of(last)[HASH_TAG] == "outer"


def test_a_root_with_values_of_its_own_has_the_hash_as_well() -> None:
    program = Program()
    root = program.start(attributes={INPUTS: json_of("q")})
    program.call(root, module("q", "a", **{"dspy.program.hash": "inner"}))
    program.end(root)
    for span in program.ended():
        program.lending.note(span)
        last = span
    assert attributes_of(last)[HASH_TAG] == "inner"
    assert attributes_of(last)[INPUTS] == "q"


def test_a_program_that_is_the_root_has_its_own_hash() -> None:
    program = Program()
    root = program.dspy(None, module("q", "a", **{"dspy.program.hash": "root"}))
    program.call(root, module("q", "a", **{"dspy.program.hash": "inner"}))
    program.end(root)
    spans = program.ended()
    for span in spans:
        program.lending.note(span)
    assert attributes_of(spans[-1])[HASH_TAG] == "root"
    assert HASH_TAG not in attributes_of(spans[0])
    off = SpanMapper(1000, program_tags=False).map(spans[-1]).span.attributes or {}
    assert HASH_TAG not in off
