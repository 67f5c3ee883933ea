# Copyright The opentelemetry-instrumentation-dspy Authors
# SPDX-License-Identifier: Apache-2.0
"""Create what the collector needs in MLflow: its experiments, and a user that may write to them.

May be run as often as wanted. The collector names experiments by id, and MLflow gives ids out by
itself: the ids that are configured are compared with those that exist, and a difference is an
error, so that traces cannot end up in the wrong experiment.

Reads MLFLOW_TRACKING_URI, MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD (the
administrator's), MLFLOW_COLLECTOR_USERNAME and MLFLOW_COLLECTOR_PASSWORD, and as arguments the
experiments::

    python set_up.py default=1 support=2
"""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from typing import Any

from mlflow import MlflowClient, MlflowException
from mlflow.server import get_app_client

# Write traces, and nothing else that an owner may.
_PERMISSION = "EDIT"


def main(arguments: Sequence[str]) -> None:
    """Set up, or exit with the reason why not."""
    uri = os.environ["MLFLOW_TRACKING_URI"]
    username = os.environ["MLFLOW_COLLECTOR_USERNAME"]
    wanted = dict(_experiment(argument) for argument in arguments)
    found = _create_experiments(MlflowClient(uri), list(wanted))
    wrong = {name: found[name] for name in wanted if found[name] != wanted[name]}
    if wrong:
        sys.exit(f"MLflow has other experiment ids than configured; set these instead: {wrong}")
    users = get_app_client("basic-auth", tracking_uri=uri)
    _create_user(users, username, os.environ["MLFLOW_COLLECTOR_PASSWORD"])
    for identifier in found.values():
        _permit(users, username, identifier)
    print(f"{username} may write to {found}")


def _experiment(argument: str) -> tuple[str, str]:
    name, separator, identifier = argument.partition("=")
    if not (name and separator and identifier):
        sys.exit(f"not of the form name=id: {argument!r}")
    return name, identifier


def _create_experiments(client: MlflowClient, names: Sequence[str]) -> dict[str, str]:
    found: dict[str, str] = {}
    for name in names:
        existing = client.get_experiment_by_name(name)
        found[name] = client.create_experiment(name) if existing is None else existing.experiment_id
    return found


def _create_user(users: Any, username: str, password: str) -> None:
    try:
        users.create_user(username, password)
    except MlflowException as error:
        if error.error_code != "RESOURCE_ALREADY_EXISTS":
            raise
        users.update_user_password(username, password)


def _permit(users: Any, username: str, experiment_id: str) -> None:
    try:
        users.grant_user_permission(username, "experiment", experiment_id, _PERMISSION)
    except MlflowException as error:
        if error.error_code != "RESOURCE_ALREADY_EXISTS":
            raise
        users.revoke_user_permission(username, "experiment", experiment_id)
        users.grant_user_permission(username, "experiment", experiment_id, _PERMISSION)


if __name__ == "__main__":
    main(sys.argv[1:])
