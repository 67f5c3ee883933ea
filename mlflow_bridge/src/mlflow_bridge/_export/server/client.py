# Copyright The opentelemetry-instrumentation-dspy Authors
# SPDX-License-Identifier: Apache-2.0
"""One request to an MLflow tracking server, and what its answer means.

`requests` because it is what MLflow's own client is made of: proxies, CA bundles and MLflow's
``request_auth_provider`` plugins work as they do there. It is told neither to retry nor to follow
redirects; both would hide what happened.
"""

from __future__ import annotations

import json
import math
import os
import ssl
import time
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
from mlflow_bridge.version import __version__

_SETTING: Final = "MLFLOW_TRACKING_URI"
_CREDENTIALS: Final = (
    "MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD, or MLFLOW_TRACKING_TOKEN"
)
_WORKSPACE_HEADER: Final = "X-MLFLOW-WORKSPACE"
_AUTH_PLUGINS: Final = "mlflow.request_auth_provider"
_MAX_CONNECT_SECONDS: Final = 10.0
_MAX_DETAIL: Final = 300
_PIECE_BYTES: Final = 64
_MAX_BODY_BYTES: Final = 1_048_576

_SUCCESS: Final = range(200, 300)
_REDIRECT: Final = range(300, 400)
_SERVER_ERROR: Final = range(500, 600)
# 408 and 425 say "not now" like 429 (RFC 9110, RFC 8470). A 501 says "never", as MLflow does for
# stores that cannot hold traces.
_PASSING_STATUSES: Final = frozenset({408, 425, 429})
_LASTING_STATUSES: Final = frozenset({501, 505})
# About the request's content: a part of it may be taken. 422 is MLflow's answer to a bad span.
_DIVISIBLE_STATUSES: Final = frozenset({400, 413, 422})
_FORBIDDEN: Final = 403
_TOO_LARGE: Final = 413
_UNEXPLAINED: Final = 500


@dataclass(frozen=True, slots=True)
class Answer:
    """A complete answer that is neither a redirect nor a failure that passes.

    Attributes:
        status: HTTP status.
        content_type: Media type without parameters, in lower case.
        body: The whole body.
        json: The body as a JSON object; empty if it is none.
    """

    status: int
    content_type: str
    body: bytes
    json: Mapping[str, Any]

    @property
    def ok(self) -> bool:
        """Whether the status is one of success."""
        return self.status in _SUCCESS

    @property
    def error_code(self) -> str:
        """MLflow's name for what went wrong, such as RESOURCE_DOES_NOT_EXIST."""
        return str(self.json.get("error_code", ""))

    def as_failure(self) -> Retry | Rejected:
        """What an answer that is not ``ok`` means."""
        said = self.json.get("message") or self.json.get("detail") or ""
        detail = f"HTTP {self.status} {said}".strip()[:_MAX_DETAIL]
        if self.status in _DIVISIBLE_STATUSES:
            return Rejected(
                f"the tracking server refused the request: {detail}",
                too_large=self.status == _TOO_LARGE,
            )
        # What is left is for somebody to put right: the spans are good, and are kept for then.
        if self.status in (401, 403, 407):
            kind = f"the tracking server refused the credentials ({_CREDENTIALS})"
        elif self.status in (404, 405) and not self.error_code:
            kind = f"there is no MLflow tracking server at this address ({_SETTING})"
        elif self.status in _LASTING_STATUSES:
            kind = f"the tracking server cannot store traces ({_SETTING})"
        else:
            kind = f"the tracking server refused the request ({_SETTING})"
        # A firewall that dislikes the content of a span says 403 as well.
        return Retry(f"{kind}: {detail}", lasting=True, about_spans=self.status == _FORBIDDEN)


class TrackingServer:
    """The HTTP side of a tracking server. Used by one thread at a time, after construction.

    Raises:
        ConfigurationError: The authentication plugin that the configuration names is not installed.
    """

    def __init__(self, config: MLflowDSPyConfig) -> None:
        parts = urlsplit(config.tracking_uri)
        # Credentials in the address would show up in the messages of every failure.
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
        """Make one request below the server's address and read the whole answer."""
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
                return _understood(response, _body_of(response, self._timeout))
        except requests.exceptions.InvalidURL as error:
            return Retry(f"the request cannot be made ({_SETTING}): {_detail(error)}", lasting=True)
        # What a header cannot hold. The message would repeat it, and it may be a secret.
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
        except requests.exceptions.Timeout as error:
            return Retry(
                f"the tracking server did not answer in time ({_SETTING}): {_detail(error)}"
            )
        # OSError: files of certificates that cannot be read; the others derive from it.
        except OSError as error:
            return Retry(f"cannot reach the tracking server ({_SETTING}): {_detail(error)}")

    def close(self) -> None:
        """Close kept connections; the next request opens new ones."""
        session, self._session = self._session, None
        if session is not None:
            session.close()

    def _open_session(self) -> requests.Session:
        if self._process != os.getpid():
            # Forked: the sockets are the parent's. Closing the copies here does it no harm.
            self.close()
            self._process = os.getpid()
        if self._session is None:
            self._session = requests.Session()
            # A function of its own, even an empty one, keeps requests from taking other
            # credentials from ~/.netrc.
            self._session.auth = self._auth
        return self._session


def _body_of(response: requests.Response, seconds: float) -> bytes:
    """The body, or its beginning if it is far longer than any answer of MLflow's.

    Raises:
        requests.exceptions.RequestException: It does not come, or not within this time: requests'
            own time-out is about each wait for a byte, and a server may send one now and then.
    """
    until = time.monotonic() + seconds
    body = bytearray()
    # In small pieces, since each of them is waited for as a whole.
    for piece in response.iter_content(_PIECE_BYTES):
        body += piece
        if len(body) > _MAX_BODY_BYTES:
            break
        if time.monotonic() > until:
            raise requests.exceptions.ReadTimeout("the answer comes too slowly")
    return bytes(body)


def _understood(response: requests.Response, body: bytes) -> Answer | Retry:
    status = response.status_code
    if status in _REDIRECT:
        target = response.headers.get("Location", "elsewhere")
        return Retry(
            f"the tracking server redirects ({_SETTING}): HTTP {status} to {target[:_MAX_DETAIL]}; "
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
    """Authenticates with fixed headers, or not at all."""

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
    # As bytes: requests would encode text as Latin-1, which has not every character.
    return HTTPBasicAuth(username.encode(), password.encode())


def _plugin_auth(name: str) -> AuthBase:
    """The authentication of an MLflow plugin (``RequestAuthProvider``), which imports MLflow."""
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


def _first_cause(error: BaseException) -> BaseException:
    while error.__context__ is not None:
        error = error.__context__
    return error


def _detail(error: BaseException) -> str:
    """The first cause: requests and urllib3 put two more around it that only repeat the address."""
    cause = _first_cause(error)
    return f"{type(cause).__name__} {cause}"[:_MAX_DETAIL]
