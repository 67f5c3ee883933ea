# Copyright The opentelemetry-instrumentation-dspy Authors
# SPDX-License-Identifier: Apache-2.0
"""The OTel context in the threads of Unbatchify, AvatarOptimizer and RLM."""

from __future__ import annotations

import contextvars
import functools
import gc
import sys
import threading
import time
import traceback
import weakref
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import dspy
import numpy as np
import pytest
from dspy.retrievers import Embeddings
from dspy.teleprompt import avatar_optimizer
from dspy.utils import DummyLM
from dspy.utils.unbatchify import Unbatchify
from opentelemetry import context as context_api
from opentelemetry.sdk.trace.sampling import Decision, ParentBased, Sampler, SamplingResult
from opentelemetry.trace import get_current_span
from packaging.version import Version

from tests.support.lms import DSPY, answering
from tests.support.span_tree import assert_one_tree, span_nodes
from tests.support.traced import Traced, uninstrument

pytestmark = [pytest.mark.surface("Unbatchify"), pytest.mark.surface("pools of executors")]


def letters(texts: list[str]) -> Any:
    counts = [[text.count("a") + 0.1, text.count("b") + 0.1] for text in texts]
    return np.array(counts, dtype=np.float32)


def named(items: list[Any]) -> list[str]:
    """What a batch function sees as the current span, once for each item."""
    return [getattr(get_current_span(), "name", "none")] * len(items)


def in_threads(*functions: Callable[[], Any]) -> list[Any]:
    with ThreadPoolExecutor(len(functions)) as pool:
        return [future.result() for future in [pool.submit(function) for function in functions]]


def unbatchified(batch_fn: Callable[[list[Any]], list[Any]], **options: Any) -> Unbatchify:
    return Unbatchify(batch_fn, **{"max_wait_time": 0.01, **options})


def current_in(unbatchify: Unbatchify, traced: Traced, item: Any = "item") -> str:
    with traced.tracer.start_as_current_span("caller"):
        return unbatchify(item)


def test_the_caller_is_current_in_the_batch(traced: Traced) -> None:
    with unbatchified(named) as unbatchify:
        assert current_in(unbatchify, traced) == "caller"


def test_an_older_instance(trace_with: Any) -> None:
    with unbatchified(named) as unbatchify:
        assert unbatchify("item") == "none"
        traced = trace_with()
        assert current_in(unbatchify, traced) == "caller"
        uninstrument()
        assert current_in(unbatchify, traced) == "none"
        traced.instrument()
        assert current_in(unbatchify, traced) == "caller"


def test_nothing_stays_current_in_the_worker(traced: Traced) -> None:
    with unbatchified(named) as unbatchify:
        current_in(unbatchify, traced)
        assert unbatchify("outside of any span") == "none"


def test_nothing_is_kept_of_a_caller(traced: Traced) -> None:
    class Kept:
        pass

    kept = Kept()
    reference = weakref.ref(kept)
    with unbatchified(named) as unbatchify:
        token = context_api.attach(context_api.set_value("kept", kept))
        unbatchify("item")
        context_api.detach(token)
        del kept, token
        # The worker's own variables still hold the last batch.
        unbatchify("another item")
        gc.collect()
        assert reference() is None


def test_instances_are_left_alone(traced: Traced) -> None:
    with unbatchified(named) as unbatchify:
        assert unbatchify.batch_fn is vars(unbatchify)["batch_fn"] is named
        assert not hasattr(Unbatchify, "batch_fn")
        unbatchify.batch_fn = lambda items: [item.upper() for item in items]
        assert unbatchify(input_item="replaced") == "REPLACED"
        del unbatchify.batch_fn
        assert not hasattr(unbatchify, "batch_fn")


def test_only_the_otel_context_goes_along(traced: Traced) -> None:
    variable = contextvars.ContextVar("variable", default="default")
    variable.set("the caller's")
    with unbatchified(lambda items: [variable.get()] * len(items)) as unbatchify:
        assert current_in(unbatchify, traced) == "default"


def test_an_error_of_the_batch(traced: Traced) -> None:
    error = LookupError("bad batch")

    def failing(items: list[Any]) -> list[Any]:
        raise error

    with unbatchified(failing) as unbatchify, pytest.raises(LookupError) as caught:
        current_in(unbatchify, traced)
    assert caught.value is error
    if sys.version_info >= (3, 11):
        frames = traceback.extract_tb(caught.value.__traceback__)
        ours = [
            frame for frame in frames if "/instrumentation/dspy/worker_threads" in frame.filename
        ]
        assert ours == []


class Gate:
    """A batch function that shows when it is entered and waits to be let go."""

    def __init__(self) -> None:
        self.entered = threading.Event()
        self.open = threading.Event()

    def __call__(self, items: list[Any]) -> list[str]:
        self.entered.set()
        assert self.open.wait(10)
        return named(items)


def test_a_call_in_flight_while_uninstrumenting(trace_with: Any) -> None:
    """It ends as it would have; what waits in the queue is served without our context."""
    traced = trace_with()
    gate = Gate()
    unbatchify = unbatchified(gate, max_batch_size=1)

    def switch_off() -> None:
        assert gate.entered.wait(10)
        while unbatchify.input_queue.qsize() == 0:
            time.sleep(0.001)
        uninstrument()
        gate.open.set()

    def second() -> str:
        assert gate.entered.wait(10)
        return current_in(unbatchify, traced)

    in_flight, queued, _ = in_threads(lambda: current_in(unbatchify, traced), second, switch_off)
    assert (in_flight, queued) == ("caller", "none")
    assert unbatchify("later") == "none"
    unbatchify.close()


class NotForTheUnwatched(Sampler):
    def should_sample(
        self, parent_context: Any, trace_id: int, name: str, *args: Any, **kwargs: Any
    ) -> SamplingResult:
        watched = name != "unwatched"
        return SamplingResult(Decision.RECORD_AND_SAMPLE if watched else Decision.DROP)

    def get_description(self) -> str:
        return "all but one name"


def _batch_of(traced: Traced, *callers: str) -> list[str]:
    """What each of these callers gets whose items are in one batch, in this order."""
    gate = Gate()
    size = len(callers)
    unbatchify = unbatchified(gate, max_batch_size=size, max_wait_time=10)

    def wait_for(waiting: int) -> None:
        assert gate.entered.wait(10)
        while unbatchify.input_queue.qsize() < waiting:
            time.sleep(0.001)

    def call(number: int, caller: str) -> str:
        wait_for(number)
        with traced.tracer.start_as_current_span(caller):
            return unbatchify(f"item {number}")

    def let_go() -> None:
        wait_for(size)
        gate.open.set()

    # A full batch keeps the worker busy until the batch in question is complete.
    busy = [functools.partial(unbatchify, "busy")] * size
    calls = [functools.partial(call, number, caller) for number, caller in enumerate(callers)]
    try:
        return in_threads(*busy, *calls, let_go)[size:-1]
    finally:
        unbatchify.stop_event.set()  # close() would wait for a next batch


def test_a_batch_of_many_callers(traced: Traced) -> None:
    assert _batch_of(traced, "first", "second") == ["first", "first"]


def test_a_batch_whose_first_caller_is_not_recorded(trace_with: Any) -> None:
    traced = trace_with(sampler=ParentBased(NotForTheUnwatched()))
    assert _batch_of(traced, "unwatched", "second") == ["second", "second"]


def test_items_that_cannot_be_hashed_or_are_the_same(traced: Traced) -> None:
    with unbatchified(named) as unbatchify:
        assert current_in(unbatchify, traced, ["a list"]) == "caller"
        calls = [lambda: current_in(unbatchify, traced, "same")] * 8
        assert in_threads(*calls) == ["caller"] * 8


def test_the_embeddings_retriever_in_threads(traced: Traced) -> None:
    retriever = Embeddings(["aaa", "bbb"], dspy.Embedder(letters, caching=False), k=1)
    traced.clear()

    class Program(dspy.Module):
        def forward(self, question: str) -> Any:
            return retriever(question)

    examples = [dspy.Example(question=text).with_inputs("question") for text in "ab" * 8]
    with traced.tracer.start_as_current_span("root"):
        Program().batch(examples, num_threads=4)
    root = assert_one_tree(traced.spans)
    assert root.name == "root"
    names = traced.names()
    assert names.count("retrieval Embeddings") == 16
    nodes = span_nodes(traced.spans)
    retrievals = {node.span_id for node in nodes if node.name == "retrieval Embeddings"}
    embedders = [node for node in nodes if node.name == "embeddings letters"]
    assert embedders
    assert {node.parent_id for node in embedders} <= retrievals


def test_the_pool_of_the_avatar_optimizer(traced: Traced) -> None:
    optimizer = avatar_optimizer.AvatarOptimizer.__new__(avatar_optimizer.AvatarOptimizer)
    optimizer.metric = lambda example, prediction: 1.0
    program = dspy.Predict("question -> answer")
    program.set_lm(answering())
    program.demos = []
    devset = [dspy.Example(question=str(n)).with_inputs("question") for n in range(4)]
    with traced.tracer.start_as_current_span("root"):
        optimizer.thread_safe_evaluator(devset, program, num_threads=2)
    assert_one_tree(traced.spans)
    assert traced.names().count("invoke_workflow Predict question -> answer") == 4


def test_the_pool_is_a_pool(traced: Traced) -> None:
    pool_type = avatar_optimizer.ThreadPoolExecutor
    assert issubclass(pool_type, ThreadPoolExecutor)
    assert repr(pool_type) == repr(ThreadPoolExecutor)
    variable = contextvars.ContextVar("variable", default="default")
    variable.set("the caller's")
    with traced.tracer.start_as_current_span("caller"), pool_type(max_workers=1) as pool:
        assert pool.submit(named, items=[1]).result() == ["caller"]
        assert list(pool.map(named, [[1], [2]])) == [["caller"], ["caller"]]
        assert pool.submit(variable.get).result() == "default"
        assert isinstance(pool.submit(lambda: 1 / 0).exception(), ZeroDivisionError)
        left = pool.submit(context_api.get_current)
        assert get_current_span(left.result()) is get_current_span()
    with pytest.raises(RuntimeError, match="shutdown"):
        pool.submit(named, [])


@pytest.mark.skipif(Version("3.1.2") > DSPY, reason="no RLM in this dspy")
def test_the_pool_of_rlm(traced: Traced) -> None:
    """Its own in 3.1 and 3.2; later releases carry all context variables themselves."""
    rlm = dspy.RLM("question -> answer", sub_lm=DummyLM([{"answer": "a"}] * 3))
    query = rlm._make_llm_tools()["llm_query_batched"]
    with traced.tracer.start_as_current_span("root"):
        assert len(query(["one", "two", "three"])) == 3
    assert_one_tree(traced.spans)
    assert traced.names().count("chat dummy") == 3


def test_uninstrumented_as_before(trace_with: Any) -> None:
    modules = [sys.modules[name] for name in ("dspy.utils.unbatchify", avatar_optimizer.__name__)]
    modules += [module for name, module in sys.modules.items() if name == "dspy.predict.rlm"]
    before = [dict(vars(owner)) for owner in (Unbatchify, *modules)]
    trace_with()
    assert [dict(vars(owner)) for owner in (Unbatchify, *modules)] != before
    uninstrument()
    assert [dict(vars(owner)) for owner in (Unbatchify, *modules)] == before
