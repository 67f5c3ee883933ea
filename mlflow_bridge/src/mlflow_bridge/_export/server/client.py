# Copyright The opentelemetry-instrumentation-dspy Authors
# SPDX-License-Identifier: Apache-2.0
"""Requests to an MLflow tracking server, and the meaning of its answers.

The client uses `requests`, as MLflow's own client does, so that proxies, CA bundles and MLflow's
``request_auth_provider`` plugins work in the same way. Retries and redirects of `requests` are
switched off, since both would hide the actual answer.
"""

from __future__ import annotations

import json
import math
import os
import ssl
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timezone
from email.utils import parsedate_to_datetime
from importlib.metadata import entry_points
from typing import Any, Final, cast
from urllib.parse import unquote, urlsplit, urlunsplit

import requests
from requests.auth import AuthBase, HTTPBasicAuth

from mlflow_bridge._config.settings import ConfigurationError, MLflowDSPyConfig
from mlflow_bridge._export.contract import Rejected, Retry
from mlflow_bridge._export.server.whole_answer import WholeAnswerAdapter
from mlflow_bridge.version import __version__

_SETTING: Final = "MLFLOW_TRACKING_URI"
_CREDENTIALS: Final = (
    "MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD, or MLFLOW_TRACKING_TOKEN"
)
_WORKSPACE_HEADER: Final = "X-MLFLOW-WORKSPACE"
_AUTH_PLUGINS: Final = "mlflow.request_auth_provider"
_MAX_CONNECT_SECONDS: Final = 10.0
_PIECE_BYTES: Final = 8192
_MAX_BODY_BYTES: Final = 1_048_576

_SUCCESS: Final = range(200, 300)
_REDIRECT: Final = range(300, 400)
_SERVER_ERROR: Final = range(500, 600)
# 408 and 425 mean "not now" like 429 (RFC 9110, RFC 8470). 501 means "never": MLflow sends it for
# stores that cannot hold traces.
_PASSING_STATUSES: Final = frozenset({408, 425, 429})
_LASTING_STATUSES: Final = frozenset({501, 505})
# Errors of the content, so the server may take a part of it. MLflow answers a bad span with 422.
_DIVISIBLE_STATUSES: Final = frozenset({400, 413, 422})
_FORBIDDEN: Final = 403
_TOO_LARGE: Final = 413
_UNEXPLAINED: Final = 500


@dataclass(frozen=True, slots=True)
class Answer:
    """A complete answer that is neither a redirect nor a temporary failure.

    Attributes:
        status: HTTP status.
        content_type: Media type without parameters, in lower case.
        body: The whole body.
        json: The body as a JSON object; empty if the body is not a JSON object.
    """

    status: int
    content_type: str
    body: bytes
    json: Mapping[str, Any]

    @property
    def ok(self) -> bool:
        """Whether the status means success."""
        return self.status in _SUCCESS

    @property
    def error_code(self) -> str:
        """MLflow's error code, such as RESOURCE_DOES_NOT_EXIST; empty without an error code."""
        return str(self.json.get("error_code", ""))

    def as_failure(self) -> Retry | Rejected:
        """The outcome for an answer that is not ``ok``."""
        said = self.json.get("message") or self.json.get("detail") or ""
        detail = f"HTTP {self.status} {said}".strip()
        if self.status in _DIVISIBLE_STATUSES:
            return Rejected(
                f"the tracking server refused the request: {detail}",
                too_large=self.status == _TOO_LARGE,
            )
        # A user has to fix the other failures. The spans are valid, and are kept until then.
        if self.status in (401, 403, 407):
            kind = f"the tracking server refused the credentials ({_CREDENTIALS})"
        elif self.status in (404, 405) and not self.error_code:
            kind = f"there is no MLflow tracking server at this address ({_SETTING})"
        elif self.status in _LASTING_STATUSES:
            kind = f"the tracking server cannot store traces ({_SETTING})"
        else:
            kind = f"the tracking server refused the request ({_SETTING})"
        # A firewall that blocks the content of a span answers with 403, too.
        return Retry(f"{kind}: {detail}", lasting=True, about_spans=self.status == _FORBIDDEN)


class TrackingServer:
    """The HTTP side of a tracking server. Used by one thread at a time, after construction.

    Raises:
        ConfigurationError: The authentication plugin that the configuration names is not installed.
    """

    def __init__(self, config: MLflowDSPyConfig) -> None:
        parts = urlsplit(config.tracking_uri)
        # The messages of all failures would show credentials in the address.
        host = parts.netloc.rpartition("@")[2]
        self._base = urlunsplit((parts.scheme, host, parts.path, "", "")).rstrip("/")
        self._timeout = config.request_timeout_seconds
        self._verify: bool | str = (
            str(config.server_cert_path)
            if config.server_cert_path is not None
            else not config.insecure_tls
        )
        self._certificate = (
            None if config.client_cert_path is None else str(config.client_cert_path)
        )
        self._auth = _auth(config, parts.username, parts.password)
        self._headers = {"User-Agent": f"mlflow-bridge/{__version__}"}
        if config.workspace:
            self._headers[_WORKSPACE_HEADER] = config.workspace
        for name, value in config.headers.items():
            self._headers[name] = value.get_secret_value()
        self._session: requests.Session | None = None
        self._process = os.getpid()

    def request(
        self,
        method: str,
        path: str,
        *,
        query: Mapping[str, str] | None = None,
        payload: Any = None,
        body: bytes | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> Answer | Retry:
        """Make one request to a path of the server and read the whole answer."""
        try:
            with self._open_session().request(
                method,
                self._base + path,
                params=query,
                json=payload,
                data=body,
                headers={**self._headers, **(headers or {})},
                timeout=(min(self._timeout, _MAX_CONNECT_SECONDS), self._timeout),
                allow_redirects=False,
                verify=self._verify,
                cert=self._certificate,
                stream=True,
            ) as response:
                return _understood(response, _body_of(response))
        except requests.exceptions.InvalidURL as error:
            return Retry(f"the request cannot be made ({_SETTING}): {_detail(error)}", lasting=True)
        # A header has an invalid value. The message would repeat the value, which may be a secret.
        except ValueError as error:
            return Retry(
                f"the request cannot be made ({_SETTING}, {_CREDENTIALS}, MLFLOW_DSPY_HEADERS): "
                f"{type(error).__name__}",
                lasting=True,
            )
        except requests.exceptions.SSLError as error:
            return Retry(
                "no trusted connection to the tracking server "
                f"({_SETTING}, MLFLOW_TRACKING_SERVER_CERT_PATH): {_detail(error)}",
                lasting=isinstance(_first_cause(error), ssl.SSLCertVerificationError),
            )
        # OSError is the base class of the exceptions of requests. An unreadable certificate raises
        # it directly.
        except OSError as error:
            return Retry(f"{_kind_of(error)} ({_SETTING}): {_detail(error)}")

    def close(self) -> None:
        """Close kept connections; the next request opens new ones."""
        session, self._session = self._session, None
        if session is not None:
            session.close()

    def _open_session(self) -> requests.Session:
        if self._process != os.getpid():
            # After a fork, the sockets belong to the parent. Closing the copies does not affect it.
            self.close()
            self._process = os.getpid()
        if self._session is None:
            self._session = requests.Session()
            for scheme in ("http://", "https://"):
                self._session.mount(scheme, WholeAnswerAdapter())
            # An auth object, even without headers, prevents requests from reading credentials in
            # ~/.netrc.
            self._session.auth = self._auth
        return self._session


def _body_of(response: requests.Response) -> bytes:
    """The body of a response, or its beginning if it is longer than any answer of MLflow."""
    body = bytearray()
    for piece in response.iter_content(_PIECE_BYTES):
        body += piece
        if len(body) > _MAX_BODY_BYTES:
            break
    return bytes(body)


def _understood(response: requests.Response, body: bytes) -> Answer | Retry:
    status = response.status_code
    if status in _REDIRECT:
        target = response.headers.get("Location", "elsewhere")
        return Retry(
            f"the tracking server redirects ({_SETTING}): HTTP {status} to {target}; "
            "give the address of the server itself",
            lasting=True,
        )
    if status in _PASSING_STATUSES or (status in _SERVER_ERROR and status not in _LASTING_STATUSES):
        return Retry(
            f"the tracking server cannot take spans now ({_SETTING}): HTTP {status}",
            after=_retry_after(response.headers.get("Retry-After")),
            about_spans=status == _UNEXPLAINED,
        )
    content_type = response.headers.get("Content-Type", "").partition(";")[0].strip().lower()
    return Answer(status, content_type, body, _json_object(body) if "json" in content_type else {})


def _json_object(body: bytes) -> Mapping[str, Any]:
    try:
        parsed: Any = json.loads(body)
    except (ValueError, RecursionError):
        return {}
    return cast("dict[str, Any]", parsed) if isinstance(parsed, dict) else {}


def _retry_after(header: str | None) -> float | None:
    """Seconds from a Retry-After header, which is a number or a date (RFC 9110, 10.2.3)."""
    if header is None:
        return None
    try:
        seconds = float(header)
        return max(seconds, 0.0) if math.isfinite(seconds) else None
    except ValueError:
        pass
    try:
        moment = parsedate_to_datetime(header)
    except (TypeError, ValueError, OverflowError):
        return None
    if moment.tzinfo is None:
        moment = moment.replace(tzinfo=timezone.utc)
    return max((moment - datetime.now(timezone.utc)).total_seconds(), 0.0)


class _Headers(AuthBase):
    """Authentication with fixed headers; none without headers."""

    def __init__(self, headers: Mapping[str, str]) -> None:
        self._headers = headers

    def __call__(self, r: requests.PreparedRequest) -> requests.PreparedRequest:
        r.headers.update(self._headers)
        return r


def _auth(config: MLflowDSPyConfig, username: str | None, password: str | None) -> AuthBase:
    if config.tracking_auth:
        return _plugin_auth(config.tracking_auth)
    if config.tracking_username and config.tracking_password:
        return _basic(config.tracking_username, config.tracking_password.get_secret_value())
    if config.tracking_token:
        return _Headers({"Authorization": f"Bearer {config.tracking_token.get_secret_value()}"})
    if username:
        return _basic(unquote(username), unquote(password or ""))
    return _Headers({})


def _basic(username: str, password: str) -> HTTPBasicAuth:
    # As bytes, since requests would encode text as Latin-1, which does not have all characters.
    return HTTPBasicAuth(username.encode(), password.encode())


def _plugin_auth(name: str) -> AuthBase:
    """The authentication of an MLflow plugin (``RequestAuthProvider``), which imports MLflow.

    Raises:
        ConfigurationError: The plugin failed or is not installed.
    """
    for entry_point in entry_points(group=_AUTH_PLUGINS):
        try:
            provider: Any = entry_point.load()()
            if provider.get_name() == name:
                return provider.get_auth()
        except Exception as error:
            if entry_point.name == name:
                raise ConfigurationError(
                    "MLFLOW_TRACKING_AUTH (argument tracking_auth): "
                    f"plugin {name!r} failed: {error}"
                ) from error
    raise ConfigurationError(
        f"MLFLOW_TRACKING_AUTH (argument tracking_auth): there is no plugin named {name!r} in the "
        f"entry points {_AUTH_PLUGINS}"
    )


def _kind_of(error: OSError) -> str:
    # While a body is read, requests reports the end of the time as a broken connection.
    if isinstance(error, requests.exceptions.Timeout) or isinstance(
        _first_cause(error), TimeoutError
    ):
        return "the tracking server did not answer in time"
    return "cannot reach the tracking server"


def _first_cause(error: BaseException) -> BaseException:
    while error.__context__ is not None:
        error = error.__context__
    return error


def _detail(error: BaseException) -> str:
    """The first cause; requests and urllib3 wrap it in errors that only repeat the address.

    It is not cut here, since a part of a secret would not be recognised.
    """
    cause = _first_cause(error)
    return f"{type(cause).__name__} {cause}"
