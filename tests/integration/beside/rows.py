# Copyright The opentelemetry-instrumentation-dspy Authors
# SPDX-License-Identifier: Apache-2.0
"""The rows of the comparison: what a view of MLflow shows, read through MLflow's API."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final

import mlflow
from mlflow.entities import Run, Trace
from mlflow.entities.trace_metrics import AggregationType, MetricViewType
from mlflow.exceptions import MlflowException
from mlflow.genai.datasets import create_dataset

from tests.integration.beside.program import VERSION, Asked
from tests.integration.beside.store import Read, Store

NOTHING: Final = "—"
_SHOWN: Final = 60
"""Characters of a value in a cell."""


@dataclass(frozen=True)
class Row:
    view: str
    what: str
    read: Read


ROWS: Final[list[Row]] = []


def _row(view: str, what: str) -> Callable[[Read], Read]:
    def add(read: Read) -> Read:
        ROWS.append(Row(view, what, read))
        return read

    return add


def _code(value: Any) -> str:
    """A value as code in a cell, cut; nothing if there is none."""
    if value is None or value == "":
        return NOTHING
    text = " ".join(str(value).split()).replace("|", "\\|")
    return f"`{text[:_SHOWN]}…`" if len(text) > _SHOWN else f"`{text}`"


def _yes(value: Any) -> str:
    return "yes" if value else "no"


def _metadata(trace: Trace, key: str) -> str | None:
    return trace.info.trace_metadata.get(key)


def _total(trace: Trace) -> str:
    usage = trace.info.token_usage
    return NOTHING if usage is None else str(usage["total_tokens"])


LIST = "The list of traces"


@_row(LIST, "trace name")
def _name(store: Store) -> str:
    return _code(store.one(Asked.PLAIN).info.tags.get("mlflow.traceName"))


@_row(LIST, "request")
def _request(store: Store) -> str:
    return _code(store.one(Asked.PLAIN).info.request_preview)


@_row(LIST, "response of a `ChainOfThought`")
def _response(store: Store) -> str:
    return _code(store.one(Asked.PLAIN).info.response_preview)


@_row(LIST, "response of a `ReAct`")
def _agent_response(store: Store) -> str:
    return _code(store.one(Asked.AGENT).info.response_preview)


@_row(LIST, "request, below a span of `mlflow.start_span()` without values")
def _request_below_mlflow(store: Store) -> str:
    return _code(store.one(Asked.BELOW_MLFLOW).info.request_preview)


@_row(LIST, "root of the trace, below a span of OpenTelemetry, as of a web framework")
def _root_below_otel(store: Store) -> str:
    [root] = [span for span in store.one(Asked.BELOW_OTEL).data.spans if span.parent_id is None]
    return _code(root.name)


@_row(LIST, "request, below that span")
def _request_below_otel(store: Store) -> str:
    return _code(store.one(Asked.BELOW_OTEL).info.request_preview)


@_row(LIST, "traces of one call with `dspy.Parallel`")
def _parallel(store: Store) -> str:
    return str(len(store.of(Asked.PARALLEL)))


@_row(LIST, "state of a program that fails")
def _state(store: Store) -> str:
    return _code(store.one(Asked.ERROR).info.state.value)


@_row(LIST, "duration")
def _duration(store: Store) -> str:
    return _yes(all(trace.info.execution_duration is not None for trace in store.traces))


@_row(LIST, "tokens")
def _tokens(store: Store) -> str:
    return _total(store.one(Asked.PLAIN))


@_row(LIST, "tokens of a program that fails after a model call")
def _tokens_of_failed(store: Store) -> str:
    return _total(store.one(Asked.ERROR))


@_row(LIST, "tokens of a call with `dspy.Parallel`")
def _tokens_of_parallel(store: Store) -> str:
    return _total(store.one(Asked.PARALLEL))


@_row(LIST, "cost, US dollars")
def _cost(store: Store) -> str:
    cost = store.one(Asked.PLAIN).info.cost
    return NOTHING if cost is None else f"{cost['total_cost']:.7f}"


@_row(LIST, "source")
def _source(store: Store) -> str:
    name = _metadata(store.one(Asked.PLAIN), "mlflow.source.name")
    return _code(name and name.rpartition("/")[2])


@_row(LIST, "commit of the program's git repository")
def _commit(store: Store) -> str:
    return _yes(_metadata(store.one(Asked.PLAIN), "mlflow.source.git.commit"))


@_row(LIST, "user of the process (`mlflow.user`)")
def _process_user(store: Store) -> str:
    return _yes(_metadata(store.one(Asked.PLAIN), "mlflow.user"))


@_row(LIST, "size of the trace")
def _size(store: Store) -> str:
    return _yes(_metadata(store.one(Asked.PLAIN), "mlflow.trace.sizeBytes"))


@_row(LIST, "session, of `mlflow.tracing.context()`")
def _session(store: Store) -> str:
    return _code(_metadata(store.one(Asked.CONTEXT), "mlflow.trace.session"))


@_row(LIST, "user, of `mlflow.tracing.context()`")
def _user(store: Store) -> str:
    return _code(_metadata(store.one(Asked.CONTEXT), "mlflow.trace.user"))


@_row(LIST, "a tag, of `mlflow.tracing.context()`")
def _tag(store: Store) -> str:
    return _code(store.one(Asked.CONTEXT).info.tags.get("team"))


@_row(LIST, "metadata, of `mlflow.tracing.context()`")
def _own_metadata(store: Store) -> str:
    value = _metadata(store.one(Asked.CONTEXT), "build")
    if value is None and store.one(Asked.CONTEXT).info.tags.get("build"):
        return "as a tag"
    return _code(value)


@_row(LIST, "run (`mlflow.sourceRun`)")
def _run(store: Store) -> str:
    return _yes(_metadata(store.one(Asked.RUN), "mlflow.sourceRun"))


@_row(LIST, "version (`mlflow.modelId`), of `mlflow.set_active_model()`")
def _version(store: Store) -> str:
    return _yes(_metadata(store.one(Asked.VERSION), "mlflow.modelId"))


PAGE = "The page of a trace"


@_row(PAGE, "span types of an agent")
def _types(store: Store) -> str:
    types = {str(span.span_type) for span in store.one(Asked.AGENT).data.spans}
    return ", ".join(f"`{name}`" for name in sorted(types))


@_row(PAGE, "name of a span that has a name in its program")
def _span_names(store: Store) -> str:
    [span] = store.spans(Asked.RETRIEVAL, "LLM")
    return _code(span.name)


@_row(PAGE, "inputs and outputs of a `Predict`")
def _values_of_predict(store: Store) -> str:
    [span] = store.spans(Asked.RETRIEVAL, "LLM")
    return _yes("question" in (span.inputs or {}) and "answer" in (span.outputs or {}))


@_row(PAGE, "model call as a chat, with DSPy's fields as headings")
def _chat(store: Store) -> str:
    [span] = store.spans(Asked.PLAIN, "CHAT_MODEL")
    roles = [message["role"] for message in (span.inputs or {}).get("messages", ())]
    return _yes(
        roles == ["system", "user"] and span.get_attribute("mlflow.message.format") == "dspy"
    )


@_row(PAGE, "model and provider of a model call")
def _model(store: Store) -> str:
    [span] = store.spans(Asked.PLAIN, "CHAT_MODEL")
    names = (span.get_attribute("mlflow.llm.model"), span.get_attribute("mlflow.llm.provider"))
    return ", ".join(map(_code, names))


@_row(PAGE, "tokens of a model call")
def _call_tokens(store: Store) -> str:
    [span] = store.spans(Asked.PLAIN, "CHAT_MODEL")
    usage = span.get_attribute("mlflow.chat.tokenUsage")
    return NOTHING if usage is None else f"{usage['input_tokens']} in, {usage['output_tokens']} out"


@_row(PAGE, "cost of a model call")
def _call_cost(store: Store) -> str:
    [span] = store.spans(Asked.PLAIN, "CHAT_MODEL")
    return _yes(span.get_attribute("mlflow.llm.cost"))


@_row(PAGE, "reason why the model stopped")
def _finish(store: Store) -> str:
    [span] = store.spans(Asked.PLAIN, "CHAT_MODEL")
    return _code(", ".join(span.get_attribute("gen_ai.response.finish_reasons") or ()))


@_row(PAGE, "tools offered to the model, in the box of tools")
def _tools(store: Store) -> str:
    [span] = store.spans(Asked.TOOLS, "CHAT_MODEL")
    offered = span.get_attribute("mlflow.chat.tools") or ()
    return _code(", ".join(tool["function"]["name"] for tool in offered))


@_row(PAGE, "inputs and outputs of a tool")
def _tool_values(store: Store) -> str:
    span = store.spans(Asked.AGENT, "TOOL")[0]
    return f"{_code(span.inputs)}, {_code(span.outputs)}"


@_row(PAGE, "a retriever of the program's own (`dspy.Retrieve`), with the documents found")
def _retriever(store: Store) -> str:
    return _found_by(store, "Papers")


@_row(PAGE, "`dspy.retrievers.Embeddings`, with the documents found")
def _index(store: Store) -> str:
    return _found_by(store, "Embeddings")


@_row(PAGE, "call of an embedder")
def _embedder(store: Store) -> str:
    return _yes(store.spans(Asked.RETRIEVAL, "EMBEDDING"))


def _found_by(store: Store, name: str) -> str:
    spans = store.spans(Asked.RETRIEVAL, "RETRIEVER")
    found = [span for span in spans if name in span.name]
    return _yes(any("Paris is in France." in str(span.outputs) for span in found))


@_row(PAGE, "steps of the adapter: making the prompt, reading the answer")
def _adapter(store: Store) -> str:
    spans = store.spans(Asked.PLAIN, "PARSER")
    return ", ".join(_code(span.name) for span in spans)


@_row(PAGE, "exception of a program that fails, as an event")
def _event(store: Store) -> str:
    [root] = [span for span in store.one(Asked.ERROR).data.spans if span.parent_id is None]
    types = [(event.attributes or {}).get("exception.type") for event in root.events]
    return ", ".join(map(_code, types)) or NOTHING


@_row(PAGE, "exception of a tool that fails, as an event")
def _tool_event(store: Store) -> str:
    [failed] = [span for span in store.spans(Asked.AGENT, "TOOL") if "book" in span.name]
    types = [(event.attributes or {}).get("exception.type") for event in failed.events]
    return ", ".join(map(_code, types)) or NOTHING


@_row(PAGE, "log level of a span (`mlflow.spanLogLevel`)")
def _level(store: Store) -> str:
    [span] = store.spans(Asked.PLAIN, "CHAT_MODEL")
    return _yes(span.get_attribute("mlflow.spanLogLevel"))


DASHBOARDS = "The dashboards"
_SPANS = MetricViewType.SPANS


@_row(DASHBOARDS, "tools, and the share of their calls that succeeded")
def _tool_success(store: Store) -> str:
    counts = store.metric(
        _SPANS,
        "span_count",
        AggregationType.COUNT,
        ["span_name", "span_status"],
        ['span.type = "TOOL"'],
    )
    names = sorted({name for name, _ in counts})
    shares = {
        name: counts.get((name, "OK"), 0)
        / sum(count for (tool, _), count in counts.items() if tool == name)
        for name in names
    }
    return ", ".join(f"`{name}` {share:.0%}" for name, share in shares.items()) or NOTHING


@_row(DASHBOARDS, "latency of each tool")
def _tool_latency(store: Store) -> str:
    found = store.metric(
        _SPANS, "latency", AggregationType.AVG, ["span_name"], ['span.type = "TOOL"']
    )
    return _yes(len(found) == len({span.name for span in store.spans(Asked.AGENT, "TOOL")}))


@_row(DASHBOARDS, "cost by model")
def _model_cost(store: Store) -> str:
    found = store.metric(_SPANS, "total_cost", AggregationType.SUM, ["span_model_name"])
    return ", ".join(f"`{model}`" for (model,) in sorted(found)) or NOTHING


@_row(DASHBOARDS, "tokens of all traces")
def _all_tokens(store: Store) -> str:
    # Not the number: an agent shows its model the traceback of a tool, with paths of this machine.
    return _yes(bool(store.metric(MetricViewType.TRACES, "total_tokens", AggregationType.SUM, [])))


@_row(DASHBOARDS, "traces by state")
def _states(store: Store) -> str:
    found = store.metric(
        MetricViewType.TRACES, "trace_count", AggregationType.COUNT, ["trace_status"]
    )
    return ", ".join(f"`{state}` {count:.0f}" for (state,), count in sorted(found.items()))


SEARCH = "Search"


@_row(SEARCH, "`span.status = 'OK'` finds a trace that worked")
def _find_ok(store: Store) -> str:
    return store.finds(Asked.PLAIN, "span.status = 'OK'")


@_row(SEARCH, "`span.status = 'ERROR'` finds a trace with a tool that failed")
def _find_error(store: Store) -> str:
    return store.finds(Asked.AGENT, "span.status = 'ERROR'")


@_row(SEARCH, "`span.type = 'TOOL'`")
def _find_type(store: Store) -> str:
    return store.finds(Asked.AGENT, "span.type = 'TOOL'")


@_row(SEARCH, "`span.name =` that finds the calls of a tool `weather`")
def _find_name(store: Store) -> str:
    names = {span.name for span in store.spans(Asked.AGENT, "TOOL") if "weather" in span.name}
    found = [name for name in names if store.finds(Asked.AGENT, f"span.name = '{name}'") == "yes"]
    return ", ".join(map(_code, found)) or NOTHING


@_row(SEARCH, "`trace.text LIKE '%Atlantis%'`")
def _find_text(store: Store) -> str:
    return store.finds(Asked.ERROR, "trace.text LIKE '%Atlantis%'")


@_row(SEARCH, "``metadata.`mlflow.trace.session` = 's-1'``")
def _find_session(store: Store) -> str:
    return store.finds(Asked.CONTEXT, "metadata.`mlflow.trace.session` = 's-1'")


@_row(SEARCH, "`run_id=`")
def _find_run(store: Store) -> str:
    [run] = store.client.search_runs([store.experiment_id], "attributes.run_name = 'trips'")
    return store.finds(Asked.RUN, run_id=run.info.run_id)


@_row(SEARCH, "`model_id=`")
def _find_model(store: Store) -> str:
    [model] = store.client.search_logged_models([store.experiment_id], f"name = '{VERSION}'")
    return store.finds(Asked.VERSION, model_id=model.model_id)


FEEDBACK = "Feedback and evaluation"


@_row(FEEDBACK, "`mlflow.log_feedback()` on the active trace")
def _feedback(store: Store) -> str:
    return _assessed(store, Asked.FEEDBACK)


@_row(FEEDBACK, "`mlflow.log_feedback()` right after the call")
def _feedback_after(store: Store) -> str:
    return _assessed(store, Asked.FEEDBACK_AFTER)


@_row(FEEDBACK, "`mlflow.set_trace_tag()` right after the call")
def _tag_after(store: Store) -> str:
    if error := store.raised.get(Asked.TAG_AFTER.name):
        return f"raises `{error}`"
    return "stored" if "seen" in store.one(Asked.TAG_AFTER).info.tags else "lost"


@_row(FEEDBACK, "traces of which `dataset.merge_records(traces)` makes records with inputs")
def _records(store: Store) -> str:
    mlflow.set_tracking_uri(store.uri)
    records: list[Any] = []
    for number, trace in enumerate(store.traces):
        dataset = create_dataset(name=f"records {number}", experiment_id=store.experiment_id)
        # A trace whose inputs are not a mapping is refused.
        with contextlib.suppress(MlflowException):
            records += dataset.merge_records([trace]).to_df()["inputs"].to_list()
    return f"{sum(map(bool, records))} of {len(store.traces)}"


@_row(FEEDBACK, "traces that `dspy.Evaluate` makes of two examples")
def _evaluation(store: Store) -> str:
    return str(len(store.of(Asked.EVALUATION)))


@_row(FEEDBACK, "scores of the metric as spans")
def _metric_spans(store: Store) -> str:
    spans = [span for trace in store.of(Asked.EVALUATION) for span in trace.data.spans]
    return _yes(any("metric" in span.name for span in spans))


@_row(FEEDBACK, "scores of the metric as feedback of the traces")
def _metric_feedback(store: Store) -> str:
    return _yes(any(trace.info.assessments for trace in store.of(Asked.EVALUATION)))


@_row(FEEDBACK, "labels of the examples as expectations of the traces")
def _expectations(store: Store) -> str:
    found = [one for trace in store.of(Asked.EVALUATION) for one in trace.info.assessments]
    return _yes(any(one.expectation is not None for one in found))


@_row(FEEDBACK, "run of an evaluation (`log_evals=True`), and its score")
def _evaluation_run(store: Store) -> str:
    run = _run_of_evaluation(store)
    # Theirs has a name that MLflow draws at random.
    is_ours = run.info.run_name.startswith("evaluate")
    name = _code(run.info.run_name) if is_ours else "a random name"
    score = run.data.metrics.get("score", run.data.metrics.get("eval"))
    return f"{name}, {score:g}"


@_row(FEEDBACK, "latency, tokens and errors of the evaluation, as metrics of the run")
def _figures_of_run(store: Store) -> str:
    names = _run_of_evaluation(store).data.metrics
    return _yes({"latency/mean", "tokens/total", "errors"} <= set(names))


@_row(FEEDBACK, "metric, model, threads and number of examples, as parameters of the run")
def _parameters_of_run(store: Store) -> str:
    names = set(_run_of_evaluation(store).data.params)
    return _yes({"metric", "lm", "num_threads", "devset_size"} <= names)


@_row(FEEDBACK, "settings of the model, as parameters of the run")
def _model_of_run(store: Store) -> str:
    names = _run_of_evaluation(store).data.params
    return _yes(any(name.startswith("lm") for name in names))


@_row(FEEDBACK, "instructions and fields of each predictor, as parameters of the run")
def _predictors_of_run(store: Store) -> str:
    return _yes(any("signature" in name for name in _run_of_evaluation(store).data.params))


@_row(FEEDBACK, "table of the results, as an artifact")
def _table_of_run(store: Store) -> str:
    run = _run_of_evaluation(store)
    return _yes(any("result" in item.path for item in store.client.list_artifacts(run.info.run_id)))


@_row(FEEDBACK, "examples as a dataset of the run")
def _dataset_of_run(store: Store) -> str:
    return _yes(_run_of_evaluation(store).inputs.dataset_inputs)


@_row(FEEDBACK, "state of the program, as an artifact")
def _state_of_program(store: Store) -> str:
    runs = store.client.search_runs([store.experiment_id])
    paths = [
        item.path
        for run in runs
        for item in store.client.list_artifacts(run.info.run_id)
        if item.path == "dspy" or "model" in item.path
    ]
    return _yes(paths)


@_row(FEEDBACK, "traces of the examples linked to the run")
def _linked(store: Store) -> str:
    run = _run_of_evaluation(store)
    found = [
        trace
        for trace in store.of(Asked.EVALUATION)
        if _metadata(trace, "mlflow.sourceRun") == run.info.run_id
    ]
    return f"{len(found)} of {len(store.of(Asked.EVALUATION))}"


@_row(FEEDBACK, "on MLflow's page of evaluation runs, to be compared row by row")
def _compared(store: Store) -> str:
    tags = [trace.info.tags for trace in store.of(Asked.EVALUATION)]
    is_listed = _run_of_evaluation(store).data.tags.get("mlflow.runType") == "genai_evaluate"
    return _yes(is_listed and all("mlflow.eval.requestId" in each for each in tags))


def _run_of_evaluation(store: Store) -> Run:
    runs = store.client.search_runs([store.experiment_id])
    [run] = [run for run in runs if {"eval", "score"} & set(run.data.metrics)]
    return run


def _assessed(store: Store, case: Asked) -> str:
    if error := store.raised.get(case.name):
        return f"raises `{error}`"
    return "stored" if store.one(case).info.assessments else "lost"
