# Copyright The opentelemetry-instrumentation-dspy Authors
# SPDX-License-Identifier: Apache-2.0
"""The program that has made a trace, built from what is saved under its hash."""

from __future__ import annotations

import importlib
import json
import re
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final, NamedTuple

from mlflow_bridge._config.base import ConfigurationError
from mlflow_bridge._export.runs.contract import PROGRAMS_RUN, RUN_KEY_TAG, program_artifact
from mlflow_bridge.traces.finished import FinishedTrace
from opentelemetry.instrumentation.dspy import program_hash

_INSTALL: Final = "pip install 'mlflow-bridge[mlflow]'"
_TRACE_ID: Final = re.compile(r"(?:tr-)?([0-9a-f]{32})")
_HASH_TAG: Final = "dspy.program.hash"
_MODEL_ID: Final = "mlflow.modelId"
_MISSING: Final = "RESOURCE_DOES_NOT_EXIST"


class ProgramNotFound(LookupError):
    """The program of a trace cannot be built; the message says what is missing, and what to do."""


class ProgramHashMismatch(ValueError):
    """A program that was built is not the program that made the trace.

    The code of the program or of its signatures has changed since, its predictors have other
    settings, or the setting ``redact`` has hidden a part of its state.
    """


class _Wanted(NamedTuple):
    """Facts of a trace that lead to its program."""

    digest: str
    experiment_id: str | None
    model_id: str | None


def program_of(
    trace: str | FinishedTrace | Any,
    program_class: Callable[[], Any] | None = None,
    *,
    allow_pickle: bool = False,
    tracking_uri: str | None = None,
    experiment: str | None = None,
) -> Any:
    """Build the program that has made a trace, with its instructions and demos.

    The state of each new program is saved with ``save_programs=True``, ``log_evals=True`` or
    ``log_compiles=True``. Language models are not: configure one, or set one on the program.

    Args:
        trace: The trace by its id (``tr-`` and 32 hexadecimal digits, or the digits), or a
            `FinishedTrace`, or a trace of MLflow's client.
        program_class: The class of the program, or a function without arguments that makes one;
            by default the class is imported, and called without arguments.
        allow_pickle: Whether the model of a trace that a logged model of MLflow has made is loaded
            if there is no saved state. This runs code of the model.
        tracking_uri: Where the program is; by default that of `autolog`, or else of the
            environment.
        experiment: Name or id of the experiment; by default that of the trace, or else that of
            `autolog` or of the environment.

    Returns:
        The program, a ``dspy.Module``.

    Raises:
        ProgramNotFound: The trace has no hash, its program was not saved, or it cannot be built.
        ProgramHashMismatch: The program that was built has another hash.
        ConfigurationError: An argument is not accepted, or MLflow is not installed.

    Example:
        >>> program = program_of("tr-0123456789abcdef0123456789abcdef")  # doctest: +SKIP
    """
    uri, configured = _destination(tracking_uri, experiment)
    mlflow = _mlflow()
    client = mlflow.MlflowClient(tracking_uri=uri)
    wanted = _wanted(client, trace)
    description = _saved(client, wanted, experiment or wanted.experiment_id or configured)
    if description is None:
        return _logged_model(mlflow, wanted, allow_pickle)
    program = _built(description, program_class)
    found = program_hash(program)
    if found != wanted.digest:
        raise ProgramHashMismatch(
            f"the program was built as {type(program).__name__}, and has the hash {found} instead "
            f"of {wanted.digest}: its code has changed since, or redact has hidden a part of its "
            "state. Give program_class the class of that time."
        )
    return program


def _destination(tracking_uri: str | None, experiment: str | None) -> tuple[str, str]:
    from mlflow_bridge._config.settings import MLflowDSPyConfig
    from mlflow_bridge._setup.autolog import get_autolog_client

    client = get_autolog_client()
    if client is not None:
        client.flush()
    config = MLflowDSPyConfig.from_env() if client is None else client.config
    name = config.experiment_id or str(config.effective_experiment_name)
    return tracking_uri or config.tracking_uri, experiment or name


def _mlflow() -> Any:
    try:
        return importlib.import_module("mlflow")
    except ImportError as error:
        raise ConfigurationError(f"program_of() needs MLflow: {_INSTALL}") from error


def _wanted(client: Any, trace: Any) -> _Wanted:
    if isinstance(trace, FinishedTrace):
        model_id = trace.metadata.get(_MODEL_ID)
        return _checked(trace.id, trace.program_hash, None, model_id)
    info = getattr(trace, "info", None)
    if info is None:
        info = _info(client, trace)
    return _checked(
        info.trace_id,
        info.tags.get(_HASH_TAG),
        info.experiment_id,
        info.trace_metadata.get(_MODEL_ID),
    )


def _info(client: Any, trace: object) -> Any:
    match = _TRACE_ID.fullmatch(trace) if isinstance(trace, str) else None
    if match is None:
        raise ConfigurationError(
            f"trace of program_of() is {trace!r}; accepted: the id of a trace (tr- and 32 "
            "hexadecimal digits, or the digits), a FinishedTrace, or a trace of MLflow"
        )
    trace_id = f"tr-{match[1]}"
    try:
        return client.get_trace(trace_id).info
    except Exception as error:
        if getattr(error, "error_code", None) != _MISSING:
            raise
        raise ProgramNotFound(f"MLflow has no trace {trace_id}") from error


def _checked(
    trace_id: str, digest: str | None, experiment_id: str | None, model_id: str | None
) -> _Wanted:
    if not digest:
        raise ProgramNotFound(
            f"trace {trace_id} has no {_HASH_TAG}: no module with a predictor has made it, or "
            "program_tags is off"
        )
    return _Wanted(str(digest), experiment_id, model_id)


def _saved(client: Any, wanted: _Wanted, experiment: str) -> dict[str, Any] | None:
    """The description that is saved under the hash; None if there is none."""
    found = client.get_experiment_by_name(experiment)
    experiment_id = experiment if found is None else found.experiment_id
    condition = f"tags.`{RUN_KEY_TAG}` = '{PROGRAMS_RUN}'"
    for run in client.search_runs([experiment_id], condition):
        path = program_artifact(wanted.digest)
        listed = client.list_artifacts(run.info.run_id, str(Path(path).parent))
        if any(item.path == path for item in listed):
            with tempfile.TemporaryDirectory(prefix="mlflow-bridge-") as directory:
                file = client.download_artifacts(run.info.run_id, path, directory)
                return json.loads(Path(file).read_text("utf-8"))
    return None


def _logged_model(mlflow: Any, wanted: _Wanted, allow_pickle: bool) -> Any:
    if wanted.model_id is not None and allow_pickle:
        importlib.import_module("mlflow.dspy")
        return mlflow.dspy.load_model(f"models:/{wanted.model_id}")
    hint = "; its logged model can be loaded with allow_pickle=True" if wanted.model_id else ""
    raise ProgramNotFound(
        f"no program with the hash {wanted.digest} is saved{hint}. Programs are saved with "
        "save_programs=True, and while content is recorded"
    )


def _built(description: dict[str, Any], program_class: Callable[[], Any] | None) -> Any:
    make = program_class or (lambda: _made(description))
    try:
        program = make()
        program.load_state(description["state"])
    except ProgramNotFound:
        raise
    except Exception as error:
        raise ProgramNotFound(
            f"{description['class']} cannot be made and given its state "
            f"({type(error).__name__}: {error}). Give program_class a function that makes it"
        ) from error
    return program


def _made(description: dict[str, Any]) -> Any:
    """The program without its state: of a class of DSPy's by its signature, of another as it is."""
    kind = _imported(description["class"])
    predictors = list(description["predictors"].values())
    if not description["class"].startswith("dspy."):
        return kind()
    if len(predictors) != 1:
        raise ProgramNotFound(
            f"{description['class']} is a class of DSPy that needs more than a signature. Give "
            "program_class a function that makes it"
        )
    return kind(_signature(predictors[0], kind.__name__))


def _signature(predictor: dict[str, Any], kind: str) -> Any:
    dspy: Any = importlib.import_module("dspy")
    signature = dspy.Signature(predictor["signature"], predictor["instructions"])
    # A ChainOfThought adds this field itself.
    return signature.delete("reasoning") if kind == "ChainOfThought" else signature


def _imported(place: str) -> Any:
    module, _, path = place.partition(":")
    try:
        found: Any = importlib.import_module(module)
        for name in path.split("."):
            found = getattr(found, name)
    except (ImportError, AttributeError) as error:
        raise ProgramNotFound(
            f"{place} cannot be imported ({error}). Give program_class the class of the program"
        ) from error
    return found
