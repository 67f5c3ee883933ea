# Copyright The opentelemetry-instrumentation-dspy Authors
# SPDX-License-Identifier: Apache-2.0
"""Runs that a program logs by hand, with MLflow's public functions."""

from __future__ import annotations

import importlib
import logging
import threading
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, Final, TypeVar, cast

from typing_extensions import Self

from mlflow_bridge._config.base import ConfigurationError

_logger = logging.getLogger(__name__)

_INSTALL: Final = "pip install 'mlflow-bridge[mlflow]'"
# MLflow's limits of one request, and of a value.
_MAX_PARAMS: Final = 100
_MAX_METRICS: Final = 1000
_MAX_VALUE: Final = 6000

_Value = TypeVar("_Value")


def configure_mlflow(tracking_uri: str | None = None, experiment_name: str | None = None) -> None:
    """Set the tracking URI and the experiment of MLflow itself, for runs that are logged by hand.

    `autolog` has its own settings, for traces and evaluations; unset, they are MLflow's variables.

    Args:
        tracking_uri: As for ``mlflow.set_tracking_uri``; None leaves it.
        experiment_name: As for ``mlflow.set_experiment``, which makes the experiment if there is
            none; None leaves it.

    Raises:
        ConfigurationError: MLflow is not installed, or an argument is not a text.

    Example:
        >>> configure_mlflow("sqlite:///mlflow.db", "rag")  # doctest: +SKIP
    """
    mlflow = _mlflow()
    if tracking_uri is not None:
        mlflow.set_tracking_uri(_text("tracking_uri", tracking_uri))
    if experiment_name is not None:
        mlflow.set_experiment(_text("experiment_name", experiment_name))


class MLflowLogger:
    """A run in MLflow for a block of a program, in which it is MLflow's active run.

    Traces and evaluations of the block belong to the run. Inside of another active run it is a
    child of that run, which is neither changed nor ended. The run ends as ``FINISHED``, after an
    exception as ``FAILED``, and after ``KeyboardInterrupt`` as ``KILLED``; exceptions go on.

    MLflow has one active run a thread: blocks in one thread are to end in the reverse order of
    their begin, so tasks of one event loop are not to have blocks at the same time. Methods may be
    called by any thread while the block is open, `log_program` by the thread of the block. Each
    object is for one block. What MLflow raises in a method is raised to the program; if the end of
    the block fails after an exception of the program, a warning says so.

    Args:
        run_name: The name of the run; MLflow makes one if it is None.
        tags: Tags of the run.

    Raises:
        ConfigurationError: An argument is not accepted.

    Example:
        >>> with MLflowLogger("tuning", {"team": "search"}) as run:  # doctest: +SKIP
        ...     run.log_params({"k": 5})
        ...     run.log_metrics({"recall": 0.8})
    """

    def __init__(
        self, run_name: str | None = None, tags: Mapping[str, object] | None = None
    ) -> None:
        self._name = None if run_name is None else _text("run_name", run_name)
        self._tags = {} if tags is None else _texts("tags", tags)
        self._run_id: str | None = None
        self._thread = 0
        self._has_ended = False
        self._mlflow: Any = None

    @property
    def run_id(self) -> str:
        """The id of the run.

        Raises:
            ConfigurationError: The block has not begun.
        """
        if self._run_id is None:
            raise ConfigurationError(
                "MLflowLogger has no run before its block begins; use it as "
                "'with MLflowLogger() as run:'"
            )
        return self._run_id

    def __enter__(self) -> Self:
        if self._run_id is not None:
            raise ConfigurationError(
                "this MLflowLogger has had its run; accepted: one block for each object"
            )
        self._mlflow = _mlflow()
        run = self._mlflow.start_run(
            run_name=self._name,
            nested=self._mlflow.active_run() is not None,
            tags=self._tags or None,
        )
        self._run_id = str(run.info.run_id)
        self._thread = threading.get_ident()
        _open_runs.add(self._run_id)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        status = "FINISHED"
        if kind is not None:
            status = "KILLED" if issubclass(kind, KeyboardInterrupt) else "FAILED"
        try:
            self._end(status)
        except Exception:
            if error is None:
                raise
            # The exception of the program is the one that matters.
            _logger.warning("Run %s could not be ended as %s", self._run_id, status, exc_info=True)

    def _end(self, status: str) -> None:
        self._has_ended = True
        _open_runs.discard(self.run_id)
        if self._is_below_active_run():
            self._end_runs_above(status)
        if self._is_active():
            self._mlflow.end_run(status)
        else:  # The program has ended it itself, or leaves the block in another thread.
            self._mlflow.MlflowClient().set_terminated(self.run_id, status)

    def _is_active(self) -> bool:
        active = self._mlflow.active_run()
        return active is not None and active.info.run_id == self._run_id

    def _is_below_active_run(self) -> bool:
        """Whether runs that were begun in the block of this thread are still open."""
        if threading.get_ident() != self._thread or self._is_active():
            return False
        run = self._mlflow.MlflowClient().get_run(self.run_id)
        return run.info.status == "RUNNING"

    def _end_runs_above(self, status: str) -> None:
        """End the runs that the block has left open: MLflow would make this run active again."""
        while (active := self._mlflow.active_run()) is not None and not self._is_active():
            if active.info.run_id in _open_runs:
                return  # of another block, which has not ended
            self._mlflow.end_run(status)

    def _client(self) -> Any:
        _ = self.run_id
        if self._has_ended:
            raise ConfigurationError(
                "the block of this MLflowLogger has ended; accepted: calls inside of the block"
            )
        return self._mlflow.MlflowClient()

    def log_params(self, params: Mapping[str, object]) -> None:
        """Log parameters, which cannot be changed afterwards.

        Args:
            params: Values by name. A value longer than 6,000 characters is cut, with a warning.

        Raises:
            ConfigurationError: It is not a mapping of names to values.
            MlflowException: MLflow has refused them, or cannot be reached.
        """
        entities = self._entities()
        given = [entities.Param(name, value) for name, value in _texts("params", params).items()]
        for part in _parts(given, _MAX_PARAMS):
            self._client().log_batch(self.run_id, params=part)

    def log_metrics(self, metrics: Mapping[str, float], step: int | None = None) -> None:
        """Log metrics.

        Args:
            metrics: Numbers by name.
            step: The step of the numbers; 0 if it is None.

        Raises:
            ConfigurationError: It is not a mapping of names to numbers, or the step is no integer.
            MlflowException: MLflow has refused them, or cannot be reached.
        """
        self._check_step(step)
        numbers = {name: _number(name, value) for name, value in _mapping("metrics", metrics)}
        entities, now = self._entities(), _milliseconds()
        given = [entities.Metric(name, value, now, step or 0) for name, value in numbers.items()]
        for part in _parts(given, _MAX_METRICS):
            self._client().log_batch(self.run_id, metrics=part)

    @staticmethod
    def _check_step(step: object) -> None:
        if step is not None and (isinstance(step, bool) or not isinstance(step, int)):
            raise ConfigurationError(f"step is {step!r}; accepted: an integer, or None")

    def log_artifact(self, local_path: str | Path, artifact_path: str | None = None) -> None:
        """Log a file as an artifact.

        Args:
            local_path: The file.
            artifact_path: The folder of the run's artifacts to put it in.

        Raises:
            ConfigurationError: There is no such file.
            MlflowException: MLflow has refused it, or cannot be reached.
        """
        if not isinstance(local_path, (str, Path)) or not _is_there(local_path):  # pyright: ignore[reportUnnecessaryIsInstance]
            raise ConfigurationError(f"local_path is {str(local_path)!r}; accepted: a file")
        self._client().log_artifact(self.run_id, str(local_path), artifact_path)

    def log_dict(self, dictionary: Mapping[str, Any], artifact_file: str) -> None:
        """Log a mapping as a JSON or YAML file, by the ending of the name.

        Args:
            dictionary: The mapping.
            artifact_file: The name of the artifact, such as ``config/settings.json``.

        Raises:
            ConfigurationError: It is not a mapping, or the name is empty.
            MlflowException: MLflow has refused it, or cannot be reached.
        """
        given = dict(_mapping("dictionary", dictionary))
        self._client().log_dict(self.run_id, given, _text("artifact_file", artifact_file))

    def log_text(self, text: str, artifact_file: str) -> None:
        """Log a text as a file.

        Args:
            text: The text.
            artifact_file: The name of the artifact, such as ``notes.md``.

        Raises:
            ConfigurationError: It is not a text, or the name is empty.
            MlflowException: MLflow has refused it, or cannot be reached.
        """
        if not isinstance(text, str):  # pyright: ignore[reportUnnecessaryIsInstance]
            raise ConfigurationError(f"text is a {type(text).__name__}; accepted: a text")
        self._client().log_text(self.run_id, text, _text("artifact_file", artifact_file))

    def set_tags(self, tags: Mapping[str, object]) -> None:
        """Set tags of the run.

        Args:
            tags: Values by name. Values that are not texts become texts.

        Raises:
            ConfigurationError: It is not a mapping of names to values.
            MlflowException: MLflow has refused them, or cannot be reached.
        """
        entities = self._entities()
        given = [entities.RunTag(name, value) for name, value in _texts("tags", tags).items()]
        for part in _parts(given, _MAX_PARAMS):
            self._client().log_batch(self.run_id, tags=part)

    def log_program(
        self, program: Any, name: str = "program", registered_model_name: str | None = None
    ) -> Any:
        """Log a program as a model of MLflow (``mlflow.dspy.log_model``).

        A copy is stored whose language models have no keys and headers. A process that loads the
        program configures a language model again.

        Args:
            program: A ``dspy.Module``, which is not changed.
            name: The name of the model.
            registered_model_name: Registers the model under this name; None does not.

        Returns:
            What ``mlflow.dspy.log_model`` returns.

        Raises:
            ConfigurationError: It is not a module of DSPy, or the name is empty.
            MlflowException: MLflow has refused it, or cannot be reached.
        """
        from mlflow_bridge.tracking.program_copy import (
            program_without_secrets,
            settings_without_secrets,
        )

        dspy: Any = importlib.import_module("dspy")
        if not isinstance(program, dspy.Module):
            raise ConfigurationError(
                f"program is a {type(program).__name__}; accepted: a dspy.Module"
            )
        _text("name", name)
        if registered_model_name is not None:
            _text("registered_model_name", registered_model_name)
        self._client()
        if not self._is_active():
            raise ConfigurationError(
                "log_program() was called where the run is not MLflow's active run; accepted: in "
                "the thread of the block, outside of a run inside of it"
            )
        flavour: Any = importlib.import_module("mlflow.dspy")
        with settings_without_secrets() as secrets:
            return flavour.log_model(
                program_without_secrets(program, secrets),
                name=name,
                registered_model_name=registered_model_name,
            )

    def _entities(self) -> Any:
        self._client()
        return importlib.import_module("mlflow.entities")


_open_runs: Final[set[str]] = set()
"""The ids of the runs whose block is open."""


def _is_there(path: str | Path) -> bool:
    return bool(str(path).strip()) and str(path) != "." and Path(path).exists()


def _mlflow() -> Any:
    try:
        return importlib.import_module("mlflow")
    except ImportError as error:
        raise ConfigurationError(f"logging runs needs MLflow: {_INSTALL}") from error


def _milliseconds() -> int:
    return time.time_ns() // 1_000_000


def _text(name: str, value: object) -> str:
    if not isinstance(value, str) or not value.strip():
        raise ConfigurationError(f"{name} is {value!r}; accepted: a text that is not empty")
    return value


def _mapping(name: str, given: object) -> Iterator[tuple[str, Any]]:
    if not isinstance(given, Mapping):
        raise ConfigurationError(
            f"{name} is a {type(given).__name__}; accepted: a mapping of names to values"
        )
    for key, value in cast("Mapping[object, Any]", given).items():
        if not isinstance(key, str) or not key.strip():
            raise ConfigurationError(f"a name in {name} is {key!r}; accepted: a text")
        yield key, value


def _texts(name: str, given: object) -> dict[str, str]:
    texts = {key: str(value) for key, value in _mapping(name, given)}
    long = [key for key, text in texts.items() if len(text) > _MAX_VALUE]
    if long:
        _logger.warning("%s: cut to %d characters: %s", name, _MAX_VALUE, ", ".join(long))
    return {key: text[:_MAX_VALUE] for key, text in texts.items()}


def _number(name: str, value: Any) -> float:
    # Also numbers of numpy, and tensors with one value.
    if not isinstance(value, (str, bytes, bytearray)):
        try:
            return float(value)
        except (TypeError, ValueError, OverflowError):
            pass
    raise ConfigurationError(f"metrics[{name!r}] is {value!r}; accepted: a number")


def _parts(items: list[_Value], size: int) -> Iterator[list[_Value]]:
    for start in range(0, len(items), size):
        yield items[start : start + size]
