# Copyright The opentelemetry-instrumentation-dspy Authors
# SPDX-License-Identifier: Apache-2.0
"""Result table and dataset of an evaluation's run, from the traces that are linked to the run.

They are read back from MLflow page by page. So they show what is stored, also of an evaluation
whose process has died, and 10,000 examples need little more memory than 100.
"""

from __future__ import annotations

import hashlib
import json
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Final, TextIO

TABLE: Final = "eval_results.json"
"""The artifact, in the form of MLflow's ``log_table``."""
_LOGGED: Final = "mlflow.loggedArtifacts"
_CONTEXT: Final = "mlflow.data.context"
_REQUEST_ID: Final = "mlflow.eval.requestId"
_NAME: Final = "mlflow.traceName"
_PAGE: Final = 100
_DIGITS: Final = 8

_COLUMNS: Final = (
    "example",
    "trace_id",
    "request",
    "response",
    "expectations",
    "scores",
    "rationales",
    "errors",
    "seconds",
    "tokens",
)


def write_results(mlflow: Any, client: Any, run_id: str) -> None:
    """Give the run of an evaluation its result table, and the examples as its dataset.

    Args:
        mlflow: The package ``mlflow``.
        client: An ``mlflow.MlflowClient``.
        run_id: The run.

    Raises:
        Exception: MLflow has refused a request, or its artifacts cannot be written.
    """
    run = client.get_run(run_id)
    request_ids: list[str] = []
    with tempfile.TemporaryDirectory(prefix="mlflow-bridge-") as directory:
        path = Path(directory) / TABLE
        with path.open("w", encoding="utf-8") as file:
            rows = _write(file, _traces(client, run.info.experiment_id, run_id), request_ids)
        if not rows:
            return
        client.log_artifact(run_id, str(path))
    tables = json.loads(run.data.tags.get(_LOGGED, "[]"))
    if not any(table.get("path") == TABLE for table in tables):
        tables.append({"path": TABLE, "type": "table"})
        client.set_tag(run_id, _LOGGED, json.dumps(tables))
    client.log_inputs(run_id, [_dataset(mlflow, _digest(request_ids), rows)])


def _traces(client: Any, experiment_id: str, run_id: str) -> Iterator[Any]:
    """The descriptions of the run's traces, the oldest first."""
    token: str | None = None
    while True:
        page = client.search_traces(
            locations=[experiment_id],
            run_id=run_id,
            max_results=_PAGE,
            order_by=["timestamp_ms ASC"],
            page_token=token,
            include_spans=False,
        )
        yield from (trace.info for trace in page)
        token = page.token
        if not token:
            return


def _write(file: TextIO, traces: Iterator[Any], request_ids: list[str]) -> int:
    """Write the table as JSON in pandas' form ``split``; the number of rows.

    Args:
        file: The file of the table.
        traces: Descriptions of traces.
        request_ids: Gets the id of each example.
    """
    rows = 0
    file.write(json.dumps({"columns": _COLUMNS})[:-1] + ', "data": [')
    for info in traces:
        request_id = info.tags.get(_REQUEST_ID)
        if request_id is None:
            continue  # not an example
        request_ids.append(str(request_id))
        file.write((", " if rows else "") + json.dumps(_row(info), ensure_ascii=False))
        rows += 1
    file.write("]}")
    return rows


def _row(info: Any) -> list[Any]:
    feedback = [one for one in info.assessments if one.feedback is not None]
    expected = [one for one in info.assessments if one.expectation is not None]
    return [
        info.tags.get(_NAME),
        info.trace_id,
        info.request_preview,
        info.response_preview,
        _shown({one.name: one.expectation.value for one in expected}),
        _shown({one.name: one.feedback.value for one in feedback}),
        _shown({one.name: one.rationale for one in feedback if one.rationale}),
        _shown({one.name: _message(one.feedback.error) for one in feedback if one.feedback.error}),
        None if info.execution_duration is None else info.execution_duration / 1000,
        None if info.token_usage is None else info.token_usage.get("total_tokens"),
    ]


def _message(error: Any) -> str:
    return str(error.error_message or error.error_code)


def _shown(values: Mapping[str, Any]) -> Any:
    """One value as it is, and several values as JSON: a cell of a table is no mapping."""
    if len(values) == 1:
        [value] = values.values()
        if value is None or isinstance(value, (bool, int, float, str)):
            return value
    return json.dumps(values, ensure_ascii=False, default=str) if values else None


def _digest(request_ids: list[str]) -> str:
    # Examples end in any order.
    return hashlib.sha256("\n".join(sorted(request_ids)).encode()).hexdigest()[:_DIGITS]


def _dataset(mlflow: Any, digest: str, rows: int) -> Any:
    entities = mlflow.entities
    dataset = entities.Dataset(
        name="devset",
        digest=digest,
        source_type="code",
        source=json.dumps({"kind": "dspy.Evaluate"}),
        profile=json.dumps({"num_rows": rows}),
    )
    return entities.DatasetInput(dataset, [entities.InputTag(_CONTEXT, "eval")])
