# Copyright The opentelemetry-instrumentation-dspy Authors
# SPDX-License-Identifier: Apache-2.0
"""The connection to a service: its address as attributes, its credentials as secrets."""

from __future__ import annotations

from collections.abc import Mapping
from functools import lru_cache
from typing import Any, cast
from urllib.parse import urlsplit

from opentelemetry.instrumentation.dspy import semconv
from opentelemetry.instrumentation.dspy._calls.call import Attributes
from opentelemetry.instrumentation.dspy._content.redaction import (
    REDACTED,
    KnownSecrets,
    is_secret_key,
    redact_text,
)
from opentelemetry.instrumentation.dspy._guarding import pass_on

ADDRESSES = ("api_base", "base_url", "url")
"""Parameters with the address of a service."""


def read_connection(parameters: Mapping[str, Any], secrets: KnownSecrets) -> Attributes:
    """Address attributes from the parameters of a call; remembers its credentials as secrets."""
    attributes: Attributes = {}
    for name, parameter in parameters.items():
        if is_connection(name):
            secrets.learn(name, parameter)
        if name in ADDRESSES:
            attributes.update(server_attributes(parameter))
    return attributes


@lru_cache(maxsize=1024)
def is_connection(name: str) -> bool:
    """Whether a parameter of this name configures the connection, not the request."""
    return name in ADDRESSES or name.lower().endswith("headers") or is_secret_key(name)


def without_credentials(options: Any) -> Any:
    """LM options without credentials: keys, headers and parts of addresses are replaced."""
    if not isinstance(options, Mapping):
        return options
    given = cast("Mapping[Any, Any]", options)
    return {name: without_credential(str(name), option) for name, option in given.items()}


def without_credential(name: str, option: Any) -> Any:
    """The value of one option, without credentials."""
    if name not in ADDRESSES and is_connection(name):
        return REDACTED
    if not isinstance(option, str):
        return option
    # Other options may be addresses as well, such as that of a proxy.
    return redact_text(option.partition("?")[0] if name in ADDRESSES else option)


def server_attributes(url: Any) -> Attributes:
    """Host and port of a URL; empty if there is no host or the URL is not a str."""
    if not isinstance(url, str):
        return {}
    host, port = _host_and_port(url)
    return {semconv.SERVER_ADDRESS: host, semconv.SERVER_PORT: port} if host else {}


@lru_cache(maxsize=256)
def _host_and_port(url: str) -> tuple[str | None, int]:
    # Only host and port: the rest may contain a password or a key.
    try:
        parts = urlsplit(url)
        host, port = parts.hostname, parts.port
    except ValueError as error:
        pass_on(error)
        return None, 0
    return host, port or (443 if parts.scheme == "https" else 80)
