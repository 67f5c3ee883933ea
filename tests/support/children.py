# Copyright The opentelemetry-instrumentation-dspy Authors
# SPDX-License-Identifier: Apache-2.0
"""Python programs in processes of their own, without the seconds that their imports take.

A `Zygote` is a process that has imported what such programs need. A program is a fork of it with
its own ``__main__``, arguments, environment, directory and standard streams, and it ends as any
interpreter ends. A test of an import, of an option of the interpreter or of its start needs a
real one.
"""

from __future__ import annotations

import atexit
import contextlib
import fcntl
import json
import os
import select
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
from collections.abc import Mapping
from pathlib import Path
from typing import IO, Final

_SCRIPT = Path(__file__).with_name("zygote.py")


class Child:
    """A running program. Its methods do what those of `subprocess.Popen` do with texts."""

    def __init__(self, connection: socket.socket, stdin: int, stdout: int, stderr: int) -> None:
        self._answers: IO[str] = connection.makefile()
        self.stdin: IO[str] = os.fdopen(stdin, "w")
        self.stdout: IO[str] = os.fdopen(stdout)
        self.stderr: IO[str] = os.fdopen(stderr)
        self.pid = int(self._answers.readline())
        self.returncode: int | None = None

    def poll(self) -> int | None:
        """The exit code, or None while it runs."""
        if self.returncode is None and select.select([self._answers], [], [], 0)[0]:
            self.returncode = os.waitstatus_to_exitcode(int(self._answers.readline()))
        return self.returncode

    def kill(self) -> None:
        if self.poll() is None:
            with contextlib.suppress(ProcessLookupError):
                os.kill(self.pid, signal.SIGKILL)

    def communicate(self, text: str = "", timeout: float = 300) -> tuple[str, str]:
        """Write the text, and read what the program writes until it ends.

        Raises:
            subprocess.TimeoutExpired: when it does not end in time; it is killed then.
        """
        timer = threading.Timer(timeout, self.kill)
        timer.start()
        errors: list[str] = []
        reader = threading.Thread(target=lambda: errors.append(self.stderr.read()))
        reader.start()
        with contextlib.suppress(BrokenPipeError), self.stdin:
            self.stdin.write(text)
        with self.stdout, self.stderr, self._answers:
            output = self.stdout.read()
            reader.join()
            select.select([self._answers], [], [])
            self.poll()
        if timer.finished.is_set():
            raise subprocess.TimeoutExpired("a child", timeout, output, errors[0])
        timer.cancel()
        return output, errors[0]


_DIRECTORY = "TESTS_ZYGOTES"


def share_zygotes() -> None:
    """Have the processes that this one starts, which run the tests, share zygotes.

    They end with this process.
    """
    directory = os.environ[_DIRECTORY] = tempfile.mkdtemp(prefix="zygotes-")
    atexit.register(shutil.rmtree, directory, ignore_errors=True)
    pipe = os.path.join(directory, "alive")
    os.mkfifo(pipe)
    # Never written to. Reading it ends when the last process that has it open for that is gone.
    os.open(pipe, os.O_RDWR)


class Zygote:
    """Forks programs from a process that has imported ``module``; it starts with the first one."""

    def __init__(self, module: str) -> None:
        self._module = module
        self._address = ""

    def start(
        self,
        source: str,
        *arguments: str,
        env: Mapping[str, str],
        cwd: Path,
        script: Path | None = None,
        ignore_warnings: bool = False,
        zero_code: bool = False,
    ) -> Child:
        """Run the text as ``python -c`` does, or as what the script has in it.

        With ``zero_code`` it is run as under ``opentelemetry-instrument``.
        """
        program = {
            "source": source,
            "arguments": arguments,
            "env": dict(env),
            "cwd": str(cwd),
            "script": str(script) if script else None,
            "ignore_warnings": ignore_warnings,
            "zero_code": zero_code,
        }
        self._start_once()
        connection = socket.socket(socket.AF_UNIX)
        connection.connect(self._address)
        pipes = [os.pipe() for _ in range(3)]
        theirs = [pipes[0][0], pipes[1][1], pipes[2][1]]
        with connection:
            data = json.dumps(program).encode() + b"\n"
            sent = socket.send_fds(connection, [data], theirs)
            connection.sendall(data[sent:])
            for stream in theirs:
                os.close(stream)
            return Child(connection, pipes[0][1], pipes[1][0], pipes[2][0])

    def run(
        self,
        script: Path,
        *arguments: str,
        env: Mapping[str, str],
        cwd: Path,
        timeout: float = 300,
        ignore_warnings: bool = False,
        zero_code: bool = False,
    ) -> subprocess.CompletedProcess[str]:
        """Run a script and wait for its end, as `subprocess.run` does."""
        child = self.start(
            script.read_text("utf-8"),
            *arguments,
            env=env,
            cwd=cwd,
            script=script,
            ignore_warnings=ignore_warnings,
            zero_code=zero_code,
        )
        output, errors = child.communicate(timeout=timeout)
        assert child.returncode is not None
        return subprocess.CompletedProcess(str(script), child.returncode, output, errors)

    def _start_once(self) -> None:
        if self._address:
            return
        if _DIRECTORY not in os.environ:
            share_zygotes()
        directory = Path(os.environ[_DIRECTORY])
        address = directory / self._module
        with (directory / f"{self._module}.lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            if not address.exists():
                _start_zygote(directory / "alive", address, self._module)
        self._address = str(address)


def _start_zygote(alive: Path, address: Path, module: str) -> None:
    with alive.open() as end_of_tests:
        process = subprocess.Popen(
            [sys.executable, str(_SCRIPT), str(address), module],
            # numpy would start threads, which a fork does not have.
            env={**os.environ, "OPENBLAS_NUM_THREADS": "1", "OMP_NUM_THREADS": "1"},
            stdin=end_of_tests,
            stdout=subprocess.PIPE,
            text=True,
        )
    assert process.stdout is not None
    with process.stdout as answer:
        assert answer.readline() == "ready\n", module
    # It outlives this process.
    process.returncode = 0


SDK: Final = Zygote("tests.support.preloaded_sdk")
"""With the SDK and the bridge, and without DSPy and MLflow."""

MLFLOW: Final = Zygote("tests.support.preloaded_mlflow")
"""With DSPy, litellm, and MLflow with what it needs for a store as well."""
