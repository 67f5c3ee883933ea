# Copyright The opentelemetry-instrumentation-dspy Authors
# SPDX-License-Identifier: Apache-2.0
"""``input_sanitizer`` and ``output_sanitizer``: what they take out is nowhere in the trace."""

from __future__ import annotations

import asyncio
import copy
import json
from typing import Any

import dspy
import pytest
from opentelemetry.sdk._logs import LoggerProvider
from opentelemetry.sdk._logs.export import SimpleLogRecordProcessor

from tests.support.agents import FINAL, QA, search
from tests.support.dspy_prompts import chat_text
from tests.support.lms import EchoLM
from tests.support.logged import MemoryExporter
from tests.support.traced import everything_in
from tests.unit.instrumentation.conftest import TelemetryLog, TraceWith

CANARY = "canary-4711-0815"
HIDDEN = "[REDACTED]"


class Ask(dspy.Signature):
    """Answer."""

    ssn: Any = dspy.InputField()
    question: str = dspy.InputField()
    answer: str = dspy.OutputField()


class Program(dspy.Module):
    def __init__(self) -> None:
        super().__init__()
        self.ask = dspy.Predict(Ask)
        self.read = dspy.Tool(lambda ssn: f"read {ssn}", name="read")

    def forward(self, ssn: Any, question: str) -> Any:
        self.read(ssn=ssn)
        return self.ask(ssn=ssn, question=question)

    async def aforward(self, ssn: Any, question: str) -> Any:
        await self.read.acall(ssn=ssn)
        return await self.ask.acall(ssn=ssn, question=question)


ECHO = EchoLM(chat_text(answer=f"It is {CANARY}."))


def drop_ssn(inputs: dict[str, Any]) -> dict[str, Any]:
    inputs.pop("ssn", None)
    return inputs


def mask_ssn(inputs: dict[str, Any]) -> dict[str, Any]:
    return {name: "***" if name == "ssn" else item for name, item in inputs.items()}


def run(asynchronous: bool = False, program: Any = None, **inputs: Any) -> Any:
    given = {"ssn": CANARY, "question": "who?", **inputs}
    program = program or Program()
    with dspy.context(lm=ECHO, adapter=dspy.ChatAdapter()):
        return asyncio.run(program.acall(**given)) if asynchronous else program(**given)


BOTH = pytest.mark.parametrize("asynchronous", [False, True], ids=["sync", "async"])
SANITIZER = pytest.mark.parametrize("sanitizer", [drop_ssn, mask_ssn])


@BOTH
@SANITIZER
def test_what_is_taken_out_of_inputs_is_nowhere_in_the_trace(
    trace_with: TraceWith, sanitizer: Any, asynchronous: bool
) -> None:
    traced = trace_with(input_sanitizer=sanitizer)
    assert run(asynchronous).answer == f"It is {CANARY}."
    assert CANARY not in everything_in(traced.spans)
    expected = {"question": "who?"} if sanitizer is drop_ssn else {"ssn": "***", "question": "who?"}
    assert traced.content("invoke_workflow Program", "dspy.module.input") == expected
    assert traced.content("Predict ask", "dspy.module.input") == expected
    fields = traced.content("ChatAdapter", "dspy.adapter.input")["inputs"]
    assert fields == expected
    [system, user] = traced.content("chat echo", "gen_ai.input.messages")
    assert HIDDEN in user["parts"][0]["content"]
    assert "who?" in user["parts"][0]["content"]
    assert system["role"] == "system"


@SANITIZER
def test_events(trace_with: TraceWith, sanitizer: Any) -> None:
    for mode in ("EVENT_ONLY", "SPAN_AND_EVENT"):
        exporter = MemoryExporter()
        provider = LoggerProvider(shutdown_on_exit=False)
        provider.add_log_record_processor(SimpleLogRecordProcessor(exporter))
        traced = trace_with(
            capture_content=mode, logger_provider=provider, input_sanitizer=sanitizer
        )
        run()
        records = [data.log_record for data in exporter.get_finished_logs()]
        recorded = "".join(repr((record.body, dict(record.attributes))) for record in records)
        assert CANARY not in recorded + everything_in(traced.spans)
        assert "who?" in recorded


def test_inputs_that_are_not_recorded_are_masked_in_what_is(trace_with: TraceWith) -> None:
    traced = trace_with(input_sanitizer=drop_ssn, capture_inputs=False)
    run()
    assert CANARY not in everything_in(traced.spans)
    assert "who?" not in everything_in(traced.spans)
    assert traced.content("invoke_workflow Program", "dspy.module.output") == {
        "answer": f"It is {HIDDEN}."
    }


def test_failures(trace_with: TraceWith) -> None:
    class Failing(dspy.Module):
        def forward(self, ssn: str) -> Any:
            raise LookupError(f"no {ssn}")

    traced = trace_with(input_sanitizer=drop_ssn)
    with pytest.raises(LookupError, match=CANARY):
        Failing()(ssn=CANARY)
    assert CANARY not in everything_in(traced.spans)
    assert f"no {HIDDEN}" in everything_in(traced.spans)


def test_what_is_taken_out_of_outputs(trace_with: TraceWith) -> None:
    class Outer(dspy.Module):
        def forward(self) -> Any:
            found = Finding()().code
            dspy.Tool(lambda text: {"text": text}, name="read")(text=f"of {found}")
            return dspy.Prediction(code=found, text=f"It is {found}.")

    class Finding(dspy.Module):
        def forward(self) -> Any:
            return dspy.Prediction(code=CANARY, kind="a")

    traced = trace_with(
        output_sanitizer=lambda outputs: {k: v for k, v in outputs.items() if k != "code"}
    )
    assert Outer()().code == CANARY
    assert CANARY not in everything_in(traced.spans)
    assert traced.content("Finding", "dspy.module.output") == {"kind": "a"}
    assert traced.content("invoke_workflow Outer", "dspy.module.output") == {
        "text": f"It is {HIDDEN}."
    }
    assert traced.content("execute_tool read", "gen_ai.tool.call.result") == {
        "text": f"of {HIDDEN}"
    }


def test_the_fields_that_an_adapter_has_parsed(trace_with: TraceWith) -> None:
    traced = trace_with(output_sanitizer=lambda outputs: {**outputs, "answer": "-"})
    assert run().answer == f"It is {CANARY}."
    assert traced.content("ChatAdapter", "dspy.adapter.output") == [{"answer": "-"}]
    assert traced.content("Predict ask", "dspy.module.output") == {"answer": "-"}


def test_each_span_whose_inputs_are_a_mapping(trace_with: TraceWith) -> None:
    seen: list[dict[str, Any]] = []
    trace_with(input_sanitizer=lambda inputs: seen.append(dict(inputs)) or inputs)
    run()
    both = {"ssn": CANARY, "question": "who?"}
    assert seen == [both, {"ssn": CANARY}, both, both]


def test_the_programs_objects_are_not_changed(trace_with: TraceWith) -> None:
    def wreck(values: dict[str, Any]) -> dict[str, Any]:
        for item in values.values():
            if isinstance(item, dict):
                item.clear()
            elif isinstance(item, list):
                item[:] = ["wrecked"]
        values["added"] = 1
        return values

    class Returning(dspy.Module):
        def forward(self, **given: Any) -> Any:
            return dspy.Prediction(first=given["nested"], pairs=given["mapping"])

    trace_with(input_sanitizer=wreck, output_sanitizer=wreck)
    given = {"nested": [["a"], {"b": [1]}], "mapping": {"c": {"d": "e"}}}
    before = copy.deepcopy(given)
    result = Returning()(**given)
    assert given == before
    assert result.first == before["nested"]
    assert result.pairs == before["mapping"]
    assert result.first is given["nested"]


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ("abc", "It is abc."),  # shorter than four characters
        ("abcd", f"It is {HIDDEN}."),
        (["abcd", "efgh"], f"It is {HIDDEN}."),
        ({"deep": {"er": "abcd"}}, f"It is {HIDDEN}."),
    ],
)
def test_the_strings_that_are_masked(trace_with: TraceWith, value: Any, expected: str) -> None:
    text = "abc" if value == "abc" else "abcd"

    class Echo(dspy.Module):
        def forward(self, ssn: Any) -> Any:
            return dspy.Prediction(text=f"It is {text}.")

    traced = trace_with(input_sanitizer=drop_ssn)
    Echo()(ssn=value)
    assert traced.content("invoke_workflow Echo", "dspy.module.output") == {"text": expected}


def test_only_what_has_changed_is_masked(trace_with: TraceWith) -> None:
    traced = trace_with(
        input_sanitizer=lambda inputs: {**inputs, "people": ["Ada", "*****"], "note": "kept or so"}
    )

    class Echo(dspy.Module):
        def forward(self, people: list[str], note: str) -> Any:
            return dspy.Prediction(text=f"{people[0]}, {people[1]}: {note}")

    Echo()(people=["Ada", "Grace"], note="kept")
    assert traced.content("invoke_workflow Echo", "dspy.module.output") == {
        "text": f"Ada, {HIDDEN}: kept"
    }


def test_a_part_of_a_text_that_was_replaced(trace_with: TraceWith) -> None:
    class Echo(dspy.Module):
        def forward(self, text: str) -> Any:
            return dspy.Prediction(text=f"{CANARY}, {CANARY}! Call again, user.")

    def scrub(inputs: dict[str, Any]) -> dict[str, Any]:
        return {"text": inputs["text"].replace(CANARY, "[code]")}

    traced = trace_with(input_sanitizer=scrub)
    Echo()(text=f"Call user={CANARY}, please")
    assert traced.content("invoke_workflow Echo", "dspy.module.input") == {
        "text": "Call user=[code], please"
    }
    assert traced.content("invoke_workflow Echo", "dspy.module.output") == {
        "text": f"{HIDDEN}, {HIDDEN}! Call again, user."
    }


@pytest.mark.parametrize(
    "sanitizer", [lambda inputs: 1 // 0, lambda inputs: None, lambda inputs: [inputs]]
)
def test_a_sanitizer_that_fails_drops_the_value_and_keeps_the_trace(
    trace_with: TraceWith, telemetry_log: TelemetryLog, sanitizer: Any
) -> None:
    traced = trace_with(input_sanitizer=sanitizer)
    for _ in range(2):
        assert run().answer == f"It is {CANARY}."
    assert len(traced.spans) == 10
    assert CANARY not in everything_in(traced.spans)
    assert {span.status.status_code.name for span in traced.spans} == {"UNSET"}
    roots = [span for span in traced.spans if span.parent is None]
    assert {(span.attributes or {})["dspy.module.input"] for span in roots} == {f'"{HIDDEN}"'}
    [line] = telemetry_log.take()
    assert "input_sanitizer" in line
    assert CANARY not in line


def test_a_sanitizer_that_exits_does_not_end_the_program(
    trace_with: TraceWith, telemetry_log: TelemetryLog
) -> None:
    def leave(inputs: dict[str, Any]) -> dict[str, Any]:
        raise SystemExit(3)

    traced = trace_with(input_sanitizer=leave)
    run()
    assert CANARY not in everything_in(traced.spans)
    assert len(telemetry_log.take()) == 1


def test_without_content_no_sanitizer_is_called(trace_with: TraceWith) -> None:
    called: list[Any] = []
    traced = trace_with(
        capture_content=False, input_sanitizer=called.append, output_sanitizer=called.append
    )
    run()
    assert called == []
    assert CANARY not in everything_in(traced.spans)


def test_a_sanitizer_may_call_dspy(trace_with: TraceWith) -> None:
    def ask(inputs: dict[str, Any]) -> dict[str, Any]:
        dspy.Predict("text -> answer")(text="is it a secret?")
        return inputs

    traced = trace_with(input_sanitizer=ask)
    run()
    assert len(traced.spans) == 5


def test_together_with_redact(trace_with: TraceWith) -> None:
    traced = trace_with(input_sanitizer=drop_ssn, redact="email")
    run(question="who is ada@example.org?")
    recorded = everything_in(traced.spans)
    assert CANARY not in recorded
    assert "ada@example.org" not in recorded
    assert "who is" in recorded


async def test_agents(trace_with: TraceWith) -> None:
    answers = [
        {
            "next_thought": CANARY,
            "next_tool_name": "search",
            "next_tool_args": f'{{"query": "{CANARY}"}}',
        },
        {"next_thought": "b", "next_tool_name": "finish", "next_tool_args": "{}"},
        FINAL,
    ]
    traced = trace_with(
        input_sanitizer=lambda inputs: {
            name: item for name, item in inputs.items() if name != "question"
        }
    )
    with dspy.context(lm=dspy.utils.DummyLM(answers)):
        await dspy.ReAct(QA, tools=[search]).acall(question=CANARY)
    assert CANARY not in everything_in(traced.spans)


def test_two_traces_do_not_share_what_was_taken_out(trace_with: TraceWith) -> None:
    traced = trace_with(input_sanitizer=drop_ssn)
    run(ssn="first-secret")
    traced.clear()
    run(ssn="other-secret", question="first-secret")
    recorded = everything_in(traced.spans)
    assert "other-secret" not in recorded
    assert "first-secret" in recorded


def test_spans_of_the_program_in_the_same_trace(trace_with: TraceWith) -> None:
    from opentelemetry.instrumentation.dspy import watch_redactor

    # A watcher stays for ever, so that it must keep no redactor that is not in use any more.
    in_use: dict[str, Any] = {}
    watch_redactor(lambda redactor: in_use.update(redactor=redactor))
    traced = trace_with(input_sanitizer=drop_ssn)
    with traced.tracer.start_as_current_span("request") as span:
        run()
        trace_id = span.get_span_context().trace_id
        shown = in_use["redactor"].span_attributes(trace_id, {"http.url": f"/users/{CANARY}"})
    assert shown == {"http.url": f"/users/{HIDDEN}"}


class OnlySync(dspy.Module):
    def forward(self, ssn: Any, question: str) -> Any:
        return dspy.Prediction(answer=question)


def test_arguments_of_a_call_that_has_no_async_method_keep_their_names(
    trace_with: TraceWith,
) -> None:
    traced = trace_with(input_sanitizer=drop_ssn)
    with pytest.raises(AttributeError, match="aforward"):
        asyncio.run(OnlySync().acall(CANARY, "who?"))
    assert CANARY not in everything_in(traced.spans)
    [span] = traced.spans
    assert json.loads(str((span.attributes or {})["dspy.module.input"])) == {"question": "who?"}
