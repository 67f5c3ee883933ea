# Copyright The opentelemetry-instrumentation-dspy Authors
# SPDX-License-Identifier: Apache-2.0
"""A hidden field is on no span and in no event, whatever part of DSPy has its value."""

from __future__ import annotations

import asyncio
import json
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import dspy
import pydantic
import pytest
from opentelemetry import context as context_api
from opentelemetry.sdk._logs import LoggerProvider
from opentelemetry.sdk._logs.export import SimpleLogRecordProcessor

from opentelemetry.instrumentation.dspy import DSPyInstrumentor
from opentelemetry.instrumentation.dspy._calls.call import Call, RedactedCall
from tests.support.dspy_prompts import chat_text
from tests.support.fake_openai import FakeOpenAI, Reply
from tests.support.lms import EchoLM, FailingLM, served
from tests.support.logged import MemoryExporter
from tests.support.traced import Traced, everything_in
from tests.unit.instrumentation.conftest import TelemetryLog, TraceWith

SSN = "078-05-1120"
SHORT = "¤¤"
HIDDEN = "[REDACTED]"


class Ask(dspy.Signature):
    """Answer."""

    ssn: Any = dspy.InputField()
    question: str = dspy.InputField()
    answer: str = dspy.OutputField()


ECHO = EchoLM(chat_text(answer=f"It is {SSN}."))


def hides_ssn(operation: str, field: str, value: Any) -> Any:
    return HIDDEN if field == "ssn" else value


REDACT = pytest.mark.parametrize("redact", ["field:ssn", hides_ssn], ids=["field", "function"])


def ask(ssn: Any = SSN, question: str = "who?") -> Any:
    with dspy.context(lm=ECHO, adapter=dspy.ChatAdapter()):
        return dspy.Predict(Ask)(ssn=ssn, question=question)


def assert_hidden(traced: Traced, *canaries: str) -> None:
    recorded = everything_in(traced.spans)
    for canary in canaries or (SSN,):
        assert canary not in recorded
    assert HIDDEN in recorded


@REDACT
def test_a_field_of_a_program(trace_with: TraceWith, redact: Any) -> None:
    traced = trace_with(redact=redact)
    assert ask().answer == f"It is {SSN}."
    assert_hidden(traced)
    assert "who?" in everything_in(traced.spans)


@pytest.mark.parametrize("mode", ["EVENT_ONLY", "SPAN_AND_EVENT"])
@REDACT
def test_events(trace_with: TraceWith, mode: str, redact: Any) -> None:
    exporter = MemoryExporter()
    provider = LoggerProvider(shutdown_on_exit=False)
    provider.add_log_record_processor(SimpleLogRecordProcessor(exporter))
    trace_with(capture_content=mode, logger_provider=provider, redact=redact)
    ask()
    records = [data.log_record for data in exporter.get_finished_logs()]
    recorded = "".join(repr((record.body, dict(record.attributes))) for record in records)
    assert SSN not in recorded
    assert "who?" in recorded


@pytest.mark.parametrize("captured", [{"capture_inputs": False}, {"capture_outputs": False}])
def test_values_that_are_not_recorded_are_hidden_in_what_is(
    trace_with: TraceWith, captured: dict[str, bool]
) -> None:
    class Program(dspy.Module):
        def forward(self, ssn: str) -> Any:
            dspy.Tool(lambda text: f"read {text}", name="read")(text=f"of {ssn}")
            return dspy.Prediction(ssn="written-4711", text=ssn)

    class Outer(dspy.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner = Program()

        def forward(self, ssn: str) -> Any:
            written = self.inner(ssn).ssn
            dspy.Tool(lambda text: f"read {text}", name="read")(text=written)
            return dspy.Prediction(text=f"{written} of {ssn}")

    traced = trace_with(redact="field:ssn", **captured)
    assert Outer()(SSN).text == f"written-4711 of {SSN}"
    assert_hidden(traced, SSN, "written-4711")


@pytest.mark.parametrize(
    ("adapter", "answer"),
    [
        (dspy.ChatAdapter, chat_text(answer="yes", secret=SHORT)),
        (dspy.JSONAdapter, json.dumps({"answer": "yes", "secret": SHORT}, ensure_ascii=False)),
        (dspy.XMLAdapter, f"<answer>yes</answer><secret>{SHORT}</secret>"),
    ],
)
def test_a_short_value_is_hidden_where_an_adapter_names_it(
    trace_with: TraceWith, adapter: Callable[[], Any], answer: str
) -> None:
    traced = trace_with(redact="field:ssn,field:secret")
    with dspy.context(lm=EchoLM(answer), adapter=adapter()):
        result = dspy.Predict("ssn, question -> answer, secret")(ssn=SHORT, question="who?")
    assert result.secret == SHORT
    assert_hidden(traced, SHORT, SHORT.encode("unicode_escape").decode())
    assert "who?" in traced.attributes("chat echo")["gen_ai.input.messages"]
    assert "yes" in traced.attributes("chat echo")["gen_ai.output.messages"]


@dataclass
class Record:
    ssn: str


class Customer(pydantic.BaseModel):
    ssn: str
    tags: list[str] = []


@pytest.mark.parametrize(
    "value",
    [
        Customer(ssn=SSN),
        {"deep": [{"er": Customer(ssn=SSN)}]},
        [dspy.Example(ssn=SSN, other="x")],
        (Record(SSN),),
        dspy.History(messages=[{"ssn": SSN, "answer": f"{SSN}?"}]),
    ],
    ids=lambda value: type(value).__name__,
)
@REDACT
def test_a_field_at_any_depth(trace_with: TraceWith, value: Any, redact: Any) -> None:
    traced = trace_with(redact=redact)
    with dspy.context(lm=ECHO, adapter=dspy.ChatAdapter()):
        kind = dspy.History if isinstance(value, dspy.History) else Any
        fields: dict[str, Any] = {"given": (kind, dspy.InputField())}
        fields |= {"answer": (str, dspy.OutputField())}
        dspy.Predict(dspy.make_signature(fields))(given=value)
    assert_hidden(traced)


@REDACT
def test_demos_and_instructions(trace_with: TraceWith, redact: Any) -> None:
    traced = trace_with(redact=redact)
    predict = dspy.Predict(Ask.with_instructions(f"As for ssn='{SHORT}': answer."))
    predict.demos = [dspy.Example(ssn="219-09-9999", question="and?", answer="no 219-09-9999")]
    with dspy.context(lm=ECHO, adapter=dspy.ChatAdapter()):
        predict(ssn=SSN, question="who?")
    assert_hidden(traced, SSN, "219-09-9999", *([SHORT] if redact == "field:ssn" else []))


@REDACT
def test_tools_retrievers_and_agents(trace_with: TraceWith, redact: Any) -> None:
    class Search(dspy.Retrieve):
        def forward(self, query: str) -> Any:
            return dspy.Prediction(passages=[f"found {SSN}"])

    class Program(dspy.Module):
        def forward(self, ssn: str) -> Any:
            dspy.Tool(lambda ssn: {"ssn": ssn, "text": f"tool of {ssn}"}, name="look")(ssn=ssn)
            return Search()(f"who is {ssn}?")

    traced = trace_with(redact=redact)
    Program()(ssn=SSN)
    assert_hidden(traced)
    assert "found [REDACTED]" in everything_in(traced.spans)


@REDACT
def test_exceptions_and_their_stacks(trace_with: TraceWith, redact: Any) -> None:
    traced = trace_with(redact=redact)

    def fail() -> ValueError:
        try:
            raise KeyError(f"{SSN} is unknown")
        except KeyError as cause:
            error = ValueError(f"cannot ask for {SSN}")
            error.__cause__ = cause
            return error

    with dspy.context(lm=FailingLM(fail)), pytest.raises(ValueError, match=SSN):
        dspy.Predict(Ask)(ssn=SSN, question="?")
    assert_hidden(traced)
    assert "cannot ask for [REDACTED]" in everything_in(traced.spans)


@REDACT
def test_an_answer_that_cannot_be_parsed(trace_with: TraceWith, redact: Any) -> None:
    traced = trace_with(redact=redact)
    lm = EchoLM(f"[[ ## wrong ## ]]\n{SSN}")
    adapter = dspy.ChatAdapter(use_json_adapter_fallback=False)
    failed = pytest.raises(dspy.utils.exceptions.AdapterParseError)
    with dspy.context(lm=lm, adapter=adapter), failed:
        dspy.Predict(Ask)(ssn=SSN, question="?")
    assert_hidden(traced)


@REDACT
@pytest.mark.parametrize("threads", [1, 3])
def test_evaluations(trace_with: TraceWith, redact: Any, threads: int) -> None:
    def metric(example: Any, prediction: Any, trace: Any = None) -> Any:
        return dspy.Prediction(score=0.5, feedback=f"{example.ssn} was named: {prediction}")

    traced = trace_with(redact=redact)
    numbers = [f"{number}-05-1120" for number in range(100, 106)]
    devset = [dspy.Example(ssn=ssn, question="?").with_inputs("ssn", "question") for ssn in numbers]
    with dspy.context(lm=ECHO, adapter=dspy.ChatAdapter()):
        evaluate = dspy.Evaluate(
            devset=devset, metric=metric, num_threads=threads, display_progress=False
        )
        evaluate(dspy.Predict(Ask))
    assert_hidden(traced, *numbers)
    assert "was named" in everything_in(traced.spans)


@REDACT
async def test_streams(trace_with: TraceWith, server: FakeOpenAI, redact: Any) -> None:
    traced = trace_with(redact=redact)
    server.reply_with(Reply(chat_text(answer=f"It is {SSN}.")))
    listener = dspy.streaming.StreamListener(signature_field_name="answer")
    program = dspy.streamify(dspy.Predict(Ask), stream_listeners=[listener])
    with dspy.context(lm=served(server), adapter=dspy.ChatAdapter()):
        chunks = [chunk async for chunk in program(ssn=SSN, question="who?")]
    assert chunks[-1].answer == f"It is {SSN}."
    assert_hidden(traced)


class Waiting(dspy.Module):
    """Knows the number by its own argument; those that it calls do not."""

    def forward(self, ssn: str, run: Callable[[Callable[[str], Any], str], Any]) -> Any:
        return run(dspy.Tool(lambda text: f"read {text}", name="read"), f"of {ssn}")


def in_this_thread(tool: Any, text: str) -> Any:
    return tool(text=text)


def in_a_thread(tool: Any, text: str) -> Any:
    context = context_api.get_current()

    def work() -> Any:
        token = context_api.attach(context)
        try:
            return tool(text=text)
        finally:
            context_api.detach(token)

    with ThreadPoolExecutor(1) as pool:
        return pool.submit(work).result()


def in_parallel(tool: Any, text: str) -> Any:
    class Call(dspy.Module):
        def forward(self, text: str) -> Any:
            return tool(text=text)

    example = dspy.Example(text=text).with_inputs("text")
    return dspy.Parallel(num_threads=2, disable_progress_bar=True)([(Call(), example)] * 2)


def in_a_task(tool: Any, text: str) -> Any:
    async def work() -> Any:
        return await asyncio.create_task(tool.acall(text=text))

    return asyncio.run(work())


def in_a_generator(tool: Any, text: str) -> Any:
    yield tool(text=text)


@pytest.mark.parametrize(
    "run",
    [in_this_thread, in_a_thread, in_parallel, in_a_task, in_a_generator],
    ids=lambda run: run.__name__,
)
@REDACT
def test_values_reach_all_calls_of_a_trace(
    trace_with: TraceWith, run: Callable[..., Any], redact: Any
) -> None:
    traced = trace_with(redact=redact)
    result = Waiting()(ssn=SSN, run=run)
    if run is in_a_generator:
        list(result)
    assert "execute_tool read" in traced.names()
    assert_hidden(traced)


def test_values_of_another_trace_are_not_hidden(trace_with: TraceWith) -> None:
    traced = trace_with(redact="field:ssn")
    ask(ssn="Berlin")
    traced.clear()
    ask(ssn="Paris", question="who lives in Berlin?")
    recorded = everything_in(traced.spans)
    assert "Berlin" in recorded
    assert "Paris" not in recorded


def test_calls_of_one_trace_share_their_values(trace_with: TraceWith) -> None:
    traced = trace_with(redact="field:ssn")
    with traced.tracer.start_as_current_span("request"):
        ask()
        ask(ssn="none", question=f"who is {SSN}?")
    assert_hidden(traced)


def test_concurrent_traces_do_not_mix(trace_with: TraceWith) -> None:
    traced = trace_with(redact="field:ssn")
    barrier = threading.Barrier(2, timeout=30)

    class Program(dspy.Module):
        def forward(self, ssn: str, text: str) -> Any:
            barrier.wait()
            return dspy.Prediction(text=text)

    with ThreadPoolExecutor(2) as pool:
        both = [("first", "of second"), ("second", "of first")]
        jobs = [pool.submit(Program(), ssn=ssn, text=text) for ssn, text in both]
        assert {job.result().text for job in jobs} == {"of first", "of second"}
    outputs = {str((span.attributes or {})["dspy.module.output"]) for span in traced.spans}
    assert outputs == {'{"text":"of first"}', '{"text":"of second"}'}


def test_with_too_many_values_texts_are_withheld(
    trace_with: TraceWith, telemetry_log: TelemetryLog
) -> None:
    traced = trace_with(redact="field:ssn")

    class Program(dspy.Module):
        def forward(self, rows: Any, text: str) -> Any:
            return dspy.Prediction(text=text)

    rows = [{"ssn": f"number {number}"} for number in range(12_000)]
    Program()(rows=rows, text="number 5")
    (warning,) = telemetry_log.take()
    assert "more than 10000 values" in warning
    assert traced.content("invoke_workflow Program", "dspy.module.output") == HIDDEN
    traced.clear()
    Program()(rows=[], text="number 5")
    assert "number 5" in everything_in(traced.spans)


async def test_reasoning_media_and_tool_calls_of_a_model(trace_with: TraceWith) -> None:
    traced = trace_with(redact="field:ssn,email")

    class LM(dspy.BaseLM):
        def forward(self, prompt: Any = None, messages: Any = None, **kwargs: Any) -> Any:
            raise NotImplementedError

        def __call__(self, *args: Any, **kwargs: Any) -> Any:
            call = {"id": "1", "function": {"name": "look", "arguments": '{"ssn": "¤¤"}'}}
            return [
                {
                    "text": f"for {SSN}",
                    "reasoning_content": f"the mail is ann@example.org, {SSN}",
                    "logprobs": {"content": [{"token": SSN}]},
                    "tool_calls": [call],
                }
            ]

    class Program(dspy.Module):
        def forward(self, ssn: str) -> Any:
            image = {"type": "image_url", "image_url": {"url": "data:image/png;base64,aGVsbG8="}}
            text = {"type": "text", "text": f"of {ssn}"}
            return LM("m")(messages=[{"role": "user", "content": [text, image]}])

    Program()(ssn=SSN)
    assert_hidden(traced, SSN, "ann@example.org", SHORT)
    (message,) = traced.content("chat m", "gen_ai.output.messages")
    assert message["role"] == "assistant"
    assert message["parts"][-1] == {
        "type": "tool_call",
        "id": "1",
        "name": "look",
        "arguments": {"ssn": HIDDEN},
    }


def test_names_of_our_own_records_are_no_fields(trace_with: TraceWith) -> None:
    traced = trace_with(redact="field:name,field:role,field:content,field:type,field:text")
    tool = dspy.Tool(lambda name: f"I am {name}", name="introduce", desc="Introduces.")
    assert tool(name="Annemarie") == "I am Annemarie"
    with dspy.context(lm=EchoLM(chat_text(answer="yes")), adapter=dspy.ChatAdapter()):
        dspy.Predict("name -> answer")(name="Annemarie")
    assert_hidden(traced, "Annemarie")
    messages = traced.content("chat echo", "gen_ai.input.messages")
    assert [message["role"] for message in messages] == ["system", "user"]
    assert {part["type"] for message in messages for part in message["parts"]} == {"text"}
    fields = traced.content("invoke_workflow Predict", "dspy.signature.fields")
    assert [field["name"] for field in fields] == ["name", "answer"]
    schema = traced.content("execute_tool introduce", "dspy.tool.schema")
    assert set(schema["properties"]) == {"name"}


def test_a_default_is_hidden_in_the_description_of_a_signature(trace_with: TraceWith) -> None:
    class WithDefault(dspy.Signature):
        ssn: str = dspy.InputField(default=SSN)
        answer: str = dspy.OutputField()

    traced = trace_with(redact="field:ssn")
    with dspy.context(lm=ECHO, adapter=dspy.ChatAdapter()):
        dspy.Predict(WithDefault)()
    assert_hidden(traced)


def test_a_function_is_asked_for_texts_inside_of_messages(trace_with: TraceWith) -> None:
    def masks(operation: str, field: str, value: Any) -> Any:
        return value.replace("Ann", "A.") if isinstance(value, str) else value

    traced = trace_with(redact=masks)
    ask(question="Where is Ann?")
    assert "Ann?" not in everything_in(traced.spans)
    assert "Where is A.?" in traced.attributes("chat echo")["gen_ai.input.messages"]


def test_a_function_that_ends_the_program_is_contained(
    trace_with: TraceWith, telemetry_log: TelemetryLog
) -> None:
    def leaves(operation: str, field: str, value: Any) -> Any:
        raise SystemExit(f"on {value}")

    traced = trace_with(redact=leaves)
    assert ask().answer == f"It is {SSN}."
    ask()
    assert_hidden(traced)
    (warning,) = telemetry_log.take()
    assert "redact raised SystemExit" in warning


def test_without_redaction_calls_and_values_take_no_step_more(trace_with: TraceWith) -> None:
    trace_with()
    runtime = DSPyInstrumentor()._runtime
    assert runtime is not None
    assert (runtime.redactor, runtime.call_type) == (None, Call)
    trace_with(redact="email")
    runtime = DSPyInstrumentor()._runtime
    assert runtime is not None
    assert runtime.call_type is RedactedCall
