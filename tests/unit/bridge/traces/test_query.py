# Copyright The opentelemetry-instrumentation-dspy Authors
# SPDX-License-Identifier: Apache-2.0
"""Arguments of `get_traces`, without MLflow."""

from __future__ import annotations

import sys
import time
from collections.abc import Sequence
from datetime import datetime, timedelta, timezone
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest

from mlflow_bridge import ConfigurationError
from mlflow_bridge.traces import get_traces
from mlflow_bridge.traces.filters import check_filter


class Page(list[Any]):
    token: str | None = None


class FakeClient:
    """MLflow's client, as far as a search needs it, with as many traces as were given."""

    def __init__(self, traces: Sequence[Any] = ()) -> None:
        self.traces = list(traces)
        self.searches: list[dict[str, Any]] = []

    def get_experiment_by_name(self, name: str) -> Any:
        return None if name.isdigit() else SimpleNamespace(experiment_id=f"id of {name}")

    def get_experiment(self, experiment_id: str) -> Any:
        return SimpleNamespace(experiment_id=experiment_id)

    def get_run(self, run_id: str) -> Any:
        return SimpleNamespace(info=SimpleNamespace(experiment_id=f"of {run_id}"))

    def search_traces(self, **options: Any) -> Page:
        self.searches.append(options)
        start = int(options["page_token"] or 0)
        page = Page(self.traces[start : start + options["max_results"]])
        if start + len(page) < len(self.traces):
            page.token = str(start + len(page))
        return page


def trace(index: int, *, spans: bool = True) -> Any:
    span = {
        "span_id": "AAAAAAAAAAE=",
        "name": f"span {index}",
        "start_time_unix_nano": 1,
        "end_time_unix_nano": 2,
        "status": {"code": "STATUS_CODE_OK", "message": ""},
        "attributes": {},
    }
    info = SimpleNamespace(trace_id=f"tr-{index:032x}", state="OK", tags={}, trace_metadata={})
    found = [SimpleNamespace(to_dict=lambda: span)] if spans else []
    return SimpleNamespace(info=info, data=SimpleNamespace(spans=found))


@pytest.fixture
def client(monkeypatch: pytest.MonkeyPatch) -> FakeClient:
    made = FakeClient()
    mlflow: Any = ModuleType("mlflow")
    mlflow.MlflowClient = lambda tracking_uri: made
    monkeypatch.setitem(sys.modules, "mlflow", mlflow)
    return made


def test_pages_are_read_while_traces_are_looked_at(client: FakeClient) -> None:
    client.traces = [trace(index) for index in range(250)]
    found = get_traces()
    assert client.searches == []
    assert next(found).name == "span 0"
    assert len(client.searches) == 1
    assert [one.name for one in found] == [f"span {index}" for index in range(1, 250)]
    assert [one["page_token"] for one in client.searches] == [None, "100", "200"]
    assert client.searches[0]["order_by"] == ["timestamp_ms DESC"]


@pytest.mark.parametrize(("limit", "sizes"), [(0, []), (3, [3]), (120, [100, 20]), (None, [100])])
def test_a_limit(client: FakeClient, limit: int | None, sizes: list[int]) -> None:
    client.traces = [trace(index) for index in range(100 if limit is None else 200)]
    assert len(list(get_traces(limit=limit))) == (100 if limit is None else limit)
    assert [one["max_results"] for one in client.searches] == sizes


def test_a_trace_that_moves_to_the_next_page_is_given_once(client: FakeClient) -> None:
    client.traces = [trace(index) for index in range(150)]
    found = get_traces()
    first = next(found)
    client.traces.insert(0, trace(1000))
    assert [first.name, *(one.name for one in found)] == [f"span {index}" for index in range(150)]


def test_traces_without_spans_are_left_out(client: FakeClient) -> None:
    client.traces = [trace(0), trace(1, spans=False), trace(2)]
    assert [one.name for one in get_traces(limit=2)] == ["span 0", "span 2"]


@pytest.mark.parametrize(
    ("options", "location"),
    [
        ({}, "id of Default"),
        ({"experiment": "rag"}, "id of rag"),
        ({"experiment": "7"}, "7"),
        ({"run_id": "r1"}, "of r1"),
        ({"run_id": "r1", "experiment": "rag"}, "id of rag"),
    ],
)
def test_where_it_searches(client: FakeClient, options: dict[str, Any], location: str) -> None:
    list(get_traces(**options))
    [search] = client.searches
    assert search["locations"] == [location]
    assert search["run_id"] == options.get("run_id")


def test_the_environment_names_the_experiment(
    client: FakeClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_EXPERIMENT_NAME", "of the environment")
    list(get_traces())
    assert client.searches[0]["locations"] == ["id of of the environment"]


def milliseconds(client: FakeClient) -> int:
    filter_string = client.searches[-1]["filter_string"]
    return int(filter_string.removeprefix("trace.timestamp_ms >= "))


@pytest.mark.parametrize(
    ("since", "seconds"),
    [
        ("90s", 90),
        ("30m", 1800),
        ("24h", 86_400),
        (" 1.5 h ", 5400),
        ("7d", 604_800),
        ("2w", 1_209_600),
        (timedelta(hours=1), 3600),
    ],
)
def test_since_before_now(client: FakeClient, since: Any, seconds: float) -> None:
    before = time.time()
    list(get_traces(since=since))
    after = time.time()
    assert (before - seconds) * 1000 - 1 <= milliseconds(client) <= (after - seconds) * 1000


@pytest.mark.parametrize(
    "since",
    [
        datetime(2025, 1, 31, 12, tzinfo=timezone.utc),
        datetime(2025, 1, 31, 12, tzinfo=timezone.utc).astimezone().replace(tzinfo=None),
        "2025-01-31T12:00:00+00:00",
    ],
)
def test_since_a_time(client: FakeClient, since: Any) -> None:
    list(get_traces(since=since))
    assert milliseconds(client) == 1_738_324_800_000


def test_since_and_a_filter_hold_together(client: FakeClient) -> None:
    list(get_traces(since="1d", filter_string="trace.status = 'ERROR'"))
    assert client.searches[0]["filter_string"].endswith(" AND trace.status = 'ERROR'")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"since": "yesterday"}, r"since of get_traces\(\) is 'yesterday'; accepted: a datetime"),
        ({"since": 24}, r"since of get_traces\(\) is 24; accepted: "),
        ({"limit": -1}, r"limit of get_traces\(\) is -1; accepted: a whole number"),
        ({"limit": True}, r"limit of get_traces\(\) is True; accepted: a whole number"),
        ({"limit": "3"}, r"limit of get_traces\(\) is '3'; accepted: a whole number"),
        ({"filter_string": 3}, r"filter_string of get_traces\(\) is a int; accepted: text"),
        ({"tracking_uri": "ftp://nowhere"}, "MLFLOW_TRACKING_URI"),
    ],
)
def test_wrong_arguments(client: FakeClient, options: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigurationError, match=message):
        get_traces(**options)
    assert client.searches == []


def test_an_experiment_that_does_not_exist(client: FakeClient) -> None:
    client.get_experiment_by_name = lambda name: None  # type: ignore[method-assign]
    with pytest.raises(ConfigurationError, match="'rag', and MLflow has no such experiment; acc"):
        get_traces(experiment="rag")


def test_a_run_that_does_not_exist(client: FakeClient) -> None:
    def fail(run_id: str) -> Any:
        error: Any = RuntimeError("no run")
        error.error_code = "RESOURCE_DOES_NOT_EXIST"
        raise error

    client.get_run = fail  # type: ignore[method-assign]
    with pytest.raises(ConfigurationError, match=r"run_id of get_traces.* is 'r1'; acc"):
        get_traces(run_id="r1")


def test_what_mlflow_says_of_a_filter_names_the_argument(client: FakeClient) -> None:
    def fail(**_: Any) -> Any:
        error: Any = RuntimeError("Invalid clause(s)")
        error.error_code = "INVALID_PARAMETER_VALUE"
        raise error

    client.search_traces = fail  # type: ignore[method-assign]
    with pytest.raises(ConfigurationError, match=r"filter_string of get_traces.*Invalid clause"):
        next(get_traces(filter_string="trace.status = 'OK' OR trace.status = 'ERROR'"))
    with pytest.raises(RuntimeError, match="Invalid clause"):
        next(get_traces(since="1h"))


def test_without_mlflow_the_error_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "mlflow", None)
    with pytest.raises(ConfigurationError, match=r"pip install 'mlflow-bridge\[mlflow\]'"):
        get_traces()


@pytest.mark.parametrize(
    ("given", "right"),
    [
        ("spans.name = 'search'", "span.name"),
        ("spans.kind = 'TOOL'", "span.type"),
        ("span.kind = 'TOOL'", "span.type"),
        ("span.typ = 'TOOL'", "span.type"),
        ("span.attribute.dspy.operation LIKE '%lm%'", "span.attributes.dspy.operation"),
        ("span.dspy.operation LIKE '%lm%'", "span.attributes.dspy.operation"),
        ("span.inputs LIKE '%a%'", "span.content"),
        ("traces.status = 'OK'", "trace.status"),
        ("trace.state = 'OK'", "trace.status"),
        ("state = 'OK'", "trace.status"),
        ("statuses = 'OK'", "trace.status"),
        ("trace.duration_ms > 5", "trace.execution_time_ms"),
        ("duration > 5", "trace.execution_time_ms"),
        ("trace.start_time > 5", "trace.timestamp_ms"),
        ("trace_id = 'tr-1'", "trace.request_id"),
        ("session_id = 'a'", "metadata.`mlflow.trace.session`"),
        ("trace.user_id = 'a'", "metadata.`mlflow.trace.user`"),
        ("session.id = 'a'", "metadata.`mlflow.trace.session`"),
        ("assessment.exact > 0.5", "feedback.exact"),
        ("feedbacks.exact > 0.5", "feedback.exact"),
        ("tgas.channel = 'web'", "tags.channel"),
        ("trace.status = 'OK' AND spans.name = 'a'", "span.name"),
        ("trace.status IN ('OK') and spans.name LIKE 'a'", "span.name"),
    ],
)
def test_a_near_miss_in_a_filter_has_the_right_name(given: str, right: str) -> None:
    with pytest.raises(ConfigurationError) as caught:
        check_filter(given)
    assert str(caught.value).endswith(f"; accepted: {right}")


def test_a_name_that_resembles_no_other_has_all_names() -> None:
    with pytest.raises(ConfigurationError, match=r"'xyz.abc', which.*accepted: trace. with client"):
        check_filter("xyz.abc = 1")


@pytest.mark.parametrize(
    "given",
    [
        "trace.status = 'ERROR'",
        "status = 'ERROR' AND name LIKE 'RAG%'",
        "attributes.timestamp_ms > 5 AND attribute.end_time < 9",
        "span.name = 'spans.name = 3' AND span.type IN ('TOOL', 'LLM')",
        'span.name = "spans.kind = 3"',
        "span.attributes.dspy.operation LIKE '%lm%'",
        "span.content ILIKE '%東京%'",
        "tags.channel = 'web' AND tag.`mlflow.traceName` = 'RAG'",
        'tags."mlflow.traceName" = "RAG"',
        "metadata.`mlflow.trace.session` = 'a' AND tags.gone IS NULL",
        "feedback.exact_match > 0.5 AND expectation.answer = 'a' AND issue.id = '1'",
        "trace.text LIKE '%a%' AND trace.client_request_id = 'b' AND prompt = 'n/1'",
        "trace.status NOT IN ('OK')",
        "",
        "nonsense",
    ],
)
def test_what_mlflow_knows_is_left_to_mlflow(given: str) -> None:
    check_filter(given)
