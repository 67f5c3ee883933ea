#!/bin/sh
# Copyright The opentelemetry-instrumentation-dspy Authors
# SPDX-License-Identifier: Apache-2.0
# The secrets that the manifests refer to, with random passwords, in the current cluster. Once.
# Where a vault keeps them, have it make secrets of these names and keys instead.
set -eu

namespace=dspy-observability
random() {
    python3 -c "import secrets; print(secrets.token_urlsafe(32))"
}
secret() {
    kubectl --namespace "$namespace" create secret generic "$@"
}

secret mlflow-database --from-literal=password="$(random)"
secret mlflow-admin --from-literal=username=admin \
    --from-literal=password="$(random)" --from-literal=flask-secret-key="$(random)"
secret mlflow-collector --from-literal=username=collector --from-literal=password="$(random)"
secret object-storage --from-literal=access-key-id=mlflow \
    --from-literal=secret-access-key="$(random)"
