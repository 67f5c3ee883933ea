# Copyright The opentelemetry-instrumentation-dspy Authors
# SPDX-License-Identifier: Apache-2.0
"""Print the one trace of an MLflow store as a tree with durations, tokens and cost.

Reads MLFLOW_TRACKING_URI and MLFLOW_EXPERIMENT_NAME, and uses only MLflow's public API. The exit
code is 1 unless the experiment holds exactly one trace and its state is OK, so that ``make demo``
fails if tracing fails.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import mlflow
from mlflow.entities import Span, Trace

_HEADINGS = ("span", "type", "duration", "tokens in", "out", "cost")
_FILE_STORE = "sqlite:///"


@dataclass(frozen=True)
class Row:
    """One line of the table, as text."""

    name: str
    kind: str
    duration: str
    tokens_in: str = ""
    tokens_out: str = ""
    cost: str = ""

    def cells(self) -> tuple[str, ...]:
        return self.name, self.kind, self.duration, self.tokens_in, self.tokens_out, self.cost


def main() -> int:
    uri = os.environ["MLFLOW_TRACKING_URI"]
    name = os.environ["MLFLOW_EXPERIMENT_NAME"]
    traces = _read(uri, name)
    if len(traces) != 1:
        print(f"error: experiment {name!r} holds {len(traces)} traces, not one", file=sys.stderr)
        return 1
    trace = traces[0]
    state = trace.info.state.value
    print(f"\nTrace {trace.info.trace_id}, state {state}\n")
    for line in _table(trace):
        print(f"  {line}")
    print(f"\nRequest:  {trace.info.request_preview}")
    print(f"Response: {trace.info.response_preview}")
    print(f"Stored in {_place(uri)}, experiment {name!r}")
    print(f"Open it:  {_ui_command(uri)}")
    return 0 if state == "OK" else 1


def _read(uri: str, name: str) -> list[Trace]:
    mlflow.set_tracking_uri(uri)
    experiment = mlflow.get_experiment_by_name(name)
    if experiment is None:
        return []
    found = mlflow.search_traces(locations=[experiment.experiment_id], return_type="list")
    assert isinstance(found, list)
    return found


def _table(trace: Trace) -> Iterator[str]:
    rows = [Row(*_HEADINGS), *_rows(trace.data.spans), _total(trace)]
    columns = list(zip(*(row.cells() for row in rows), strict=True))
    widths = [max(map(len, column)) for column in columns]
    rule = "  ".join("-" * width for width in widths)
    for number, row in enumerate(rows):
        if number in (1, len(rows) - 1):
            yield rule
        yield _line(row, widths)


def _line(row: Row, widths: Sequence[int]) -> str:
    """One line of the table, with words aligned on the left and figures on the right."""
    name, kind, *figures = zip(row.cells(), widths, strict=True)
    left = [text.ljust(width) for text, width in (name, kind)]
    right = [text.rjust(width) for text, width in figures]
    return "  ".join(left + right).rstrip()


def _rows(spans: Sequence[Span]) -> Iterator[Row]:
    known = {span.span_id for span in spans}
    for root in (span for span in spans if span.parent_id not in known):
        yield _row(root, "")
        yield from _rows_below(root, spans, "")


def _rows_below(parent: Span, spans: Sequence[Span], indent: str) -> Iterator[Row]:
    children = [span for span in spans if span.parent_id == parent.span_id]
    children.sort(key=lambda span: span.start_time_ns)
    for child in children:
        last = child is children[-1]
        yield _row(child, indent + ("└─ " if last else "├─ "))
        yield from _rows_below(child, spans, indent + ("   " if last else "│  "))


def _row(span: Span, branch: str) -> Row:
    usage: dict[str, int] = span.get_attribute("mlflow.chat.tokenUsage") or {}
    failed = "  [failed]" if span.status.status_code.value == "ERROR" else ""
    return Row(
        name=f"{branch}{span.name}{failed}",
        kind=span.span_type,
        duration=_milliseconds(_nanoseconds(span) / 1e6),
        tokens_in=str(usage.get("input_tokens", "")),
        tokens_out=str(usage.get("output_tokens", "")),
        cost=_dollars(span.llm_cost),
    )


def _nanoseconds(span: Span) -> int:
    """Duration of a span in nanoseconds; 0 if the span has not ended."""
    return (span.end_time_ns or span.start_time_ns) - span.start_time_ns


def _total(trace: Trace) -> Row:
    usage = trace.info.token_usage or {}
    return Row(
        name=f"total of {len(trace.data.spans)} spans",
        kind="",
        duration=_milliseconds(float(trace.info.execution_duration or 0)),
        tokens_in=str(usage.get("input_tokens", "")),
        tokens_out=str(usage.get("output_tokens", "")),
        cost=_dollars(trace.info.cost),
    )


def _milliseconds(value: float) -> str:
    return f"{value:,.1f} ms"


def _dollars(cost: dict[str, float] | None) -> str:
    return f"${cost['total_cost']:.6f}" if cost else ""


def _place(uri: str) -> str:
    is_file = uri.startswith(_FILE_STORE)
    return str(Path(uri.removeprefix(_FILE_STORE)).resolve()) if is_file else uri


def _ui_command(uri: str) -> str:
    # Without the variable, litellm's download of its price list can block the server's start.
    mlflow_command = os.path.relpath(Path(sys.executable).with_name("mlflow"))
    return f"LITELLM_LOCAL_MODEL_COST_MAP=True {mlflow_command} ui --backend-store-uri {uri}"


if __name__ == "__main__":
    sys.exit(main())
