# Copyright The opentelemetry-instrumentation-dspy Authors
# SPDX-License-Identifier: Apache-2.0
"""Sums over the traces of an evaluation: scores, seconds, tokens and cost."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final, NamedTuple, cast

from mlflow_bridge._export.mapping.span import MappedSpan, context_of
from mlflow_bridge._export.mapping.storable import parsed_json
from mlflow_bridge._spans.names import COST, TOKEN_USAGE
from mlflow_bridge._spans.run_path import run_path_of
from opentelemetry.instrumentation.dspy import semconv

_MAX_TRACES: Final = 16_384
_MAX_RUNS: Final = 1_024
_MAX_VALUES: Final = 100_000
_TOKENS: Final = ("input_tokens", "output_tokens", "total_tokens")
_MAX_MODELS: Final = 16
_MAX_PROGRAMS: Final = 256
_REQUEST: Final = "gen_ai.request."
_MODEL_CALLS: Final = (semconv.Operations.LM, semconv.Operations.EMBEDDING)
_PROGRAMS: Final = (semconv.Operations.MODULE, semconv.Operations.PREDICT)


@dataclass(slots=True)
class Calls:
    """The calls of models of one or more traces.

    Attributes:
        tokens: Tokens by kind, as in MLflow's usage of a trace.
        cost: In USD; None if no call has a cost.
        settings: For each setting of a request, such as ``model`` and ``temperature``, its values.
    """

    tokens: dict[str, int] = field(default_factory=dict[str, int])
    cost: float | None = None
    settings: dict[str, dict[str, None]] = field(default_factory=dict[str, dict[str, None]])

    def add(self, other: Calls) -> None:
        """Add other calls."""
        for kind, number in other.tokens.items():
            self.tokens[kind] = self.tokens.get(kind, 0) + number
        if other.cost is not None:
            self.cost = (self.cost or 0.0) + other.cost
        for name, values in other.settings.items():
            known = self.settings.setdefault(name, {})
            known.update(dict.fromkeys(list(values)[: _MAX_MODELS - len(known)]))


class _Program(NamedTuple):
    seconds: float
    hash: str | None


@dataclass(slots=True)
class _OpenTrace:
    """Facts of a trace whose first span is not stored yet."""

    calls: Calls = field(default_factory=Calls)
    programs: dict[int, _Program] = field(default_factory=dict[int, "_Program"])
    """The program below a span, by the id of that span."""


@dataclass(slots=True)
class Totals:
    """Sums over the traces of one evaluation.

    Attributes:
        traces: Number of traces.
        seconds: Duration of the program in each trace, without the metric.
        scores: The score of each trace that has a score.
        calls: The calls of models.
        program_hash: The hash of the program; None if it is not known.
    """

    traces: int = 0
    seconds: list[float] = field(default_factory=list[float])
    scores: list[float] = field(default_factory=list[float])
    calls: Calls = field(default_factory=Calls)
    program_hash: str | None = None


class RunTotals:
    """Sums by run, from spans in the order in which they are stored. Used by one thread at a time.

    The first span of a trace, which names the run, ends after the calls of models below it.
    """

    def __init__(self) -> None:
        self._traces: OrderedDict[int, _OpenTrace] = OrderedDict()
        self._runs: OrderedDict[str, Totals] = OrderedDict()

    def of(self, key: str) -> Totals:
        """The sums of the run with a key, so far."""
        return self._runs.get(key, Totals())

    def calls_in(self, trace_id: int) -> Calls:
        """The calls of models in a trace whose first span is not stored yet."""
        return self._traces.get(trace_id, _OpenTrace()).calls

    def add(self, span: MappedSpan) -> None:
        """Add a stored span."""
        source = span.source.attributes or {}
        operation = source.get(semconv.DSPY_OPERATION)
        if span.is_local_root:
            trace = self._traces.pop(span.trace_id, _OpenTrace())
            for run in run_path_of(source):
                self._add_trace(run.key, span, trace)
        elif operation in _MODEL_CALLS:
            self._open(span.trace_id).calls.add(_calls_in(span.span.attributes or {}, source))
        elif operation in _PROGRAMS and span.source.parent is not None:
            programs = self._open(span.trace_id).programs
            if len(programs) < _MAX_PROGRAMS:
                digest = source.get(semconv.DSPY_PROGRAM_HASH)
                program = _Program(_seconds(span), None if digest is None else str(digest))
                programs[span.source.parent.span_id] = program

    def _open(self, trace_id: int) -> _OpenTrace:
        trace = self._traces.setdefault(trace_id, _OpenTrace())
        if len(self._traces) > _MAX_TRACES:
            self._traces.popitem(last=False)
        return trace

    def _add_trace(self, key: str, span: MappedSpan, trace: _OpenTrace) -> None:
        totals = self._runs.setdefault(key, Totals())
        self._runs.move_to_end(key)
        if len(self._runs) > _MAX_RUNS:
            self._runs.popitem(last=False)
        totals.traces += 1
        totals.calls.add(trace.calls)
        if len(totals.seconds) < _MAX_VALUES:
            whole = _Program(_seconds(span), None)
            program = trace.programs.get(context_of(span.source).span_id, whole)
            totals.seconds.append(program.seconds)
            totals.program_hash = totals.program_hash or program.hash
            score = (span.source.attributes or {}).get(semconv.DSPY_EXAMPLE_SCORE)
            if isinstance(score, float):
                totals.scores.append(score)


def _seconds(span: MappedSpan) -> float:
    return ((span.source.end_time or 0) - (span.source.start_time or 0)) / 1e9


def _calls_in(mapped: Mapping[str, Any], source: Mapping[str, Any]) -> Calls:
    usage: Any = parsed_json(mapped.get(TOKEN_USAGE))
    known = cast("dict[str, Any]", usage) if isinstance(usage, dict) else {}
    cost: Any = parsed_json(mapped.get(COST))
    total = cast("dict[str, Any]", cost).get("total_cost") if isinstance(cost, dict) else None
    settings = {
        key.removeprefix(_REQUEST): {str(value): None}
        for key, value in source.items()
        if key.startswith(_REQUEST) and isinstance(value, (str, int, float))
    }
    return Calls(
        {kind: known[kind] for kind in _TOKENS if isinstance(known.get(kind), int)},
        float(total) if isinstance(total, (int, float)) else None,
        settings,
    )
