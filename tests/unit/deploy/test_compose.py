# Copyright The opentelemetry-instrumentation-dspy Authors
# SPDX-License-Identifier: Apache-2.0
"""The compose file: valid by the Compose specification, and complete in itself."""

from __future__ import annotations

import re
from typing import Any

import pytest
from compose_spec import PyCompose

from tests.unit.deploy.files import (
    COMPOSE,
    COMPOSE_FILE,
    DEPLOY,
    SERVICES,
    collector,
    collector_variables,
)

TEXT = COMPOSE_FILE.read_text("utf-8")
SECRET = re.compile(r"PASSWORD|SECRET|ACCESS_KEY_ID")


def test_the_file_is_valid_by_the_specification() -> None:
    assert set(PyCompose.from_yaml(TEXT).service_names()) == set(SERVICES)


@pytest.mark.parametrize(
    ("right", "wrong"),
    [
        ("healthcheck:", "healthchecks:"),
        ("condition: service_healthy", "condition: service_well"),
        ("restart: unless-stopped", "restart: sometimes"),
        ("interval: 10s", "intervall: 10s"),
    ],
)
def test_the_validation_finds_mistakes(right: str, wrong: str) -> None:
    with pytest.raises(ValueError, match=re.escape(wrong.partition(":")[0])):
        PyCompose.from_yaml(TEXT.replace(right, wrong, 1))


@pytest.mark.parametrize("name", SERVICES)
def test_every_image_has_a_version(name: str) -> None:
    image, _, tag = SERVICES[name]["image"].rpartition(":")

    assert image
    assert re.match(r"v?\d+\.\d+|RELEASE\.\d{4}-", tag)


@pytest.mark.parametrize("name", SERVICES)
def test_what_a_service_waits_for_can_happen(name: str) -> None:
    for dependency, wait in SERVICES[name].get("depends_on", {}).items():
        condition = wait["condition"]
        if condition == "service_healthy":
            assert "healthcheck" in SERVICES[dependency]
        elif condition == "service_completed_successfully":
            assert SERVICES[dependency]["restart"] == "on-failure"
        else:
            assert dependency in SERVICES


@pytest.mark.parametrize("name", SERVICES)
def test_every_volume_is_declared_or_a_file_that_exists(name: str) -> None:
    for volume in SERVICES[name].get("volumes", ()):
        source = volume.split(":")[0]
        assert (DEPLOY / source).is_file() if source.startswith(".") else source in _volumes()


def test_every_declared_volume_is_used() -> None:
    used = {entry.split(":")[0] for service in SERVICES.values() for entry in _mounts(service)}

    assert _volumes() - used == set()


def test_every_variable_is_in_the_example_of_the_environment_and_the_other_way_round() -> None:
    example = (DEPLOY / ".env.example").read_text("utf-8")

    assert set(re.findall(r"\$\{([A-Z0-9_]+)", TEXT)) == set(
        re.findall(r"^([A-Z0-9_]+)=", example, re.MULTILINE)
    )


@pytest.mark.parametrize("name", SERVICES)
def test_no_secret_stands_in_the_file(name: str) -> None:
    for variable, value in SERVICES[name].get("environment", {}).items():
        if SECRET.search(variable):
            assert re.fullmatch(r"\$\{[A-Z0-9_]+:\?see \.env\.example\}", value), variable


def test_the_example_of_the_environment_has_no_passwords() -> None:
    for line in (DEPLOY / ".env.example").read_text("utf-8").splitlines():
        if SECRET.search(line.partition("=")[0]) and not line.startswith("#"):
            assert line.endswith("=")


def test_passwords_that_two_services_share_are_the_same_variable() -> None:
    environment = {name: service.get("environment", {}) for name, service in SERVICES.items()}

    assert environment["mlflow"]["PGPASSWORD"] == environment["postgres"]["POSTGRES_PASSWORD"]
    assert (
        environment["mlflow"]["AWS_SECRET_ACCESS_KEY"]
        == (environment["minio"]["MINIO_ROOT_PASSWORD"])
    )
    assert (
        environment["mlflow"]["MLFLOW_AUTH_ADMIN_PASSWORD"]
        == (environment["mlflow-set-up"]["MLFLOW_TRACKING_PASSWORD"])
    )
    for variable in ("MLFLOW_COLLECTOR_USERNAME", "MLFLOW_COLLECTOR_PASSWORD"):
        assert environment["mlflow-set-up"][variable] == environment["collector-sampler"][variable]


@pytest.mark.parametrize("tier", ["gateway", "sampler"])
def test_a_collector_is_given_the_variables_that_it_reads(tier: str) -> None:
    given = set(SERVICES[f"collector-{tier}"]["environment"]) - {"GOMEMLIMIT"}

    assert given == collector_variables(tier)


def test_every_address_names_a_service() -> None:
    addresses = [*re.findall(r"(?:https?://|@)([a-z-]+):\d+", TEXT), "tempo"]

    assert set(addresses) <= set(SERVICES)
    assert SERVICES["collector-gateway"]["environment"]["SAMPLER_HOSTNAME"] in SERVICES


def test_published_ports_are_bound_to_this_machine_and_listened_on() -> None:
    protocols = collector("gateway")["receivers"]["otlp"]["protocols"]
    listening = {protocol["endpoint"].rpartition(":")[2] for protocol in protocols.values()}

    assert _published("collector-gateway") == listening
    assert _published("mlflow") == {"5000"}


def _published(service: str) -> set[str]:
    published = [port.split(":") for port in SERVICES[service]["ports"]]
    assert all(host == "127.0.0.1" for host, _, _ in published)
    return {inside for _, _, inside in published}


def _mounts(service: dict[str, Any]) -> list[str]:
    return service.get("volumes", [])


def _volumes() -> set[str]:
    return set(COMPOSE["volumes"])
