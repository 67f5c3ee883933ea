# Copyright The opentelemetry-instrumentation-dspy Authors
# SPDX-License-Identifier: Apache-2.0
"""The checks of `mlflow_bridge.doctor`."""

from __future__ import annotations

import logging
import os
import platform
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import replace
from difflib import get_close_matches
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, Final

from packaging.requirements import Requirement

from mlflow_bridge._config.base import ENVIRONMENT_PREFIX, variable_of
from mlflow_bridge._config.settings import (
    ConfigurationError,
    MLflowDSPyConfig,
    own_variable,
    secrets_of,
)
from mlflow_bridge._delivery.registry import status
from mlflow_bridge._delivery.spool.directory import files_in, files_set_aside, spool_problem
from mlflow_bridge._delivery.spool.segment import Segment, locks_are_supported
from mlflow_bridge._delivery.spool.spool import directory_for
from mlflow_bridge._process.outside_text import outside_text
from mlflow_bridge._setup.doctor import Check, State
from mlflow_bridge._setup.doctor.exporters import check_exporters
from mlflow_bridge._setup.doctor.former_variables import check_former_variables
from mlflow_bridge._setup.doctor.provider import check_provider
from mlflow_bridge._setup.doctor.round_trip import check_destination
from mlflow_bridge._setup.doctor.sampling import check_sampling
from mlflow_bridge._setup.instrumentation import other_instrument_settings
from mlflow_bridge.version import __version__

_logger = logging.getLogger(__name__)

SUPPORTED: Final = ("dspy >= 3.0, < 4", "opentelemetry-sdk ~= 1.37", "wrapt >= 1.17, < 3")
FOR_A_STORE: Final = "mlflow >= 3.15, < 4"
_MAX_DETAIL: Final = 2000
_PRICES: Final = "LITELLM_LOCAL_MODEL_COST_MAP"


def examine(
    tracking_uri: str | None,
    experiment_name: str | None,
    config: MLflowDSPyConfig | None,
    *,
    send: bool,
    in_program: bool = True,
) -> Iterator[Check]:
    """Make all checks that these settings allow. Each detail is one line without secrets.

    Args:
        tracking_uri: As in `doctor`.
        experiment_name: As in `doctor`.
        config: As in `doctor`.
        send: As in `doctor`.
        in_program: Whether this process is the program whose traces are to arrive.
    """
    problem = ""
    try:
        config = config or _settings(tracking_uri, experiment_name)
    except ConfigurationError as error:
        problem, config = str(error), None
    secrets = frozenset[str]() if config is None else secrets_of(config)
    for check in _checks(config, problem, send=send, in_program=in_program):
        # Servers, drivers and files have a part in many details.
        yield replace(check, detail=outside_text(check.detail, secrets=secrets, limit=_MAX_DETAIL))


def _checks(
    config: MLflowDSPyConfig | None, problem: str, *, send: bool, in_program: bool
) -> Iterator[Check]:
    if config is None:
        yield Check("settings", "fail", problem)
    else:
        yield _settings_found(config)
    yield from _guarded("settings", _unknown_settings)
    yield from _guarded("settings", check_former_variables)
    yield from _guarded("versions", lambda: _versions(config))
    yield from _guarded("exporters", check_exporters)
    if in_program:
        yield from _guarded("instrumentation", lambda: _instrumentation(config))
    if config is None:
        return
    yield from _guarded("sampling", lambda: check_sampling(config))
    if in_program:
        yield from _guarded("provider", check_provider)
    yield from _guarded("spool", lambda: _spool(config))
    if send:
        yield from _guarded("destination", lambda: check_destination(config))
    yield from _guarded("delivery", _delivery)


def _guarded(name: str, check: Callable[[], Iterator[Check]]) -> Iterator[Check]:
    try:
        yield from check()
    # A broken installation may raise any exception, and the other checks are still useful.
    except Exception as error:
        _logger.debug("The check %s failed", name, exc_info=True)
        yield Check(name, "fail", f"{type(error).__name__}: {error}")


def _settings(tracking_uri: str | None, experiment_name: str | None) -> MLflowDSPyConfig:
    given: dict[str, Any] = {"tracking_uri": tracking_uri, "experiment_name": experiment_name}
    return MLflowDSPyConfig(**{name: value for name, value in given.items() if value is not None})


def _settings_found(config: MLflowDSPyConfig) -> Check:
    which = "traces with DSPy or GenAI spans" if config.traces == "genai" else "all traces"
    if os.environ.get("OTEL_SDK_DISABLED", "").strip().lower() == "true":
        return Check("settings", "fail", "OTEL_SDK_DISABLED turns all of OpenTelemetry off")
    if not config.enabled:
        off = f"{variable_of(MLflowDSPyConfig, 'enabled')} (argument enabled) is false"
        return Check("settings", "fail", f"{off}, so that nothing is traced")
    return Check("settings", "ok", f"{which} go to {config.destination_description}")


def _unknown_settings() -> Iterator[Check]:
    """Check for misspelt variables, which have the bridge's prefix but are not settings."""
    known = {own_variable(name) for name in MLflowDSPyConfig.model_fields}
    for name in sorted(os.environ):
        if name.startswith(ENVIRONMENT_PREFIX) and name not in known:
            similar = get_close_matches(name, known, n=1)
            hint = f"; did you mean {similar[0]}?" if similar else ""
            yield Check("settings", "warn", f"{name} is set, but there is no such setting{hint}")


def _versions(config: MLflowDSPyConfig | None) -> Iterator[Check]:
    needed = [Requirement(text) for text in SUPPORTED]
    if config is not None and not config.is_server:
        needed.append(Requirement(FOR_A_STORE))
    for requirement in needed:
        yield _version(requirement)
    yield Check(
        "versions", "ok", f"mlflow-bridge {__version__}, Python {platform.python_version()}"
    )
    if _installed("mlflow") and _installed("litellm") and _PRICES not in os.environ:
        yield Check(
            "versions",
            "warn",
            "without a network, a program that imports mlflow and litellm can hang for ever; "
            f"{_PRICES}=True prevents it",
        )


def _version(requirement: Requirement) -> Check:
    found = _installed(requirement.name)
    if found is None:
        state: State = "warn" if requirement.name == "dspy" else "fail"
        return Check("versions", state, f"{requirement.name} is not installed: {requirement}")
    if not requirement.specifier.contains(found, prereleases=True):
        detail = f"{requirement.name} {found} was never tested: {requirement}"
        return Check("versions", "warn", detail)
    return Check("versions", "ok", f"{requirement.name} {found}")


def _installed(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None


def _instrumentation(config: MLflowDSPyConfig | None) -> Iterator[Check]:
    from opentelemetry.instrumentation.dspy import DSPyInstrumentor

    instrumentor = DSPyInstrumentor()
    points = instrumentor.status()
    if not instrumentor.is_instrumented_by_opentelemetry:
        yield Check(
            "instrumentation", "warn", "DSPy is not instrumented here: autolog() was not called"
        )
        return
    if config is not None:
        yield from _recorded(config)
    if not points:
        yield Check("instrumentation", "ok", "DSPy will be instrumented when it is imported")
        return
    missing = [point for point in points if point.state == "missing"]
    for point in missing:
        yield Check("instrumentation", "warn", f"{point.point} is missing: {point.detail}")
    installed = sum(point.state == "installed" for point in points)
    yield Check("instrumentation", "ok", f"{installed} patch points of DSPy are installed")


def _recorded(config: MLflowDSPyConfig) -> Iterator[Check]:
    """Check whether the instrumentation has the settings of the configuration."""
    others = other_instrument_settings(config)
    if others:
        yield Check(
            "instrumentation",
            "warn",
            f"{', '.join(others)}: different from the configuration; instrument DSPy with "
            "DSPyInstrumentor().instrument(**config.instrument_arguments())",
        )


def _spool(config: MLflowDSPyConfig) -> Iterator[Check]:
    if not config.spool or not locks_are_supported():
        yield Check("spool", "warn", "no spool: spans that MLflow cannot take stay in memory only")
        return
    path = directory_for(config)
    problem = spool_problem(path)
    if problem is not None:
        yield Check("spool", "fail", f"no spool, spans stay in memory only: {problem}")
        return
    obstacle = _obstacle_to_writing(path)
    if obstacle is not None:
        yield Check("spool", "fail", f"{path} cannot be written: {obstacle} (spool_directory)")
        return
    files = files_in(path)
    size = sum(file.bytes for file in files)
    detail = f"{path} can be written; {size} of {config.spool_max_bytes} bytes are in it"
    aside = files_set_aside(path)
    if aside:
        yield Check(
            "spool",
            "warn",
            f"{len(aside)} files could not be delivered, and are kept as {path}/*.unreadable",
        )
    left = sum(_is_left_behind(file.path) for file in files if file.bytes)
    if not left:
        yield Check("spool", "warn" if size > config.spool_max_bytes * 0.8 else "ok", detail)
        return
    yield Check(
        "spool",
        "warn",
        f"{detail}; {left} files are left by processes that have ended: the next program with this "
        "destination delivers them, or the command mlflow-bridge spool deliver",
    )


def _obstacle_to_writing(path: Path) -> str | None:
    """The reason why a path cannot be written; None if it can. The directory is not created."""
    existing = path
    while not existing.exists():
        existing = existing.parent
    try:
        with tempfile.TemporaryFile(dir=existing):
            return None
    except OSError as error:
        return error.strerror or str(error)


def _is_left_behind(path: Path) -> bool:
    segment = Segment.adopt(path)
    if segment is None:
        return False
    segment.close()
    return True


def _delivery() -> Iterator[Check]:
    for one in status():
        counts = f"{one.destination}: {one.stored} spans stored, {one.queued} queued"
        for thread in one.dead_threads:
            yield Check("delivery", "fail", f"the thread {thread} has ended: restart the program")
        if one.missing or one.spool_dropped:
            reason = f"; last error: {one.last_error}" if one.last_error else ""
            lost = f"{counts}, {one.missing} missing, of which {one.kept} are in the spool{reason}"
            yield Check("delivery", "warn", lost)
        else:
            yield Check("delivery", "ok", counts)
