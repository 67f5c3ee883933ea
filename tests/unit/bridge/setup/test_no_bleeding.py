# Copyright The opentelemetry-instrumentation-dspy Authors
# SPDX-License-Identifier: Apache-2.0
"""Sessions, users and tags of concurrent programs stay with their traces; secrets stay inside."""

from __future__ import annotations

import asyncio
import contextvars
import logging
import threading
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from importlib import import_module
from typing import Any

import dspy
import pytest

from mlflow_bridge import (
    AutologClient,
    ConfigurationError,
    FinishedTrace,
    autolog,
    disable_autolog,
    trace_context,
)
from mlflow_bridge._setup import zero_code
from opentelemetry.instrumentation.dspy import DSPyInstrumentor, set_default_arguments
from tests.support.instrumented import DEPRECATED
from tests.unit.bridge.fake_exporter import (
    FakeExporterModule,
    GlobalProvider,
    install_fake_exporter,
)

import_module("mlflow_bridge._setup.processor")  # before its exporter is replaced
pytestmark = pytest.mark.filterwarnings(DEPRECATED)
CANARY = "canary-4711-0815"
PATIENCE = 60.0


class Step(dspy.Module):
    def forward(self, name: str) -> str:
        return name


class Service(dspy.Module):
    """Meets the other programs in the middle of its trace."""

    def __init__(self) -> None:
        super().__init__()
        self.step = Step()

    def forward(self, name: str, meet: Any) -> str:
        meet()
        return self.step(name)

    async def aforward(self, name: str, meet: Any) -> str:
        await meet()
        return self.step(name)


@pytest.fixture
def exporters(monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeExporterModule]:
    """As if autolog() had never been called here."""
    module = import_module("mlflow_bridge._setup.autolog")
    monkeypatch.setattr(module, "_session", type(module._session)())
    monkeypatch.setattr(zero_code, "_adopted", [])
    monkeypatch.setenv("MLFLOW_USE_DEFAULT_TRACER_PROVIDER", "true")
    GlobalProvider(monkeypatch)
    yield install_fake_exporter(monkeypatch)
    disable_autolog()
    set_default_arguments()


@pytest.fixture
def traces(exporters: FakeExporterModule) -> list[FinishedTrace]:
    seen: list[FinishedTrace] = []
    autolog(custom_tags={"team": "search"}).add_trace_processor(seen.append)
    return seen


def block(name: str) -> Any:
    return trace_context(session_id=f"s-{name}", user_id=f"u-{name}", tags={"who": name})


def check(traces: list[FinishedTrace], names: set[str]) -> None:
    client = autolog(custom_tags={"team": "search"})
    assert client.flush(PATIENCE)
    found = {trace.tags["who"]: trace for trace in traces}
    assert (len(traces), found.keys()) == (len(names), names)
    for name, trace in found.items():
        assert (trace.session_id, trace.user_id) == (f"s-{name}", f"u-{name}")
        assert trace.tags["team"] == "search"
        assert len(trace.spans) == 2
        assert repr(name) in str(trace.spans[0].inputs).replace('"', "'")


def test_two_threads(traces: list[FinishedTrace]) -> None:
    both = threading.Barrier(2)

    def work(name: str) -> None:
        with block(name):
            Service()(name=name, meet=lambda: both.wait(PATIENCE))

    threads = [threading.Thread(target=work, args=(name,)) for name in ("ada", "bob")]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    check(traces, {"ada", "bob"})


async def test_two_tasks(traces: list[FinishedTrace]) -> None:
    arrived: list[str] = []
    both = asyncio.Event()

    async def work(name: str) -> None:
        async def meet() -> None:
            arrived.append(name)
            if len(arrived) == 2:
                both.set()
            await both.wait()

        with block(name):
            await Service().acall(name=name, meet=meet)

    await asyncio.gather(work("ada"), work("bob"))
    check(traces, {"ada", "bob"})


def test_a_pool_whose_threads_serve_one_program_after_another(
    traces: list[FinishedTrace],
) -> None:
    names = {f"user-{number}" for number in range(24)}

    def work(name: str) -> str:
        with block(name):
            return str(Service()(name=name, meet=lambda: None))

    with ThreadPoolExecutor(4) as pool:
        assert set(pool.map(work, sorted(names))) == names
    check(traces, names)


def test_a_pool_that_gets_the_context(traces: list[FinishedTrace]) -> None:
    names = {f"user-{number}" for number in range(8)}
    with ThreadPoolExecutor(2) as pool:
        for name in sorted(names):
            with block(name):
                context = contextvars.copy_context()
                future = pool.submit(
                    context.run, lambda name=name: Service()(name=name, meet=lambda: None)
                )
            assert future.result() == name
    check(traces, names)


def refuses(values: Mapping[str, Any]) -> Any:
    raise ValueError(f"cannot read {dict(values)}")


def rate_of(call: Any) -> float:
    raise ValueError(f"cannot read {call.args} {call.kwargs}")


def select(name: str) -> bool:
    raise ValueError(f"{CANARY} of {name}")


@pytest.mark.parametrize(
    "settings",
    [
        {"trace_condition": refuses},
        {"module_filter": select},
        {"input_sanitizer": refuses, "output_sanitizer": refuses},
        {"sampling_rate_of": rate_of},
        {"sampling_key_of": rate_of, "sampling_rate": 0.5},
        {"custom_tags": {"key": CANARY}, "custom_metadata": {"key": CANARY}},
    ],
    ids="+".join,
)
def test_no_log_line_has_what_a_function_or_a_tag_has_seen(
    exporters: FakeExporterModule,
    caplog: pytest.LogCaptureFixture,
    settings: dict[str, Any],
) -> None:
    caplog.set_level(logging.DEBUG)
    client: AutologClient = autolog(**settings)
    Step()(CANARY)
    client.reconfigure(max_queue_size=1_000)
    client.reconfigure(enabled=False)
    assert client.flush(PATIENCE)
    assert CANARY not in caplog.text
    shown = [str(record.exc_info) for record in caplog.records]
    assert CANARY not in "".join(shown)
    sanitised = "input_sanitizer" in settings
    stored = repr([one for exporter in exporters.made for one in exporter.attributes])
    assert not (sanitised and CANARY in stored)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("custom_tags", CANARY),
        ("custom_metadata", [CANARY]),
        ("headers", {"authorization": f"{CANARY}\n{CANARY}"}),
        ("tracking_token", f"{CANARY}\n{CANARY}"),
    ],
)
def test_what_an_error_says_of_a_value_that_may_be_secret(
    exporters: FakeExporterModule, name: str, value: Any
) -> None:
    with pytest.raises(ConfigurationError) as caught:
        autolog(**{name: value})
    assert CANARY not in str(caught.value)
    assert not DSPyInstrumentor().is_instrumented_by_opentelemetry
