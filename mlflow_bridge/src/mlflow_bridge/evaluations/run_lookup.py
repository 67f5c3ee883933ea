# Copyright The opentelemetry-instrumentation-dspy Authors
# SPDX-License-Identifier: Apache-2.0
"""Runs in MLflow by id or name, through MLflow's public client."""

from __future__ import annotations

import importlib
import logging
import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Final

logger = logging.getLogger(__name__)

_INSTALL: Final = "pip install 'mlflow-bridge[mlflow]'"
_PAGE: Final = 1000
_MAX_SHOWN: Final = 5
_RUN_ID: Final = re.compile(r"[A-Za-z0-9][\w\-]{0,255}", re.ASCII)
_NO_SUCH_RUN: Final = ("RESOURCE_DOES_NOT_EXIST", "INVALID_PARAMETER_VALUE")


@dataclass(frozen=True)
class RunLookup:
    """Finds runs for one public function.

    Attributes:
        caller: Name of the function, for errors.
        client: MLflow's client.
        tracking_uri: Where the runs are.
        experiment: Name or id of the experiment in which names of runs are looked up.
    """

    caller: str
    client: Any
    tracking_uri: str
    experiment: str

    def run(self, argument: str, value: object) -> Any:
        """The run with an id, or else with a name.

        Args:
            argument: Name of the argument that has the value, for errors.
            value: Id or name.

        Raises:
            ConfigurationError: There is no such run, or several runs have this name.
        """
        if not isinstance(value, str) or not value:
            raise self._error(argument, value, "")
        found = self._by_id(value)
        if found is not None:
            return found
        named = list(self._by_name(value))
        if len(named) == 1:
            return named[0]
        if not named:
            problem = (
                ", and MLflow has no run with this id, nor with this name in experiment "
                f"{self.experiment!r}"
            )
        else:
            ids = ", ".join(run.info.run_id for run in named[:_MAX_SHOWN])
            more = ", ..." if len(named) > _MAX_SHOWN else ""
            problem = f", which is the name of {len(named)} runs, newest first: {ids}{more}"
        raise self._error(argument, value, problem)

    def _error(self, argument: str, value: object, problem: str) -> Exception:
        return configuration_error(
            f"{argument} of {self.caller}() is {value!r}{problem}",
            "the id of a run, or a name that one run of the experiment has",
        )

    def _by_id(self, value: str) -> Any:
        if _RUN_ID.fullmatch(value) is None:
            return None
        try:
            return self.client.get_run(value)
        except Exception as error:
            if getattr(error, "error_code", None) in _NO_SUCH_RUN:
                return None
            raise

    def _by_name(self, value: str) -> Iterator[Any]:
        experiment_id = self._experiment_id()
        if experiment_id is None:
            return
        token: str | None = None
        while True:
            page = self.client.search_runs(
                [experiment_id],
                filter_string=_name_filter(value),
                max_results=_PAGE,
                order_by=["attributes.start_time DESC"],
                page_token=token,
            )
            # Some databases compare without regard to case.
            yield from (run for run in page if run.info.run_name == value)
            token = page.token
            if not token:
                return

    def _experiment_id(self) -> str | None:
        found = self.client.get_experiment_by_name(self.experiment)
        if found is not None:
            return str(found.experiment_id)
        # An id may be given where a name is looked up.
        return self.experiment if self.experiment.isascii() and self.experiment.isdigit() else None


def run_lookup(caller: str, tracking_uri: str | None, experiment: str | None) -> RunLookup:
    """Make the lookup of runs, after a delivery of what waits in this process.

    Args:
        caller: Name of the public function.
        tracking_uri: By default that of the client of `autolog`, or else the configured one.
        experiment: In the same way the experiment.

    Raises:
        ConfigurationError: MLflow cannot be imported, or a setting is not accepted.
    """
    from mlflow_bridge._config.settings import MLflowDSPyConfig
    from mlflow_bridge._setup.autolog import get_autolog_client

    autolog_client = get_autolog_client()
    if autolog_client is None:
        given: dict[str, Any] = {} if tracking_uri is None else {"tracking_uri": tracking_uri}
        config = MLflowDSPyConfig(**given)
    else:
        config = autolog_client.config
        if not autolog_client.flush():
            logger.warning(
                "%s() reads MLflow while traces still wait for their delivery: the latest "
                "examples may be missing.",
                caller,
            )
    uri = config.tracking_uri if tracking_uri is None else tracking_uri
    wanted = experiment or config.experiment_id or str(config.effective_experiment_name)
    return RunLookup(caller, needed(caller, "mlflow").MlflowClient(tracking_uri=uri), uri, wanted)


def needed(caller: str, module: str) -> Any:
    """A module of MLflow or of what MLflow brings.

    Raises:
        ConfigurationError: It cannot be imported.
    """
    try:
        return importlib.import_module(module)
    except ImportError as error:
        from mlflow_bridge._config.base import ConfigurationError

        raise ConfigurationError(
            f"{caller}() needs MLflow with its dependencies, and {module} cannot be imported "
            f"({error}). Install it with {_INSTALL}"
        ) from error


def configuration_error(problem: str, accepted: str) -> Exception:
    """The error of an argument that is not accepted."""
    from mlflow_bridge._config.base import ConfigurationError

    return ConfigurationError(f"{problem}; accepted: {accepted}")


def _name_filter(name: str) -> str:
    """The condition on the name; none for a name that MLflow's search language cannot quote."""
    for quote in ('"', "'"):
        if quote not in name and "\\" not in name:
            return f"attributes.run_name = {quote}{name}{quote}"
    return ""
