# Copyright The opentelemetry-instrumentation-dspy Authors
# SPDX-License-Identifier: Apache-2.0
"""The Kubernetes manifests: valid by the schemas of Kubernetes, and complete in themselves."""

from __future__ import annotations

import copy
import re
from pathlib import Path
from typing import Any

import kubernetes_validate
import pytest

from tests.unit.deploy.files import (
    BASE,
    KUBERNETES,
    KUSTOMIZATIONS,
    collector,
    collector_variables,
    containers,
    generated_config_maps,
    known_secrets,
    load_all,
    manifest,
    manifest_files,
    manifests,
    pod_specs,
)

# Clusters from the one to the other; the schemas come with kubernetes-validate.
VERSIONS = ("1.32", "1.34")
NAMES = [f"{entry['kind']} {entry['metadata']['name']}" for entry in manifests()]
PODS = pod_specs()
CONTAINERS = list(containers())


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("entry", manifests(), ids=NAMES)
def test_every_object_is_valid(entry: dict[str, Any], version: str) -> None:
    kubernetes_validate.validate(entry, version, strict=True)


@pytest.mark.parametrize("mistake", ["unknown", "type"])
def test_the_validation_finds_mistakes(mistake: str) -> None:
    entry = copy.deepcopy(manifest("StatefulSet", "collector-sampler"))
    if mistake == "unknown":
        entry["spec"]["template"]["spec"]["containers"][0]["resource"] = {}
    else:
        entry["spec"]["replicas"] = "three"

    with pytest.raises(kubernetes_validate.ValidationError):
        kubernetes_validate.validate(entry, VERSIONS[0], strict=True)


def test_every_manifest_belongs_to_a_kustomization() -> None:
    files = {file for file in KUBERNETES.glob("*/*.yaml") if file.name != "kustomization.yaml"}

    assert files == set(manifest_files())


@pytest.mark.parametrize("folder", KUSTOMIZATIONS)
def test_a_kustomization_names_what_exists(folder: str) -> None:
    kustomization = KUSTOMIZATIONS[folder]
    known = {"apiVersion", "kind", "namespace", "labels", "resources", "configMapGenerator"}
    files = [
        file for entry in kustomization.get("configMapGenerator", ()) for file in _files(entry)
    ]

    assert set(kustomization) <= known
    for name in (*kustomization["resources"], *files):
        assert (KUBERNETES / folder / name).exists(), name


def _files(generator: dict[str, Any]) -> list[str]:
    return generator.get("files", [])


@pytest.mark.parametrize(("owner", "container"), CONTAINERS, ids=lambda value: str(value)[:20])
class TestContainer:
    def test_has_an_image_with_a_version(self, owner: str, container: dict[str, Any]) -> None:
        image, _, tag = container["image"].rpartition(":")

        assert image
        assert re.match(r"v?\d+\.\d+|RELEASE\.\d{4}-", tag)

    def test_has_resources(self, owner: str, container: dict[str, Any]) -> None:
        assert set(container["resources"]["requests"]) == {"cpu", "memory"}
        assert "memory" in container["resources"]["limits"]

    def test_runs_confined(self, owner: str, container: dict[str, Any]) -> None:
        assert container["securityContext"]["allowPrivilegeEscalation"] is False
        assert container["securityContext"]["capabilities"] == {"drop": ["ALL"]}
        assert PODS[owner]["securityContext"]["runAsNonRoot"] is True
        assert PODS[owner]["automountServiceAccountToken"] is False

    def test_refers_to_secrets_and_config_maps_that_are_made(
        self, owner: str, container: dict[str, Any]
    ) -> None:
        for variable in container.get("env", ()):
            source = variable.get("valueFrom", {})
            secret, entry = source.get("secretKeyRef"), source.get("configMapKeyRef")
            if secret is not None:
                assert secret["key"] in known_secrets()[secret["name"]]
            if entry is not None:
                assert entry["key"] in generated_config_maps()[entry["name"]]

    def test_has_no_secret_in_it(self, owner: str, container: dict[str, Any]) -> None:
        for variable in container.get("env", ()):
            if re.search(r"PASSWORD|SECRET|ACCESS_KEY", variable["name"]):
                assert "secretKeyRef" in variable["valueFrom"], variable["name"]

    def test_mounts_volumes_that_exist(self, owner: str, container: dict[str, Any]) -> None:
        volumes = {volume["name"]: volume for volume in PODS[owner].get("volumes", ())}
        claims = {claim["metadata"]["name"] for claim in _claims(owner)}

        for mount in container.get("volumeMounts", ()):
            assert mount["name"] in {*volumes, *claims}
            config_map = volumes.get(mount["name"], {}).get("configMap")
            if config_map is not None:
                keys = generated_config_maps()[config_map["name"]]
                arguments = " ".join(_texts(container))
                assert any(f"{mount['mountPath']}/{key}" in arguments for key in keys)

    def test_probes_ports_that_it_has(self, owner: str, container: dict[str, Any]) -> None:
        ports = {port["name"] for port in container.get("ports", ())}

        for probe in ("startupProbe", "readinessProbe", "livenessProbe"):
            request = container.get(probe, {}).get("httpGet")
            assert request is None or request["port"] in ports


def _texts(container: dict[str, Any]) -> list[str]:
    values = [str(variable.get("value", "")) for variable in container.get("env", ())]
    return [*container.get("command", ()), *container.get("args", ()), *values]


def _claims(owner: str) -> list[dict[str, Any]]:
    sets = [entry for entry in manifests("StatefulSet") if entry["metadata"]["name"] == owner]
    return [claim for entry in sets for claim in entry["spec"]["volumeClaimTemplates"]]


def test_every_secret_and_every_config_map_is_used() -> None:
    text = "\n".join(file.read_text("utf-8") for file in manifest_files())

    for name, keys in {**known_secrets(), **generated_config_maps()}.items():
        assert f"name: {name}\n" in text
        for key in keys:
            assert re.search(rf"\b{re.escape(key)}\b", text), (name, key)


@pytest.mark.parametrize(
    "service", manifests("Service"), ids=lambda entry: entry["metadata"]["name"]
)
def test_a_service_leads_to_ports_of_its_pods(service: dict[str, Any]) -> None:
    owner = service["spec"]["selector"]["app.kubernetes.io/name"]
    ports = {
        port["name"]: port["containerPort"]
        for container in PODS[owner]["containers"]
        for port in container["ports"]
    }

    for port in service["spec"]["ports"]:
        assert ports[port["targetPort"]] == port["port"]


@pytest.mark.parametrize("tier", ["gateway", "sampler"])
def test_a_collector_listens_where_its_service_and_its_probes_look(tier: str) -> None:
    configuration = collector(tier)
    (container,) = PODS[f"collector-{tier}"]["containers"]
    protocols = configuration["receivers"]["otlp"]["protocols"]
    reader = configuration["service"]["telemetry"]["metrics"]["readers"][0]
    listening = {
        **{f"otlp-{name}": _port(protocol["endpoint"]) for name, protocol in protocols.items()},
        "health": _port(configuration["extensions"]["health_check"]["endpoint"]),
        "metrics": reader["pull"]["exporter"]["prometheus"]["port"],
    }

    assert {port["name"]: port["containerPort"] for port in container["ports"]} == listening


@pytest.mark.parametrize("tier", ["gateway", "sampler"])
def test_a_collector_is_given_the_variables_that_it_reads(tier: str) -> None:
    (container,) = PODS[f"collector-{tier}"]["containers"]
    given = {variable["name"] for variable in container["env"]}

    assert given - {"GOMEMLIMIT"} == collector_variables(tier)


def test_gateways_ask_for_the_samplers_by_their_headless_service() -> None:
    (container,) = PODS["collector-gateway"]["containers"]
    hostname = next(v["value"] for v in container["env"] if v["name"] == "SAMPLER_HOSTNAME")
    service = manifest("Service", hostname)
    resolver = collector("gateway")["exporters"]["load_balancing"]["resolver"]["dns"]

    assert service["spec"]["clusterIP"] == "None"
    assert [str(port["port"]) for port in service["spec"]["ports"]] == [resolver["port"]]
    assert manifest("StatefulSet", "collector-sampler")["spec"]["serviceName"] == hostname


def test_full_queues_fit_on_the_volume() -> None:
    exporters = collector("sampler")["exporters"].values()
    queues = [exporter["sending_queue"]["queue_size"] for exporter in exporters]
    (claim,) = _claims("collector-sampler")
    volume = int(claim["spec"]["resources"]["requests"]["storage"].removesuffix("Gi")) * 2**30

    # Compaction writes a copy of one of them beside it.
    assert sum(queues) + max(queues) <= volume


def test_the_collectors_cannot_exhaust_the_connections_to_the_database() -> None:
    variables = {v["name"]: v.get("value") for v in PODS["mlflow"]["containers"][0]["env"]}
    connections = int(variables["MLFLOW_SQLALCHEMYSTORE_POOL_SIZE"] or 0) + int(
        variables["MLFLOW_SQLALCHEMYSTORE_MAX_OVERFLOW"] or 0
    )
    samplers = manifest("StatefulSet", "collector-sampler")["spec"]["replicas"]
    exporters = collector("sampler")["exporters"]
    requests = sum(
        exporter["sending_queue"]["num_consumers"]
        for name, exporter in exporters.items()
        if "mlflow" in name
    )
    workers = (
        int(variables["MLFLOW_WORKERS"] or 0) * manifest("Deployment", "mlflow")["spec"]["replicas"]
    )
    (postgres,) = PODS["postgres"]["containers"]
    allowed = int(re.findall(r"max_connections=(\d+)", " ".join(postgres["args"]))[0])

    # Even if all came to one worker. Beyond it MLflow answers 400, which is not tried again.
    assert requests * samplers <= connections
    assert workers * connections <= allowed


def test_every_tier_survives_the_loss_of_a_node() -> None:
    budgets = {entry["metadata"]["name"] for entry in manifests("PodDisruptionBudget")}

    for kind in ("Deployment", "StatefulSet"):
        for entry in manifests(kind):
            if entry["spec"]["replicas"] > 1 and entry["metadata"]["name"] != "program":
                assert entry["metadata"]["name"] in budgets


def test_network_policies_let_in_what_calls_and_nothing_else() -> None:
    allowed = {
        policy["metadata"]["name"]: {
            rule["podSelector"]["matchLabels"]["app.kubernetes.io/name"]
            for ingress in policy["spec"].get("ingress", ())
            for rule in ingress["from"]
            if "podSelector" in rule
        }
        for policy in manifests("NetworkPolicy")
    }

    assert allowed == {
        "default-deny": set(),
        "collector-gateway": set(),
        "collector-sampler": {"collector-gateway"},
        "mlflow": {"collector-sampler", "mlflow-set-up"},
        "postgres": {"mlflow", "mlflow-database"},
        "minio": {"mlflow", "minio-set-up"},
    }
    assert set().union(*allowed.values()) <= set(PODS)


def test_the_program_sends_to_the_gateway_from_a_namespace_that_may() -> None:
    (container,) = PODS["program"]["containers"]
    endpoint = next(v["value"] for v in container["env"] if v["name"].endswith("OTLP_ENDPOINT"))
    policy = manifest("NetworkPolicy", "collector-gateway")
    (source,) = policy["spec"]["ingress"][0]["from"]
    labels = manifest("Namespace", KUSTOMIZATIONS["program"]["namespace"])["metadata"]["labels"]

    assert endpoint == f"http://collector-gateway.{KUSTOMIZATIONS['base']['namespace']}:4318"
    assert source["namespaceSelector"]["matchLabels"].items() <= labels.items()


def test_the_server_answers_to_the_name_that_the_samplers_call() -> None:
    (server,) = PODS["mlflow"]["containers"]
    (sampler,) = PODS["collector-sampler"]["containers"]
    allowed = next(v["value"] for v in server["env"] if v["name"] == "MLFLOW_SERVER_ALLOWED_HOSTS")
    called = next(v["value"] for v in sampler["env"] if v["name"] == "MLFLOW_URL")

    assert called.removeprefix("http://") in allowed.split(",")


def test_user_accounts_are_in_the_database_that_the_server_uses() -> None:
    (server,) = PODS["mlflow"]["containers"]
    store = next(v["value"] for v in server["env"] if v["name"] == "MLFLOW_BACKEND_STORE_URI")

    assert f"database_uri = {store}\n" in (BASE / "mlflow" / "basic_auth.ini").read_text("utf-8")


def _port(endpoint: str) -> int:
    return int(endpoint.rpartition(":")[2])


@pytest.mark.parametrize("file", manifest_files(), ids=lambda file: file.name)
def test_no_name_is_given_twice(file: Path) -> None:
    names = [
        (entry["kind"], entry["metadata"]["name"]) for entry in load_all(file.read_text("utf-8"))
    ]

    assert len(names) == len(set(names))
