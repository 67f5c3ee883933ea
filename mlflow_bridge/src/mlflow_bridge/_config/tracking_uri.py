# Copyright The opentelemetry-instrumentation-dspy Authors
# SPDX-License-Identifier: Apache-2.0
"""Validation and display of tracking URIs."""

from __future__ import annotations

import os
import re
import sys
from base64 import b64encode
from typing import Final
from urllib.parse import quote_plus, unquote, unquote_plus, urlsplit, urlunsplit

DEFAULT_TRACKING_URI: Final = "sqlite:///mlflow.db"

_SERVERS: Final = frozenset({"http", "https"})
_SQL_DIALECTS: Final = frozenset({"sqlite", "postgresql", "mysql", "mssql"})
_REFUSED: Final = {
    "": "not a URI",
    "file": "MLflow's file store cannot hold traces; use sqlite:///mlflow.db",
    "databricks": "Databricks is not supported; export to it with OpenTelemetry's OTLP exporter",
    "databricks-uc": "Databricks is not supported; export to it with OpenTelemetry's OTLP exporter",
    "uc": "Unity Catalog is not supported",
    "postgres": "SQLAlchemy knows this dialect as postgresql://",
}


_CONTROL: Final = re.compile(r"[\x00-\x1f\x7f]")
_SCHEME: Final = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*")
# The grammar of sqlalchemy.make_url: a password may have "/", "?" and "#", and ends at an "@".
_SQL: Final = re.compile(
    r"(?P<scheme>[\w+]+)://"
    r"(?:(?P<username>[^:/]*)(?::(?P<password>[^@]*))?@)?"
    r"(?P<host>\[[^/?]+\]|[^/:?]+)?(?::(?P<port>[^/?]*))?"
    r"(?P<database>/[^?]*)?(?:\?(?P<query>.*))?"
)
_SECRET_PAIRS: Final = re.compile(r"(?i)(?:pass|pwd|secret|token|key)\w*=([^&;]+)")
_ENCODE: Final = (
    'an "@" stands after the host; write "/", "?", "#" and "@" of a user name or password as %2F, '
    "%3F, %23 and %40"
)


class InvalidTrackingURI(ValueError):
    """The URI does not name a destination that can store traces."""


def checked_tracking_uri(uri: str) -> str:
    """The URI in its final form: with an absolute SQLite path, and without a slash at the end.

    Raises:
        InvalidTrackingURI: The URI is not supported. The message has the reason, no credentials.
    """
    uri = uri.strip()
    if _CONTROL.search(uri):
        raise InvalidTrackingURI("the URI has control characters")
    scheme = _scheme_of(uri)
    if uri in ("databricks", "databricks-uc", "uc"):
        scheme = uri
    if scheme in _SERVERS:
        return _checked_server(uri)
    dialect = scheme.partition("+")[0]
    if dialect not in _SQL_DIALECTS:
        raise InvalidTrackingURI(_REFUSED.get(scheme, f"{scheme}: is not supported"))
    if dialect == "sqlite":
        return _checked_sqlite(uri)
    return _checked_database(uri, dialect)


def is_sql_uri(uri: str) -> bool:
    """Whether a URI names a database, by its scheme only."""
    return _scheme_of(uri).partition("+")[0] in _SQL_DIALECTS


def is_address_in_use(uri: str) -> bool:
    """Whether MLflow would use this address in this process: by its own setting or by a variable.

    Args:
        uri: Any text; without a usable address the result is False.
    """
    try:
        return checked_tracking_uri(uri) == checked_tracking_uri(_address_in_use())
    except InvalidTrackingURI:
        return False


def _address_in_use() -> str:
    # Not imported: a program that has not imported MLflow has not set an address there.
    known = getattr(sys.modules.get("mlflow"), "get_tracking_uri", None)
    if known is not None:
        try:
            return str(known())
        except Exception:  # Another thread may be importing MLflow now.
            return ""
    return os.environ.get("MLFLOW_TRACKING_URI", "").strip() or DEFAULT_TRACKING_URI


def sqlite_path(uri: str) -> str | None:
    """The file of a SQLite URI in its final form, or ``None`` for another URI."""
    if not uri.startswith("sqlite"):
        return None
    return uri.partition(":///")[2].partition("?")[0]


def described_uri(uri: str) -> str:
    """The URI in its final form without user, password and query, which may be secret."""
    path = sqlite_path(uri)
    if path is not None:
        return f"{_scheme_of(uri)}:///{path}"
    found = _SQL.fullmatch(uri)
    if found is not None and _scheme_of(uri) not in _SERVERS:
        port = "" if found["port"] is None else f":{found['port']}"
        return f"{found['scheme']}://{found['host'] or ''}{port}{found['database'] or ''}"
    try:
        parts = urlsplit(uri)
    except ValueError:
        return "an unreadable URI"
    return urlunsplit((parts.scheme, parts.netloc.rpartition("@")[2], parts.path, "", ""))


def secrets_of_uri(uri: str) -> set[str]:
    """The texts in a URI that may be secret, as they are written and decoded."""
    found = _SQL.fullmatch(uri)
    if found is None or sqlite_path(uri) is not None:
        return set()
    if _scheme_of(uri) in _SERVERS:
        userinfo = urlsplit(uri).netloc.rpartition("@")[0]
        username, _, password = userinfo.partition(":")
    else:
        username, password = found["username"] or "", found["password"] or ""
    pairs = _SECRET_PAIRS.findall(unquote_plus(found["query"] or ""))
    texts = {password, unquote(password), *pairs, *(quote_plus(text) for text in pairs)}
    if password:
        pair = f"{unquote(username)}:{unquote(password)}"
        texts |= {f"{username}:{password}", b64encode(pair.encode()).decode()}
    return texts - {""}


def _scheme_of(uri: str) -> str:
    scheme, separator, _ = uri.partition(":")
    return scheme.lower() if separator and _SCHEME.fullmatch(scheme) else ""


def _checked_server(uri: str) -> str:
    try:
        parts = urlsplit(uri)
    except ValueError:  # Its message repeats a part of the address.
        raise InvalidTrackingURI("not a valid URL") from None
    if "@" in parts.path + parts.query + parts.fragment:
        raise InvalidTrackingURI(_ENCODE)
    try:
        port = parts.port
    except ValueError:
        raise InvalidTrackingURI("the port is not a number from 1 to 65535") from None
    if not parts.hostname or port == 0:
        raise InvalidTrackingURI("the URL names no host")
    if parts.query or parts.fragment:
        raise InvalidTrackingURI("the URL of a server has no query and no fragment")
    return uri.rstrip("/")


def _checked_database(uri: str, dialect: str) -> str:
    found = _SQL.fullmatch(uri)
    if found is None:
        raise InvalidTrackingURI(f"not of the form {dialect}://user@host/database")
    if any("@" in (found[part] or "") for part in ("host", "port", "database", "query")):
        raise InvalidTrackingURI(_ENCODE)
    if found["port"] and not found["port"].isdecimal():
        raise InvalidTrackingURI("the port is not a number")
    return uri


def _checked_sqlite(uri: str) -> str:
    head, separator, rest = uri.partition(":///")
    path, query_mark, query = rest.partition("?")
    if not separator or path in ("", ":memory:"):
        raise InvalidTrackingURI(
            "a SQLite store needs a file (sqlite:///relative.db or sqlite:////absolute.db); "
            "a store in memory ends with the process"
        )
    return f"{head}:///{os.path.abspath(path)}{query_mark}{query}"
