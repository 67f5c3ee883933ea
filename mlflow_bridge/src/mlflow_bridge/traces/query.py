# Copyright The opentelemetry-instrumentation-dspy Authors
# SPDX-License-Identifier: Apache-2.0
"""Finished traces out of MLflow, through its public client, and out of files in OTLP JSON."""

from __future__ import annotations

import importlib
import re
import time
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from mlflow_bridge.traces.finished import FinishedTrace

if TYPE_CHECKING:
    from opentelemetry.sdk.trace import ReadableSpan

_PAGE: Final = 100
_SECONDS: Final = {"s": 1, "m": 60, "h": 3600, "d": 86_400, "w": 604_800}
_SPAN_OF_TIME: Final = re.compile(r"\s*(\d+(?:\.\d+)?)\s*([smhdw])\s*")
_NEWEST_FIRST: Final = ("timestamp_ms DESC",)
_INSTALL: Final = "pip install 'mlflow-bridge[mlflow]'"
_MAX_SHOWN: Final = 200


def get_traces(
    *,
    run_id: str | None = None,
    experiment: str | None = None,
    filter_string: str | None = None,
    since: datetime | timedelta | str | None = None,
    limit: int | None = None,
    tracking_uri: str | None = None,
) -> Iterator[FinishedTrace]:
    """Traces in MLflow, the newest first. They are read page by page, while they are looked at.

    For programs that only read. A program that traces calls ``get_traces`` of its `AutologClient`,
    which also finds what has just run. MLflow's client is used, with the credentials that MLflow's
    environment variables name. Traces without a stored span are left out.

    Args:
        run_id: Only traces that are linked to this run.
        experiment: Name or id of the experiment; by default that of the run, or else the configured
            experiment.
        filter_string: Condition in MLflow's search language, such as
            ``"trace.status = 'ERROR' AND span.name LIKE '%search%'"``.
        since: Only traces that started since: a time, a `timedelta` before now, or text such as
            ``24h`` or ``7d`` (s, m, h, d, w), or ``2025-01-31`` (ISO 8601). A time without a zone
            is local.
        limit: The most traces; None for all.
        tracking_uri: Where the traces are; by default the configured tracking URI.

    Raises:
        ConfigurationError: An argument is not accepted, there is no such experiment or run, or
            MLflow is not installed.

    Example:
        >>> for trace in get_traces(experiment="rag", since="24h"):  # doctest: +SKIP
        ...     print(trace.id, trace.duration_ms, trace.cost)
    """
    filters = checked_filters(filter_string=filter_string, since=since, limit=limit)
    uri, configured = _destination(tracking_uri)
    search = _Search(_client(uri), " AND ".join(filters), filter_string, run_id)
    return search.traces(search.location(experiment, configured), limit)


def checked_filters(
    *,
    filter_string: str | None,
    since: datetime | timedelta | str | None,
    limit: int | None,
) -> list[str]:
    """The conditions of a search, after a check of these arguments of `get_traces`.

    Raises:
        ConfigurationError: An argument is not accepted.
    """
    _check_limit(limit)
    return [*_time_filter(since), *_checked_filter(filter_string)]


def read_otlp_json(path: str | Path) -> Iterator[FinishedTrace]:
    """The traces in a file in OTLP JSON, such as an OpenTelemetry collector writes.

    Args:
        path: The file, with one message of traces in each line. It is read as a whole, since the
            spans of a trace may be anywhere in it.

    Returns:
        The traces, in the order of their first lines.

    Raises:
        OSError: The file cannot be read.
        ValueError: A line is not OTLP JSON of traces.
    """
    from mlflow_bridge._spans.trace_buffer import trace_id_of
    from mlflow_bridge.traces.from_spans import spans_of_lines

    spans: dict[int, list[ReadableSpan]] = {}
    with open(path, "rb") as lines:
        for span in spans_of_lines(lines):
            spans.setdefault(trace_id_of(span), []).append(span)
    return (FinishedTrace.from_spans(found) for found in spans.values())


@dataclass(frozen=True)
class _Search:
    """A search by MLflow's client."""

    client: Any
    filter_string: str
    given_filter: str | None
    run_id: str | None

    def location(self, experiment: str | None, configured: str) -> str:
        """The id of the experiment in which to search.

        Raises:
            ConfigurationError: There is no such experiment or run.
        """
        if experiment is None and self.run_id is not None:
            run = self._found(lambda: self.client.get_run(self.run_id))
            if run is None:
                raise _error(f"run_id of get_traces() is {self.run_id!r}", "the id of a run")
            return str(run.info.experiment_id)
        wanted = configured if experiment is None else str(experiment)
        found = self._found(lambda: self.client.get_experiment_by_name(wanted))
        if found is None and wanted.isascii() and wanted.isdigit():
            found = self._found(lambda: self.client.get_experiment(wanted))
        if found is None:
            raise _error(
                f"experiment of get_traces() is {wanted!r}, and MLflow has no such experiment",
                "the name or id of an experiment",
            )
        return str(found.experiment_id)

    def traces(self, location: str, limit: int | None) -> Iterator[FinishedTrace]:
        # Traces that arrive meanwhile move others to the next page.
        seen: set[str] = set()
        token: str | None = None
        left = limit
        while left is None or left > 0:
            page = self._page(location, token, _PAGE if left is None else min(_PAGE, left))
            for trace in page:
                if trace.info.trace_id in seen or not trace.data.spans:
                    continue
                if left == 0:
                    return
                seen.add(trace.info.trace_id)
                left = None if left is None else left - 1
                yield FinishedTrace.from_mlflow(trace)
            token = page.token
            if not token:
                return

    def _page(self, location: str, token: str | None, size: int) -> Any:
        try:
            return self.client.search_traces(
                locations=[location],
                filter_string=self.filter_string or None,
                max_results=size,
                order_by=list(_NEWEST_FIRST),
                page_token=token,
                run_id=self.run_id,
            )
        except Exception as error:
            code = getattr(error, "error_code", None)
            if self.given_filter is None or code != "INVALID_PARAMETER_VALUE":
                raise
            raise _error(
                f"filter_string of get_traces() is {self.given_filter!r}: {error}",
                "a condition in the search language of MLflow's search_traces",
            ) from error

    def _found(self, look_up: Any) -> Any:
        try:
            return look_up()
        except Exception as error:
            if getattr(error, "error_code", None) == "RESOURCE_DOES_NOT_EXIST":
                return None
            raise


def _error(problem: str, accepted: str) -> Exception:
    from mlflow_bridge._config.base import ConfigurationError

    return ConfigurationError(f"{problem}; accepted: {accepted}")


def _client(uri: str) -> Any:
    """MLflow's client.

    Raises:
        ConfigurationError: MLflow cannot be imported.
    """
    try:
        return importlib.import_module("mlflow").MlflowClient(tracking_uri=uri)
    except ImportError as error:
        from mlflow_bridge._config.base import ConfigurationError

        raise ConfigurationError(
            f"get_traces() reads through MLflow's client, which cannot be imported ({error}). "
            f"Install it with {_INSTALL}"
        ) from error


def _destination(tracking_uri: str | None) -> tuple[str, str]:
    """The tracking URI, and the experiment that is configured for it."""
    from mlflow_bridge._config.settings import MLflowDSPyConfig

    given: dict[str, Any] = {} if tracking_uri is None else {"tracking_uri": tracking_uri}
    config = MLflowDSPyConfig(**given)
    return config.tracking_uri, config.experiment_id or str(config.effective_experiment_name)


def _checked_filter(filter_string: object) -> list[str]:
    from mlflow_bridge.traces.filters import check_filter

    if filter_string is None:
        return []
    if not isinstance(filter_string, str):
        raise _error(
            f"filter_string of get_traces() is a {type(filter_string).__name__}",
            "text in the search language of MLflow's search_traces",
        )
    check_filter(filter_string)
    return [filter_string] if filter_string.strip() else []


def _check_limit(limit: object) -> None:
    is_number = isinstance(limit, int) and not isinstance(limit, bool) and limit >= 0
    if limit is not None and not is_number:
        raise _error(f"limit of get_traces() is {limit!r}", "a whole number, at least 0, or None")


def _time_filter(since: object) -> list[str]:
    if since is None:
        return []
    start = _start(since)
    if start is None:
        raise _error(
            f"since of get_traces() is {repr(since)[:_MAX_SHOWN]}",
            "a datetime, a timedelta, or text such as 90s, 30m, 24h, 7d, 2w or 2025-01-31",
        )
    return [f"trace.timestamp_ms >= {int(start * 1000)}"]


def _start(since: object) -> float | None:
    """The time in seconds since 1970; None if it is not a time."""
    try:
        if isinstance(since, str):
            found = _SPAN_OF_TIME.fullmatch(since)
            if found is None:
                return _start(datetime.fromisoformat(since.strip()))
            return max(time.time() - float(found[1]) * _SECONDS[found[2]], 0.0)
        if isinstance(since, timedelta):
            return max(time.time() - since.total_seconds(), 0.0)
        return max(since.timestamp(), 0.0) if isinstance(since, datetime) else None
    except (ValueError, OverflowError, OSError):
        return None
