# Copyright The opentelemetry-instrumentation-dspy Authors
# SPDX-License-Identifier: Apache-2.0
"""Redaction of secrets and of bulk data: secret keys, secret values, and data URIs."""

from __future__ import annotations

import hashlib
import json
import os
import re
from collections.abc import Iterable, Mapping
from functools import lru_cache
from itertools import pairwise
from typing import Any, cast
from urllib.parse import parse_qsl, unquote, urlsplit

from opentelemetry.instrumentation.dspy._guarding import new_lock, pass_on

REDACTED = "[REDACTED]"
MIN_DATA_URI = len("data:;base64,A")
"""A shorter text contains no data URI of binary data."""

_SECRET_WORDS = frozenset(
    {"apikey", "apikeys", "accesstoken", "authtoken", "refreshtoken", "bearer", "authorization"}
    | {"password", "passwords", "passwd", "pwd", "passphrase", "secret", "secrets"}
    | {"credential", "credentials", "cookie", "cookies"}
)
_SECRET_PAIRS = frozenset(
    [("api", "key"), ("private", "key"), ("access", "key"), ("secret", "key"), ("signing", "key")]
)
_WORD = re.compile(r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+|[0-9]+")
# Keys by the prefixes of providers. Names of modules and files may begin with some of them.
_SECRET_TEXT = re.compile(
    r"\b(?:sk-[A-Za-z0-9_\-]{12,}|[prs]k_(?:live|test)_[A-Za-z0-9]{10,}|glpat-[A-Za-z0-9_\-]{12,}"
    r"|(?:xai-|(?:gsk|hf|gh[opsur])_)[A-Za-z0-9]{16,}|github_pat_[A-Za-z0-9_]{16,}"
    r"|xox[abeprs]-[A-Za-z0-9\-]{10,}|AKIA[A-Z0-9]{16}|AIza[A-Za-z0-9_\-]{30,})"
    r"|(?i:\bbearer\s+)[A-Za-z0-9._~+/=\-]{8,}"
    r"|(?i:\b(?:api[-_ ]?key|password|secret|token)\b[\"']?\s*[:=]\s*[\"']?)[^\s\"',;&]{6,}"
)
_URL_PASSWORD = re.compile(r"(?<=://)[^/\s:@]*:[^/\s@]+(?=@)")

# Shorter values are placeholders; hiding "none" or "test" would make messages unreadable.
_MIN_SECRET = 6
_MAX_KNOWN = 1_024


@lru_cache(maxsize=4096)
def is_secret_key(key: str) -> bool:
    """Whether values under this key must not be recorded."""
    words = [word.lower() for word in _WORD.findall(key)]
    if not words:
        return False
    if words[-1] == "token" or not _SECRET_WORDS.isdisjoint(words):
        return True
    return any(pair in _SECRET_PAIRS for pair in pairwise(words))


def redact_text(text: str) -> str:
    """Hide what looks like a key, token or password in free text, such as an error message."""
    return _URL_PASSWORD.sub(REDACTED, _SECRET_TEXT.sub(REDACTED, text))


BASE64_MARK = ";base64,"
"""Part of every data URI of binary data, and of hardly any other text."""

_DATA_URI = re.compile(r"data:[\w.+/;=\-]{0,100}" + BASE64_MARK + r"[A-Za-z0-9+/=_%\-]+")
# With a media type or parameters: a text may begin with "data:" and have a comma.
_HEAD = re.compile(r"data:[\w.+\-]*(?:/[\w.+\-]+)?(?:;[\w.+=\-]+)*")
_LONG = 256
_SHORTENED = re.compile(r"\[\d+ characters, sha256 [0-9a-f]{16}\]")


def shorten_data_uris(text: str) -> str:
    """Replace the payload of ``data:`` URIs by its size and hash; other text is unchanged.

    The text may be such a URI, or contain URIs of binary data.
    """
    if text.startswith("data:"):
        text = shorten_data_uri(text)
    if BASE64_MARK in text:
        text = _DATA_URI.sub(lambda found: shorten_data_uri(found[0]), text)
    return text


def shorten_data_uri(text: str) -> str:
    """Replace the payload of a ``data:`` URI by its size and hash; other text is unchanged."""
    head, separator, payload = text.partition(",")
    if not separator or not payload or _SHORTENED.match(payload):
        return text
    if len(payload) < _LONG and not (("/" in head or ";" in head) and _HEAD.fullmatch(head)):
        return text
    digest = hashlib.sha256(payload.encode("utf-8", "replace")).hexdigest()[:16]
    return f"{head[:100]},[{len(payload)} characters, sha256 {digest}]"


class KnownSecrets:
    """The values of secrets that the program's LMs use, to be hidden wherever they occur.

    A provider's error message may repeat a key that has no recognisable format, so known secrets
    are searched for by value. Thread-safe.

    Attributes:
        echoed: Secrets that an error message has repeated; usually empty, and then `hide_echoes`
            has nothing to do.
    """

    def __init__(self) -> None:
        self._known: dict[str, None] = {}
        # Prompts may quote error messages, and with them these secrets.
        self.echoed: dict[str, None] = {}
        self._lock = new_lock()

    def learn(self, name: str, value: Any) -> None:
        """Remember the secrets in a connection setting: a key, headers, an address."""
        if isinstance(value, str):
            if value in self._known:
                return
            found = _in_address(value) if "://" in value else (value,)
        elif isinstance(value, Mapping):
            found = _in_headers(cast("Mapping[Any, Any]", value))
        elif hasattr(value, "get_secret_value"):  # pydantic's SecretStr
            found = [value.get_secret_value()]
        else:
            return
        self._add(self._known, found)

    def learn_attributes(self, instance: object) -> None:
        """Remember attributes that are named like secrets; runs no code of the object."""
        try:
            attributes = object.__getattribute__(instance, "__dict__")
        except AttributeError:
            return
        for name, value in list(attributes.items()):
            if is_secret_key(name) or name.endswith(("headers", "url", "_base")):
                self.learn(name, value)

    def hide_all(self, text: str) -> str:
        """``text`` without any known secret, including those of the environment."""
        for secret in _longest_first([*self._known, *_in_environment()]):
            if secret in text:
                self._add(self.echoed, [secret])
                text = text.replace(secret, REDACTED)
        return text

    def hide_echoes(self, text: str) -> str:
        """``text`` without the secrets that an error message has repeated before."""
        if not self.echoed:
            return text
        for secret in _longest_first(self.echoed):
            text = text.replace(secret, REDACTED)
        return text

    def _add(self, secrets: dict[str, None], found: Iterable[Any]) -> None:
        with self._lock:
            for secret in found:
                if not isinstance(secret, str) or secret in secrets:
                    continue
                if len(secret) >= _MIN_SECRET:
                    secrets.update(dict.fromkeys(_encodings_of(secret)))
            while len(secrets) > _MAX_KNOWN:
                del secrets[next(iter(secrets))]


def _encodings_of(secret: str) -> Iterable[str]:
    """The forms of a secret: as it is, in JSON, and in JSON inside of JSON."""
    escaped = ascii_only = secret
    yield secret
    for _ in range(2):
        escaped = json.dumps(escaped, ensure_ascii=False)[1:-1]
        ascii_only = json.dumps(ascii_only)[1:-1]
        yield escaped
        yield ascii_only


def _longest_first(secrets: Iterable[str]) -> list[str]:
    # A secret may be part of another, as a key is of the whole header.
    return sorted(secrets, key=len, reverse=True)


_HARMLESS_HEADERS = frozenset({"accept", "accept-encoding", "content-type", "user-agent"})


def _in_headers(headers: Mapping[Any, Any]) -> Iterable[str]:
    for name, value in headers.items():
        if isinstance(value, str) and str(name).lower() not in _HARMLESS_HEADERS:
            yield value
            yield value.rpartition(" ")[2]  # without the scheme: "Bearer ..."


def _in_address(address: str) -> Iterable[str]:
    if "@" not in address and "?" not in address:
        return
    try:
        parts = urlsplit(address)
        password, query = parts.password, parse_qsl(parts.query)
    except ValueError as error:
        pass_on(error)
        return
    if password:
        yield password
        yield unquote(password)
    for name, value in query:
        if is_secret_key(name) or name.lower() in ("key", "sig", "signature"):
            yield value


# The working directory: shells name it like a password.
_HARMLESS_VARIABLES = frozenset({"PWD", "OLDPWD"})


def _in_environment() -> list[str]:
    values = [
        value
        for name, value in os.environ.items()
        if name not in _HARMLESS_VARIABLES and is_secret_key(name)
    ]
    return [value for value in values if len(value) >= _MIN_SECRET]
