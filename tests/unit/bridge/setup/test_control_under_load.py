# Copyright The opentelemetry-instrumentation-dspy Authors
# SPDX-License-Identifier: Apache-2.0
"""Settings of all kinds change at run time while eight threads run programs."""

from __future__ import annotations

import json
import threading
from collections import Counter
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path

import dspy
import pytest

from mlflow_bridge import AutologClient, FinishedTrace, autolog, disable_autolog
from mlflow_bridge._setup import zero_code
from opentelemetry.instrumentation.dspy import DSPyInstrumentor, set_default_arguments
from tests.support.instrumented import DEPRECATED
from tests.support.lms import EchoLM
from tests.unit.bridge.fake_exporter import (
    FakeExporterModule,
    GlobalProvider,
    install_fake_exporter,
)
from tests.unit.bridge.setup.test_recording_at_run_time import WHOLE, Outer

import_module("mlflow_bridge._setup.processor")  # before its exporter is replaced
pytestmark = pytest.mark.filterwarnings(DEPRECATED)
ROOM = 1_000_000
FILTERS = ("Outer", "Outer,Inner", "Out*", None)


@pytest.fixture(params=["autolog's provider", "the program's provider"])
def exporters(
    request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch
) -> Iterator[FakeExporterModule]:
    """As if autolog() had never been called here."""
    module = import_module("mlflow_bridge._setup.autolog")
    monkeypatch.setattr(module, "_session", type(module._session)())
    monkeypatch.setattr(zero_code, "_adopted", [])
    monkeypatch.setenv("MLFLOW_USE_DEFAULT_TRACER_PROVIDER", "true")
    provider = GlobalProvider(monkeypatch)
    if request.param == "the program's provider":
        provider.use_sdk()
    yield install_fake_exporter(monkeypatch)
    disable_autolog()
    if DSPyInstrumentor().is_instrumented_by_opentelemetry:
        DSPyInstrumentor().uninstrument()
    set_default_arguments()


class Load:
    """Eight threads that run a program until the block ends."""

    def __init__(self) -> None:
        self.calls = Counter[int]()
        self._stop = threading.Event()
        self._threads = [threading.Thread(target=self._work, args=(n,)) for n in range(8)]

    def _work(self, number: int) -> None:
        program = Outer()
        with dspy.context(lm=EchoLM(), adapter=dspy.ChatAdapter()):
            while not self._stop.is_set():
                program("why?")
                self.calls[number] += 1

    def __enter__(self) -> Load:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join()


def on_disk(spool: Path) -> Counter[str]:
    """Names of the spans in the spool."""
    lines = [line for file in spool.glob("*/*.jsonl") for line in file.read_text().splitlines()]
    return Counter(
        span["name"]
        for line in lines
        for resource in json.loads(line).get("resourceSpans", ())
        for scope in resource["scopeSpans"]
        for span in scope["spans"]
    )


def change(client: AutologClient, number: int) -> None:
    """Change the rate, the filter or the tags; at every third step one of them."""
    if number % 3 == 0:
        client.reconfigure(sampling_rate=(0, 0.5, 1)[number // 3 % 3])
    elif number % 3 == 1:
        client.reconfigure(module_filter=FILTERS[number // 3 % 4])
    else:
        client.reconfigure(custom_tags={"step": str(number), "same": str(number)})


@pytest.mark.parametrize(
    ("switches", "moves"), [(90, 4), pytest.param(1_000, 20, marks=pytest.mark.scale)]
)
def test_no_span_is_lost_doubled_or_half_recorded(
    exporters: FakeExporterModule, tmp_path: Path, switches: int, moves: int
) -> None:
    client = autolog(
        max_queue_size=ROOM, tracking_uri="sqlite:///first.db", spool_directory=tmp_path
    )
    seen: list[FinishedTrace] = []
    client.add_trace_processor(seen.append)
    destinations = range(0, switches, switches // moves)[:moves]
    with Load() as load:
        for number in range(switches):
            change(client, number)
            if number in destinations:
                client.reconfigure(tracking_uri=f"sqlite:///{number}.db")
    assert client.flush(120)
    attributes = [one for exporter in exporters.made for one in exporter.attributes]
    names = Counter(name for exporter in exporters.made for name in exporter.names)
    # A span that ends while its destination is left may be kept for it on disk.
    names += on_disk(tmp_path)
    traces = names["invoke_workflow Outer"]
    # A filter without Inner leaves out its two spans; each trace keeps to its filter.
    assert names["chat echo"] == names["ChatAdapter"] == traces == len(seen)
    assert names["Predict inner"] <= names["Inner"] <= traces
    assert names.keys() <= set(WHOLE)
    assert 0 < traces <= sum(load.calls.values())
    assert len({trace.id for trace in seen}) == traces
    assert all(trace.complete for trace in seen)
    # Both tags are from one call.
    tags = [
        (one.get("mlflow.traceTag.step"), one.get("mlflow.traceTag.same")) for one in attributes
    ]
    assert all(step == same for step, same in tags)
    assert len(exporters.made) == moves + 1
    found = Counter(trace.tags.get("step") == trace.tags.get("same") for trace in seen)
    assert found == {True: traces}
