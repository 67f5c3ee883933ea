# Copyright The opentelemetry-instrumentation-dspy Authors
# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import logging
import signal
import threading
from collections.abc import Iterator
from importlib import import_module

import pytest
from opentelemetry.sdk.trace import TracerProvider

import mlflow_bridge
from mlflow_bridge import (
    AutologClient,
    ConfigurationError,
    MLflowDSPyConfig,
    autolog,
    disable_autolog,
    get_autolog_client,
)
from mlflow_bridge._setup import zero_code
from mlflow_bridge._setup.sigterm import TerminationHandler
from opentelemetry.instrumentation.dspy import ContentMode, load_settings, set_default_arguments
from tests.unit.bridge.fake_exporter import (
    FakeExporterModule,
    GlobalProvider,
    install_fake_exporter,
)


class FakeInstrumentor:
    """Counts; like the real one, a singleton."""

    is_instrumented_by_opentelemetry = False
    settings = None
    providers: list[object]
    arguments: list[dict[str, object]]
    uninstrumented = 0

    def __call__(self) -> FakeInstrumentor:
        return self

    def __init__(self) -> None:
        self.providers = []
        self.arguments = []

    def instrument(self, *, tracer_provider: object, **arguments: object) -> None:
        self.providers.append(tracer_provider)
        self.arguments.append(arguments)
        self.is_instrumented_by_opentelemetry = True

    def uninstrument(self) -> None:
        self.uninstrumented += 1
        self.is_instrumented_by_opentelemetry = False


@pytest.fixture(autouse=True)
def fresh_process(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """As if autolog() had never been called here."""
    module = import_module("mlflow_bridge._setup.autolog")
    monkeypatch.setattr(module, "_session", type(module._session)())
    monkeypatch.setattr(zero_code, "_adopted", [])
    for name in (
        "MLFLOW_TRACKING_URI",
        "MLFLOW_EXPERIMENT_NAME",
        "MLFLOW_EXPERIMENT_ID",
        "OTEL_INSTRUMENTATION_GENAI_CAPTURE_MESSAGE_CONTENT",
        "OTEL_SDK_DISABLED",
    ):
        monkeypatch.delenv(name, raising=False)
    # Else MLflow, if another test has imported it, would stay with the provider of a test.
    monkeypatch.setenv("MLFLOW_USE_DEFAULT_TRACER_PROVIDER", "true")
    yield
    disable_autolog()
    set_default_arguments()


@pytest.fixture
def exporters(monkeypatch: pytest.MonkeyPatch) -> FakeExporterModule:
    return install_fake_exporter(monkeypatch)


@pytest.fixture
def provider(monkeypatch: pytest.MonkeyPatch) -> GlobalProvider:
    return GlobalProvider(monkeypatch)


@pytest.fixture
def dspy(monkeypatch: pytest.MonkeyPatch) -> FakeInstrumentor:
    instrumentor = FakeInstrumentor()
    monkeypatch.setattr("opentelemetry.instrumentation.dspy.DSPyInstrumentor", instrumentor)
    return instrumentor


def flush(provider: GlobalProvider) -> None:
    assert isinstance(provider.current, TracerProvider)
    assert provider.current.force_flush()


def test_makes_a_provider_where_there_is_none(
    exporters: FakeExporterModule, provider: GlobalProvider, dspy: FakeInstrumentor
) -> None:
    autolog()
    provider.record("span")
    flush(provider)
    assert [exporter.names for exporter in exporters.made] == [["span"]]
    assert dspy.providers == [provider.current]


def test_joins_the_provider_that_is_there(
    exporters: FakeExporterModule, provider: GlobalProvider, dspy: FakeInstrumentor
) -> None:
    sdk = provider.use_sdk()
    autolog()
    assert provider.current is sdk
    provider.record("span")
    flush(provider)
    assert exporters.made[0].names == ["span"]


def test_spans_are_enriched(
    exporters: FakeExporterModule, provider: GlobalProvider, dspy: FakeInstrumentor
) -> None:
    from mlflow_bridge import trace_context

    autolog()
    with trace_context(session_id="s"):
        provider.record("span")
    flush(provider)
    assert exporters.made[0].attributes == [{"session.id": "s"}]


def test_leaves_a_provider_of_another_kind_alone(
    exporters: FakeExporterModule,
    provider: GlobalProvider,
    dspy: FakeInstrumentor,
    caplog: pytest.LogCaptureFixture,
) -> None:
    provider.use_another_implementation()
    autolog()
    [own] = dspy.providers
    assert isinstance(own, TracerProvider)
    own.get_tracer("dspy").start_span("span").end()
    assert own.force_flush()
    assert exporters.made[0].names == ["span"]
    assert "NoOpTracerProvider" in caplog.text


def test_the_same_settings_again_do_nothing(
    exporters: FakeExporterModule, provider: GlobalProvider, dspy: FakeInstrumentor
) -> None:
    autolog(tracking_uri="sqlite:///a.db", experiment_name="e")
    autolog(tracking_uri="sqlite:///a.db", experiment_name="e")
    provider.record("span")
    flush(provider)
    assert [exporter.names for exporter in exporters.made] == [["span"]]
    assert len(dspy.providers) == 1


def test_many_threads_at_once_set_up_one_delivery(
    exporters: FakeExporterModule, provider: GlobalProvider, dspy: FakeInstrumentor
) -> None:
    threads = [threading.Thread(target=autolog) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    provider.record("span")
    flush(provider)
    assert [exporter.names for exporter in exporters.made] == [["span"]]
    assert len(dspy.providers) == 1


def test_other_settings_move_on_to_the_new_destination(
    exporters: FakeExporterModule, provider: GlobalProvider, dspy: FakeInstrumentor
) -> None:
    autolog(tracking_uri="sqlite:///a.db")
    provider.record("first")
    autolog(tracking_uri="sqlite:///b.db")
    provider.record("second")
    flush(provider)
    old, new = exporters.made
    assert (old.names, new.names) == (["first"], ["second"])
    assert (old.closed, new.closed) == (True, False)
    assert len(dspy.providers) == 1


def test_settings_come_from_the_environment(
    exporters: FakeExporterModule,
    provider: GlobalProvider,
    dspy: FakeInstrumentor,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.INFO)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:5000")
    monkeypatch.setenv("MLFLOW_EXPERIMENT_NAME", "from the environment")
    autolog()
    [line] = [r.message for r in caplog.records if r.name == "mlflow_bridge._setup.autolog"]
    assert "http://127.0.0.1:5000" in line
    assert "from the environment" in line
    assert "SPAN_ONLY" in line


def test_a_wrong_address_in_the_environment_is_one_warning_and_dspy_is_instrumented(
    exporters: FakeExporterModule,
    provider: GlobalProvider,
    dspy: FakeInstrumentor,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "ftp://nowhere")
    autolog()
    [line] = [record.message for record in caplog.records]
    assert "MLFLOW_TRACKING_URI" in line
    assert "do not go to MLflow" in line
    assert len(dspy.providers) == 1
    assert exporters.made == []


def test_spans_without_a_place_to_go_are_counted_until_there_is_one(
    exporters: FakeExporterModule,
    provider: GlobalProvider,
    dspy: FakeInstrumentor,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "ftp://nowhere")
    client = autolog()
    autolog()
    provider.record("lost")
    client.flush(20)
    [status] = [one for one in client.status() if "MLFLOW_TRACKING_URI" in str(one.last_error)]
    assert (status.accepted, status.rejected, status.queued) == (1, 1, 0)
    autolog(tracking_uri="sqlite:///a.db")
    provider.record("stored")
    flush(provider)
    assert [exporter.names for exporter in exporters.made] == [["stored"]]


def test_with_a_wrong_address_in_the_environment_the_earlier_destination_stays(
    exporters: FakeExporterModule,
    provider: GlobalProvider,
    dspy: FakeInstrumentor,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    autolog(tracking_uri="sqlite:///a.db")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "ftp://nowhere")
    autolog()
    provider.record("span")
    flush(provider)
    assert exporters.made[0].names == ["span"]
    assert "still go to" in caplog.text


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"tracking_uri": "ftp://nowhere"}, "MLFLOW_TRACKING_URI"),
        ({"max_batch_size": 0}, "1 to 100000"),
        ({"max_batchsize": 5}, "there is no setting 'max_batchsize'"),
    ],
)
def test_a_wrong_argument_raises_and_changes_nothing(
    exporters: FakeExporterModule,
    provider: GlobalProvider,
    dspy: FakeInstrumentor,
    arguments: dict[str, object],
    message: str,
) -> None:
    with pytest.raises(ConfigurationError, match=message):
        autolog(**arguments)
    with pytest.raises(ConfigurationError, match=message):
        autolog(MLflowDSPyConfig(), **arguments)
    assert (exporters.made, dspy.providers, get_autolog_client()) == ([], [], None)


def test_an_address_as_the_first_argument_is_told_its_name(dspy: FakeInstrumentor) -> None:
    with pytest.raises(ConfigurationError, match=r"is a str; accepted: .*tracking_uri=") as caught:
        autolog("http://me:geheim@host")  # type: ignore[arg-type]
    assert "geheim" not in str(caught.value)
    assert dspy.providers == []


def test_settings_that_are_given_go_before_those_of_the_configuration(
    exporters: FakeExporterModule, provider: GlobalProvider, dspy: FakeInstrumentor
) -> None:
    config = MLflowDSPyConfig(tracking_uri="http://host", experiment_id="7", max_batch_size=5)
    client = autolog(config, experiment_name="mine", max_queue_size=9)
    assert client.config is exporters.made[0].config
    assert client.config.tracking_uri == "http://host"
    assert client.config.effective_experiment_name == "mine"
    assert (client.config.max_batch_size, client.config.max_queue_size) == (5, 9)


def test_settings_of_the_instrumentation_reach_it(
    exporters: FakeExporterModule, provider: GlobalProvider, dspy: FakeInstrumentor
) -> None:
    autolog(log_inputs=False)
    autolog(log_inputs=False)
    assert dspy.arguments == [{"capture_content": ContentMode.SPAN_ONLY, "capture_inputs": False}]
    autolog(capture_content=False)
    assert dspy.arguments[1:] == [{"capture_content": ContentMode.NO_CONTENT}]
    assert dspy.uninstrumented == 1


def test_a_configuration_by_name_is_told_its_place(dspy: FakeInstrumentor) -> None:
    with pytest.raises(ConfigurationError, match=r"autolog\(config\)"):
        autolog(config=MLflowDSPyConfig())
    assert dspy.providers == []


def test_nested_blocks_end_with_the_outermost_one(
    exporters: FakeExporterModule, provider: GlobalProvider, dspy: FakeInstrumentor
) -> None:
    with autolog() as outer:
        with autolog() as inner:
            assert inner is outer
        provider.record("after the inner block")
        assert outer.flush()
    assert exporters.made[0].names == ["after the inner block"]
    assert get_autolog_client() is None


def test_there_is_one_client_until_the_end(
    exporters: FakeExporterModule, provider: GlobalProvider, dspy: FakeInstrumentor
) -> None:
    assert get_autolog_client() is None
    with autolog(experiment_name="one") as client:
        assert isinstance(client, AutologClient)
        assert get_autolog_client() is client
        assert autolog(experiment_name="two") is client
        assert client.config.experiment_name == "two"
        provider.record("span")
        assert client.flush()
        assert exporters.made[1].names == ["span"]
        assert client.status()[-1] == mlflow_bridge.status()[-1]
    assert get_autolog_client() is None
    assert dspy.uninstrumented == 1
    autolog()
    client.close()
    assert get_autolog_client() not in (None, client)


def test_an_exporter_that_cannot_be_made_is_one_warning(
    exporters: FakeExporterModule,
    provider: GlobalProvider,
    dspy: FakeInstrumentor,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    def broken(**_: object) -> None:
        raise RuntimeError("no exporter today")

    monkeypatch.setattr(exporters, "MLflowSpanExporter", broken)
    autolog()
    assert len(caplog.records) == 1
    assert "no exporter today" in caplog.text
    assert len(dspy.providers) == 1


def test_an_instrumentation_that_fails_is_a_warning(
    exporters: FakeExporterModule,
    provider: GlobalProvider,
    dspy: FakeInstrumentor,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    def broken(**_: object) -> None:
        raise RuntimeError("not today")

    monkeypatch.setattr(dspy, "instrument", broken)
    autolog()
    assert "DSPy could not be instrumented" in caplog.text


def test_what_zero_code_has_set_up_is_not_set_up_again(
    exporters: FakeExporterModule, provider: GlobalProvider, dspy: FakeInstrumentor
) -> None:
    sdk = provider.use_sdk()
    exporters.MLflowSpanExporter(tracking_uri="sqlite:///a.db")
    zero_code.adopt_exporters()
    autolog(tracking_uri="sqlite:///a.db")
    provider.record("span")
    flush(provider)
    assert [exporter.names for exporter in exporters.made] == [["span"]]
    disable_autolog()
    provider.record("after")
    sdk.shutdown()
    assert exporters.made[0].names == ["span", "after"]
    assert load_settings().content_mode.name == "SPAN_ONLY"


def test_moving_on_to_what_zero_code_has_set_up_ends_the_delivery_before(
    exporters: FakeExporterModule, provider: GlobalProvider, dspy: FakeInstrumentor
) -> None:
    provider.use_sdk()
    exporters.MLflowSpanExporter(tracking_uri="sqlite:///b.db")
    zero_code.adopt_exporters()
    client = autolog(tracking_uri="sqlite:///a.db")
    provider.record("first")
    autolog(tracking_uri="sqlite:///b.db")
    assert client.config.tracking_uri.endswith("b.db")
    provider.record("second")
    flush(provider)
    hooked, own = exporters.made
    assert (hooked.names, own.names) == (["first", "second"], ["first"])
    assert (hooked.closed, own.closed) == (False, True)


def test_the_zero_code_hook_does_not_adopt_what_autolog_made(
    exporters: FakeExporterModule, provider: GlobalProvider, dspy: FakeInstrumentor
) -> None:
    autolog()
    zero_code.adopt_exporters()
    assert zero_code.adopted_delivery(exporters.made[0].config) is None


def test_disable_delivers_what_waits_and_sends_nothing_more(
    exporters: FakeExporterModule, provider: GlobalProvider, dspy: FakeInstrumentor
) -> None:
    autolog()
    provider.record("before")
    disable_autolog()
    provider.record("after")
    flush(provider)
    assert exporters.made[0].names == ["before"]
    assert exporters.made[0].closed
    assert dspy.uninstrumented == 1


def test_disable_without_autolog_does_nothing(dspy: FakeInstrumentor) -> None:
    disable_autolog()
    assert dspy.uninstrumented == 0


def test_an_instrumentation_by_the_program_itself_stays(
    exporters: FakeExporterModule, provider: GlobalProvider, dspy: FakeInstrumentor
) -> None:
    dspy.instrument(tracer_provider=None)
    autolog()
    disable_autolog()
    assert (len(dspy.providers), dspy.uninstrumented) == (1, 0)


def test_autolog_after_disable_starts_again(
    exporters: FakeExporterModule, provider: GlobalProvider, dspy: FakeInstrumentor
) -> None:
    autolog()
    provider.record("one")
    disable_autolog()
    autolog()
    provider.record("two")
    flush(provider)
    assert [exporter.names for exporter in exporters.made] == [["one"], ["two"]]
    assert len(dspy.providers) == 2


def test_a_disabled_sdk_disables_autolog(
    exporters: FakeExporterModule,
    provider: GlobalProvider,
    dspy: FakeInstrumentor,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("OTEL_SDK_DISABLED", "True")
    client = autolog(experiment_name="mine")
    assert client is get_autolog_client()
    assert client.config.experiment_name == "mine"
    assert client.flush()
    assert exporters.made == []
    assert dspy.providers == []


def test_open_spans_move_on_to_the_next_destination(
    exporters: FakeExporterModule, provider: GlobalProvider, dspy: FakeInstrumentor
) -> None:
    sdk = provider.use_sdk()
    autolog(experiment_name="one")
    span = sdk.get_tracer("test").start_span("open")
    autolog(experiment_name="two")
    assert span.is_recording()
    sdk.shutdown()
    assert not span.is_recording()
    assert [exporter.names for exporter in exporters.made] == [[], ["open"]]


def test_spans_of_undecided_traces_move_on_to_the_next_destination(
    exporters: FakeExporterModule,
    provider: GlobalProvider,
    dspy: FakeInstrumentor,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("MLFLOW_DSPY_TRACES", "genai")
    sdk = provider.use_sdk()
    tracer = sdk.get_tracer("test")
    autolog(experiment_name="one")
    with tracer.start_as_current_span("request"):
        tracer.start_span("query").end()
        autolog(experiment_name="two")
        tracer.start_span("chat", attributes={"gen_ai.operation.name": "chat"}).end()
    sdk.shutdown()
    assert [exporter.names for exporter in exporters.made] == [[], ["query", "chat", "request"]]


def test_a_trace_that_is_wanted_stays_so_at_the_next_destination(
    exporters: FakeExporterModule,
    provider: GlobalProvider,
    dspy: FakeInstrumentor,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("MLFLOW_DSPY_TRACES", "genai")
    sdk = provider.use_sdk()
    tracer = sdk.get_tracer("test")
    autolog(max_batch_size=100)
    with tracer.start_as_current_span("request"):
        tracer.start_span("chat", attributes={"gen_ai.operation.name": "chat"}).end()
        autolog(max_batch_size=200)
        tracer.start_span("query").end()
    sdk.shutdown()
    assert [exporter.names for exporter in exporters.made] == [["chat"], ["query", "request"]]


def test_disable_leaves_open_spans_alone(
    exporters: FakeExporterModule, provider: GlobalProvider, dspy: FakeInstrumentor
) -> None:
    sdk = provider.use_sdk()
    autolog()
    span = sdk.get_tracer("test").start_span("open")
    disable_autolog()
    assert span.is_recording()


@pytest.mark.skipif(not hasattr(signal, "SIGTERM"), reason="needs signals")
@pytest.mark.parametrize("wanted", [True, False])
def test_sigterm_is_handled_only_where_that_is_wanted(
    wanted: bool,
    exporters: FakeExporterModule,
    provider: GlobalProvider,
    dspy: FakeInstrumentor,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    before = signal.getsignal(signal.SIGTERM)
    monkeypatch.setenv("MLFLOW_DSPY_FLUSH_ON_SIGTERM", str(wanted).lower())
    autolog()
    assert isinstance(signal.getsignal(signal.SIGTERM), TerminationHandler) is wanted
    disable_autolog()
    assert signal.getsignal(signal.SIGTERM) is before


def test_a_client_changes_settings_at_run_time(
    exporters: FakeExporterModule, provider: GlobalProvider, dspy: FakeInstrumentor
) -> None:
    client = autolog(experiment_name="one", custom_tags={"team": "a"})
    assert client.config.custom_tags == {"team": "a"}
    client.reconfigure(custom_tags={"team": 7}, max_batch_size=3)
    config = client.config
    assert (config.custom_tags, config.max_batch_size) == ({"team": "7"}, 3)
    assert config.experiment_name == "one"
    client.reconfigure(MLflowDSPyConfig(experiment_name="two"), custom_metadata={"release": 2})
    assert client.config.experiment_name == "two"
    assert (client.config.custom_tags, client.config.custom_metadata) == ({}, {"release": "2"})
    assert get_autolog_client() is client


def test_wrong_settings_at_run_time_change_nothing(
    exporters: FakeExporterModule, provider: GlobalProvider, dspy: FakeInstrumentor
) -> None:
    client = autolog(experiment_name="one")
    before = client.config
    for wrong in ({"max_batch_size": 0}, {"unknown": 1}, {"custom_tags": 7}):
        with pytest.raises(ConfigurationError, match=next(iter(wrong))):
            client.reconfigure(**wrong)
    assert client.config == before


def test_a_closed_client_changes_nothing(
    exporters: FakeExporterModule, provider: GlobalProvider, dspy: FakeInstrumentor
) -> None:
    client = autolog(experiment_name="one")
    client.close()
    client.reconfigure(experiment_name="two")
    assert get_autolog_client() is None
