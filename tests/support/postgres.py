# Copyright The opentelemetry-instrumentation-dspy Authors
# SPDX-License-Identifier: Apache-2.0
"""A PostgreSQL of the test's own: a new cluster on 127.0.0.1, gone afterwards."""

from __future__ import annotations

import os
import pwd
import shutil
import socket
import subprocess
import tempfile
from pathlib import Path
from types import TracebackType

_DEBIAN = Path("/usr/lib/postgresql")
# PostgreSQL refuses to run as root.
_ORDINARY_USERS = ("postgres", "nobody")
_SETTINGS = ("-c fsync=off", "-c unix_socket_directories=''")


def postgres_binaries() -> Path | None:
    """The directory with ``initdb`` and ``pg_ctl``, the newest one if there are several."""
    found = shutil.which("initdb")
    if found and shutil.which("pg_ctl"):
        return Path(found).resolve().parent
    candidates = sorted(_DEBIAN.glob("*/bin"), key=lambda path: float(path.parent.name))
    return next((path for path in reversed(candidates) if (path / "initdb").exists()), None)


class Postgres:
    """A cluster with its one database ``mlflow``; use it as a context manager.

    Args:
        binaries: Where ``initdb`` and ``pg_ctl`` are.
    """

    def __init__(self, binaries: Path) -> None:
        self._binaries = binaries
        self._user = _ordinary_user()
        self._port = _free_port()
        self._directory = Path()

    @property
    def uri(self) -> str:
        """For SQLAlchemy, whose driver for plain ``postgresql:`` differs between its versions."""
        return f"postgresql+psycopg2://mlflow@127.0.0.1:{self._port}/mlflow"

    def __enter__(self) -> Postgres:
        # Not in pytest's directory, which only its owner may enter.
        self._directory = Path(tempfile.mkdtemp(prefix="dspy-otel-postgres-"))
        if self._user is not None:
            os.chown(self._directory, pwd.getpwnam(self._user).pw_uid, -1)
        try:
            self._run(
                "initdb", "-D", "data", "-U", "mlflow", "--auth=trust", "--no-sync", "-E", "UTF8"
            )
            self.start()
            self._run(
                "createdb", "-h", "127.0.0.1", "-p", str(self._port), "-U", "mlflow", "mlflow"
            )
        except BaseException:
            self.__exit__(None, None, None)
            raise
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if (self._directory / "data" / "postmaster.pid").exists():
            self.stop()
        shutil.rmtree(self._directory, ignore_errors=True)

    def start(self) -> None:
        """Start, and wait until it accepts connections."""
        settings = " ".join([f"-h 127.0.0.1 -p {self._port}", *_SETTINGS])
        self._run("pg_ctl", "-D", "data", "-l", "log", "-w", "-t", "120", "-o", settings, "start")

    def stop(self) -> None:
        """Stop at once; every connection breaks."""
        self._run("pg_ctl", "-D", "data", "-w", "-t", "120", "-m", "immediate", "stop")

    def _run(self, command: str, *arguments: str) -> None:
        done = subprocess.run(
            [str(self._binaries / command), *arguments],
            cwd=self._directory,
            user=self._user,
            stdin=subprocess.DEVNULL,
            # Not a pipe: the server inherits it, and reading would never end.
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            timeout=180,
            check=False,
        )
        if done.returncode != 0:
            log = self._directory / "log"
            said = log.read_text(errors="replace")[-2000:] if log.exists() else ""
            raise RuntimeError(f"{command} failed with {done.returncode}\n{said}")


def _ordinary_user() -> str | None:
    """Whom to run as; None if this is no root."""
    if os.geteuid() != 0:
        return None
    names = {entry.pw_name for entry in pwd.getpwall()}
    return next(name for name in _ORDINARY_USERS if name in names)


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]
