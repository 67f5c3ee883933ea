# Copyright The opentelemetry-instrumentation-dspy Authors
# SPDX-License-Identifier: Apache-2.0
"""Validation and display of tracking URIs."""

from __future__ import annotations

import os
import re
import sys
from typing import Final
from urllib.parse import urlsplit, urlunsplit

DEFAULT_TRACKING_URI: Final = "sqlite:///mlflow.db"

_SQL_DIALECTS: Final = frozenset({"sqlite", "postgresql", "mysql", "mssql"})
_REFUSED: Final = {
    "": "not a URI",
    "file": "MLflow's file store cannot hold traces; use sqlite:///mlflow.db",
    "databricks": "Databricks is not supported; export to it with OpenTelemetry's OTLP exporter",
    "databricks-uc": "Databricks is not supported; export to it with OpenTelemetry's OTLP exporter",
    "uc": "Unity Catalog is not supported",
    "postgres": "SQLAlchemy knows this dialect as postgresql://",
}


class InvalidTrackingURI(ValueError):
    """The URI does not name a destination that can store traces."""


def checked_tracking_uri(uri: str) -> str:
    """The URI in its final form: with an absolute SQLite path, and without a slash at the end.

    Raises:
        InvalidTrackingURI: The URI is not supported. The message has the reason, no credentials.
    """
    uri = uri.strip()
    scheme = uri.partition(":")[0].lower() if ":" in uri else ""
    if uri in ("databricks", "databricks-uc", "uc"):
        scheme = uri
    if scheme in ("http", "https"):
        return _checked_server(uri)
    dialect = scheme.partition("+")[0]
    if dialect not in _SQL_DIALECTS:
        raise InvalidTrackingURI(_REFUSED.get(scheme, f"{scheme}: is not supported"))
    if dialect == "sqlite":
        return _checked_sqlite(uri)
    if "://" not in uri:
        raise InvalidTrackingURI(f"not of the form {dialect}://user@host/database")
    return uri


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
    """The URI without user, password and query, which may be secret."""
    try:
        parts = urlsplit(uri)
    except ValueError:
        return "an unreadable URI"
    host = parts.netloc.rpartition("@")[2]
    shown = urlunsplit((parts.scheme, host, parts.path, "", ""))
    # urlunsplit() drops the empty authority, and with it some slashes.
    return re.sub(r"^(sqlite[^:]*):/+", r"\1:////", shown) if not host else shown


def _checked_server(uri: str) -> str:
    try:
        parts = urlsplit(uri)
        port = parts.port
    except ValueError as error:
        raise InvalidTrackingURI(f"not a valid URL ({error})") from None
    if not parts.hostname or port == 0:
        raise InvalidTrackingURI("the URL names no host")
    if parts.query or parts.fragment:
        raise InvalidTrackingURI("the URL of a server has no query and no fragment")
    return uri.rstrip("/")


def _checked_sqlite(uri: str) -> str:
    head, separator, rest = uri.partition(":///")
    path, query_mark, query = rest.partition("?")
    if not separator or path in ("", ":memory:"):
        raise InvalidTrackingURI(
            "a SQLite store needs a file (sqlite:///relative.db or sqlite:////absolute.db); "
            "a store in memory ends with the process"
        )
    return f"{head}:///{os.path.abspath(path)}{query_mark}{query}"
