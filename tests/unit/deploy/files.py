# Copyright The opentelemetry-instrumentation-dspy Authors
# SPDX-License-Identifier: Apache-2.0
"""The files of ``deploy/``, parsed."""

from __future__ import annotations

import re
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import yaml

from tests import ROOT

# The safe loader that is written in C, many times faster than the one in Python, where it exists.
_LOADER = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
load = partial(yaml.load, Loader=_LOADER)
load_all = partial(yaml.load_all, Loader=_LOADER)

DEPLOY = ROOT / "deploy"
KUBERNETES = DEPLOY / "kubernetes"
BASE = KUBERNETES / "base"
COMPOSE_FILE = DEPLOY / "compose.yaml"
COLLECTORS = ("gateway", "sampler")

# What the image of the server is made with; about another release the files say nothing.
MLFLOW = re.findall(r"mlflow\[auth\]==([\d.]+)", (DEPLOY / "mlflow/Dockerfile").read_text("utf-8"))[
    0
]

COMPOSE: dict[str, Any] = load(COMPOSE_FILE.read_text("utf-8"))
SERVICES: dict[str, dict[str, Any]] = COMPOSE["services"]
KUSTOMIZATIONS: dict[str, dict[str, Any]] = {
    file.parent.name: load(file.read_text("utf-8"))
    for file in sorted(KUBERNETES.glob("*/kustomization.yaml"))
}


def collector(name: str) -> dict[str, Any]:
    """The configuration of the collectors of one tier."""
    return load((BASE / "collector" / f"{name}.yaml").read_text("utf-8"))


def collector_variables(name: str) -> set[str]:
    """The environment variables that a tier's configuration reads."""
    text = (BASE / "collector" / f"{name}.yaml").read_text("utf-8")
    return set(re.findall(r"\$\{env:([A-Z_]+)\}", text))


def manifest_files() -> list[Path]:
    """Every file that a kustomization names as a resource."""
    return [
        KUBERNETES / folder / name
        for folder, kustomization in KUSTOMIZATIONS.items()
        for name in kustomization["resources"]
        if name.endswith(".yaml")
    ]


def manifests(kind: str | None = None) -> list[dict[str, Any]]:
    """Every Kubernetes object, or those of one kind."""
    documents = [
        document for file in manifest_files() for document in load_all(file.read_text("utf-8"))
    ]
    return [document for document in documents if kind in (None, document["kind"])]


def manifest(kind: str, name: str) -> dict[str, Any]:
    """One Kubernetes object."""
    (found,) = [entry for entry in manifests(kind) if entry["metadata"]["name"] == name]
    return found


def pod_specs() -> dict[str, dict[str, Any]]:
    """The pod of every Deployment, StatefulSet and Job, by name."""
    return {
        entry["metadata"]["name"]: entry["spec"]["template"]["spec"]
        for entry in manifests()
        if entry["kind"] in ("Deployment", "StatefulSet", "Job")
    }


def containers() -> Iterator[tuple[str, dict[str, Any]]]:
    """Every container, init containers too, with the name of what it belongs to."""
    for name, spec in pod_specs().items():
        for container in (*spec.get("initContainers", ()), *spec["containers"]):
            yield name, container


def generated_config_maps() -> dict[str, set[str]]:
    """The keys of the ConfigMaps that kustomize makes, by name."""
    generators = [
        generator
        for kustomization in KUSTOMIZATIONS.values()
        for generator in kustomization.get("configMapGenerator", ())
    ]
    return {
        generator["name"]: {
            *(Path(file).name for file in generator.get("files", ())),
            *(literal.partition("=")[0] for literal in generator.get("literals", ())),
        }
        for generator in generators
    }


def known_secrets() -> dict[str, set[str]]:
    """The keys of the secrets that ``create-secrets.sh`` makes, by name."""
    script = (KUBERNETES / "create-secrets.sh").read_text("utf-8").replace("\\\n", " ")
    return {
        match[1]: set(re.findall(r"--from-literal=([a-z-]+)=", match[2]))
        for match in re.finditer(r"^secret ([a-z-]+) (.*)$", script, re.MULTILINE)
    }
