# Copyright The opentelemetry-instrumentation-dspy Authors
# SPDX-License-Identifier: Apache-2.0
"""A program that puts the processor into a provider of its own keeps what `autolog` keeps.

Everywhere the settings are the default ones, but for where spans go.
"""

from __future__ import annotations

import os
import signal
import textwrap
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from mlflow_bridge import MLflowDSPyConfig, deliver_spool
from tests.integration.span_sink import SpanSink, spooled, traces
from tests.integration.traced_program import WORK, program_environment, run_program, stored_traces
from tests.support.children import MLFLOW, SDK

pytestmark = pytest.mark.integration

# That all spellings of the processor carry out the same settings, test_every_door shows.
PLAIN = "MLflowBatchSpanProcessor()"
AROUND_AN_EXPORTER = "MLflowBatchSpanProcessor(MLflowSpanExporter())"
BY_HAND = """
from opentelemetry.sdk.trace import TracerProvider
from mlflow_bridge import (
    DSPySampler, MLflowBatchSpanProcessor, MLflowSpanExporter, SystemRandomIdGenerator,
    trace_context,
)

# On import, since children that are started anew import the program once more.
provider = TracerProvider(sampler=DSPySampler(), id_generator=SystemRandomIdGenerator())
provider.add_span_processor({processor})
trace.set_tracer_provider(provider)

def traces_of_six(count, first=0):
    for number in range(first, first + count):
        with trace.get_tracer("program").start_as_current_span(f"{{number}}"):
            for step in range(2):
                work(f"{{number}}.{{step}}")
            trace.get_tracer("program").start_span(f"{{number}} end").end()
"""


def spans_of(count: int) -> Counter[str]:
    made: Counter[str] = Counter()
    for number in range(count):
        made += Counter([f"{number}", f"{number} end"])
        made += traces(f"{number}.0", f"{number}.1")
    return made


def environment(tmp_path: Path, uri: str) -> dict[str, str]:
    return {
        "MLFLOW_TRACKING_URI": uri,
        "XDG_STATE_HOME": str(tmp_path / "state"),
        # The helper sets more, for stores that are made meanwhile.
        "MLFLOW_DSPY_EXIT_TIMEOUT_SECONDS": "",
    }


def deliver_the_rest(sink: SpanSink, tmp_path: Path) -> None:
    base = tmp_path / "state" / "mlflow-bridge" / "spool"
    if base.exists():
        config = MLflowDSPyConfig(tracking_uri=sink.http.url, spool_directory=base)
        assert deliver_spool(config=config).complete
    assert spooled(tmp_path / "state") == 0


@pytest.mark.parametrize("count", [300, pytest.param(2000, marks=pytest.mark.scale)])
@pytest.mark.parametrize("processor", [PLAIN, AROUND_AN_EXPORTER])
def test_a_burst_and_the_end_of_the_program(processor: str, count: int, tmp_path: Path) -> None:
    with SpanSink() as sink:
        done = run_program(
            BY_HAND.format(processor=processor) + f"traces_of_six({count})",
            tmp_path,
            environment(tmp_path, sink.http.url),
            zygote=SDK,
        )
        assert " lost" not in done.stderr.replace("0 lost", "")
        deliver_the_rest(sink, tmp_path)
        assert sink.stored() == spans_of(count)


def test_a_pool_that_its_block_terminates(tmp_path: Path) -> None:
    source = """
import multiprocessing

def one(number):
    traces_of_six(1, number)

if __name__ == "__main__":
    with multiprocessing.get_context("fork").Pool(4) as pool:
        pool.map(one, range(100), chunksize=1)
"""
    with SpanSink() as sink:
        settings = environment(tmp_path, sink.http.url)
        done = run_program(BY_HAND.format(processor=PLAIN) + source, tmp_path, settings, zygote=SDK)
        deliver_the_rest(sink, tmp_path)
        assert sink.stored() == spans_of(100), done.stderr


def test_a_kill_with_write_ahead_from_the_environment(tmp_path: Path) -> None:
    source = BY_HAND.format(processor=PLAIN) + textwrap.dedent(
        """
        import os, signal
        traces_of_six(200)
        os.kill(os.getpid(), signal.SIGKILL)
        """
    )
    script = tmp_path / "program.py"
    script.write_text(WORK + source)
    with SpanSink() as sink:
        settings = {
            **program_environment(tmp_path),
            **environment(tmp_path, sink.http.url),
            "MLFLOW_DSPY_WRITE_AHEAD": "true",
        }
        done = SDK.run(script, env=settings, cwd=tmp_path)
        assert done.returncode == -signal.SIGKILL
        deliver_the_rest(sink, tmp_path)
        assert sink.stored() == spans_of(200)


def test_a_server_that_is_down(tmp_path: Path) -> None:
    with SpanSink() as sink:
        settings = environment(tmp_path, sink.http.url)
        sink.http.stop()
        source = BY_HAND.format(processor=PLAIN) + "traces_of_six(50)"
        done = run_program(source, tmp_path, settings, zygote=SDK)
        [line] = done.log_lines("spans are not in")
        assert line.startswith("300 of 300 ")
        assert "0 lost, 0 refused, 300 kept" in line
        assert spooled(tmp_path / "state") == 300
        sink.http.start()
        deliver_the_rest(sink, tmp_path)
        assert sink.stored() == spans_of(50)


WEB = """
import mlflow
from opentelemetry.sdk.trace.export import BatchSpanProcessor, SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

def serve(other):
    mlflow.set_tracking_uri(STORE)
    mlflow.set_experiment("web")
    with mlflow.start_run() as run, trace_context(
        session_id="chat-7", user_id="ada", conversation_id="c-1", tags={"channel": "web"}
    ):
        with trace.get_tracer("web").start_as_current_span("GET /ask"):
            work("first")
            work("second")
    print(run.info.run_id)
    assert trace.get_tracer_provider().force_flush()
    assert len(other.get_finished_spans()) == 5
"""
ORDERS = {
    "ours first": ("MLflowBatchSpanProcessor()", "SimpleSpanProcessor(other)"),
    "ours last": ("SimpleSpanProcessor(other)", "MLflowBatchSpanProcessor()"),
}


@pytest.mark.parametrize("door", ["autolog", *ORDERS])
def test_below_a_web_span_in_any_order_of_processors(
    door: str, store_uri: str, tmp_path: Path
) -> None:
    mlflow = pytest.importorskip("mlflow")
    if door == "autolog":
        setup = """
            import mlflow_bridge
            from opentelemetry.sdk.trace import TracerProvider
            from mlflow_bridge import trace_context
            {web}
            other = InMemorySpanExporter()
            provider = TracerProvider()
            provider.add_span_processor(SimpleSpanProcessor(other))
            trace.set_tracer_provider(provider)
            mlflow_bridge.autolog()
            serve(other)
        """
    else:
        setup = """
            from opentelemetry.sdk.trace import TracerProvider
            from mlflow_bridge import MLflowBatchSpanProcessor, trace_context
            {web}
            other = InMemorySpanExporter()
            provider = TracerProvider()
            for processor in ({processors}):
                provider.add_span_processor(processor)
            trace.set_tracer_provider(provider)
            serve(other)
        """
    web = textwrap.indent(WEB, " " * 12)
    source = setup.format(web=web, processors=", ".join(ORDERS.get(door, ())))
    settings = {
        "MLFLOW_TRACKING_URI": store_uri,
        "MLFLOW_EXPERIMENT_NAME": "web",
        "XDG_STATE_HOME": str(tmp_path / "state"),
    }
    source = f"STORE = {store_uri!r}\n{textwrap.dedent(source)}"
    done = run_program(source, tmp_path, settings, zygote=MLFLOW)
    [trace] = stored_traces(store_uri, "web")
    assert_complete(trace)
    client = mlflow.MlflowClient(store_uri)
    place = [trace.info.experiment_id]
    [linked] = client.search_traces(locations=place, run_id=done.stdout.split()[-1])
    assert linked.info.trace_id == trace.info.trace_id
    assert done.log_lines("Traceback") == []


def assert_complete(trace: Any) -> None:
    parts = [f"{name}{part}" for name in ("first", "second") for part in ("", " step")]
    assert sorted(span.name for span in trace.data.spans) == ["GET /ask", *parts]
    metadata = trace.info.trace_metadata
    assert metadata["mlflow.trace.session"] == "chat-7"
    assert metadata["mlflow.trace.user"] == "ada"
    assert trace.info.tags["channel"] == "web"


def test_ids_are_not_repeated_by_a_seed_from_the_second_trace_on(tmp_path: Path) -> None:
    """The first trace has begun when a processor can know its provider."""
    source = """
        import random
        from opentelemetry.sdk.trace import TracerProvider
        from mlflow_bridge import MLflowBatchSpanProcessor

        provider = TracerProvider()
        provider.add_span_processor(MLflowBatchSpanProcessor())
        trace.set_tracer_provider(provider)
        random.seed(42)
        for number in range(3):
            with trace.get_tracer("program").start_as_current_span("span") as span:
                print(f"{span.get_span_context().trace_id:032x}")
    """
    with SpanSink() as sink:
        settings = environment(tmp_path, sink.http.url)
        first, second = (
            run_program(source, tmp_path, settings, zygote=SDK).stdout.split() for _ in range(2)
        )
    assert first[0] == second[0]
    assert not set(first[1:]) & set(second[1:])


def test_a_processor_that_another_thread_makes_sets_no_signal_handler(tmp_path: Path) -> None:
    source = """
        import signal, threading
        from mlflow_bridge import MLflowBatchSpanProcessor

        def make():
            made.append(MLflowBatchSpanProcessor())

        made = []
        thread = threading.Thread(target=make)
        thread.start()
        thread.join()
        assert signal.getsignal(signal.SIGTERM) is signal.SIG_DFL
        make()
        assert signal.getsignal(signal.SIGTERM) is not signal.SIG_DFL
        assert len(made) == 2
    """
    settings = {**environment(tmp_path, "http://127.0.0.1:1"), "MLFLOW_DSPY_FLUSH_ON_SIGTERM": "1"}
    done = run_program(source, tmp_path, settings, zygote=SDK)
    [line] = done.stderr.splitlines()
    assert "main thread only" in line


def test_settings_that_a_provider_or_an_instrumentation_of_ones_own_ignores(tmp_path: Path) -> None:
    source = """
        import dspy
        from opentelemetry.sdk.trace import TracerProvider
        from opentelemetry.instrumentation.dspy import DSPyInstrumentor
        from mlflow_bridge import DSPySampler, MLflowBatchSpanProcessor, MLflowDSPyConfig

        config = MLflowDSPyConfig(sampling_rate=0.5, log_inputs=False, max_content_length=100)
        provider = TracerProvider(SAMPLER)
        provider.add_span_processor(MLflowBatchSpanProcessor(config))
        trace.set_tracer_provider(provider)
        DSPyInstrumentor().instrument(ARGUMENTS)
        for _ in range(2):
            work("span")
    """
    settings = environment(tmp_path, "http://127.0.0.1:1") | {"MLFLOW_DSPY_SPOOL": "false"}
    settings["MLFLOW_DSPY_EXIT_TIMEOUT_SECONDS"] = "0"
    wrong = source.replace("SAMPLER", "").replace("ARGUMENTS", "max_content_length=100")
    done = run_program(wrong, tmp_path, settings, zygote=MLFLOW)
    instrumentation, sampler = sorted(done.log_lines("no effect"), reverse=True)
    assert instrumentation.startswith("log_inputs: ")
    assert sampler.startswith("MLFLOW_DSPY_SAMPLING_RATE: ")
    right = source.replace("SAMPLER", "sampler=DSPySampler(config)")
    right = right.replace("ARGUMENTS", "**config.instrument_arguments()")
    done = run_program(right, tmp_path, settings, zygote=MLFLOW)
    assert done.log_lines("no effect") == []


def test_a_first_argument_of_another_kind_is_told_what_is_accepted() -> None:
    from mlflow_bridge import ConfigurationError, MLflowBatchSpanProcessor

    wrong: Any = "sqlite:///mlflow.db"
    with pytest.raises(ConfigurationError, match="is a str; accepted: an MLflowDSPyConfig"):
        MLflowBatchSpanProcessor(wrong)


def test_a_wrong_address_in_the_environment_is_said_and_counted(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    from opentelemetry.sdk.trace import TracerProvider

    from mlflow_bridge import MLflowBatchSpanProcessor

    monkeypatch.setenv("MLFLOW_TRACKING_URI", "ftp://nowhere")
    processor = MLflowBatchSpanProcessor()
    provider = TracerProvider(shutdown_on_exit=False)
    provider.add_span_processor(processor)
    provider.get_tracer("program").start_span("span").end()
    provider.shutdown()
    assert "MLFLOW_TRACKING_URI" in caplog.text
    status = processor.status()
    assert (status.accepted, status.rejected, status.kept) == (1, 1, 0)
    assert os.environ["MLFLOW_TRACKING_URI"] == "ftp://nowhere"
