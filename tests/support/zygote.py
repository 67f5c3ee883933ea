# Copyright The opentelemetry-instrumentation-dspy Authors
# SPDX-License-Identifier: Apache-2.0
"""The script of a process that imports what programs need, and then forks them; see `children`.

It imports the module of its second argument, and listens on the socket of the first one. A
connection asks for one program: a line of JSON, and three descriptors for its standard streams.
The answers are two lines, the program's process id and, when it has ended, its wait status. The
zygote ends when its standard input does.
"""

from __future__ import annotations

import contextlib
import gc
import importlib
import json
import os
import select
import signal
import socket
import sys
import types
import warnings
from pathlib import Path
from typing import Any


def receive_a_program(listener: socket.socket) -> dict[str, Any]:
    """Serve until the standard input ends.

    It returns in the forked processes only, each of which is to become one program.
    """
    while True:
        if 0 in select.select([listener, 0], [], [])[0]:
            os._exit(0)
        connection, _ = listener.accept()
        if os.fork() == 0:
            listener.close()
            return look_after_a_program(connection)
        connection.close()
        with contextlib.suppress(ChildProcessError):
            while os.waitpid(-1, os.WNOHANG)[0]:
                pass


def look_after_a_program(connection: socket.socket) -> dict[str, Any]:
    """Fork the program, and tell how it ends."""
    data, streams, _, _ = socket.recv_fds(connection, 1 << 16, 3)
    while not data.endswith(b"\n"):
        data += connection.recv(1 << 16)
    program = os.fork()
    if program == 0:
        connection.close()
        for number, stream in enumerate(streams):
            os.dup2(stream, number)
            os.close(stream)
        return json.loads(data)
    for stream in streams:
        os.close(stream)
    with contextlib.suppress(OSError):  # The test may be over by now.
        connection.sendall(b"%d\n" % program)
        if hasattr(os, "pidfd_open") and 0 in select.select([os.pidfd_open(program), 0], [], [])[0]:
            os.kill(program, signal.SIGKILL)  # The tests are over, perhaps before their end.
        _, status = os.waitpid(program, 0)
        connection.sendall(b"%d\n" % status)
    os._exit(0)


def become(program: dict[str, Any], paths: list[str]) -> tuple[types.CodeType, dict[str, Any]]:
    """Make this process what an interpreter is before it runs the program: code and namespace."""
    os.chdir(program["cwd"])
    os.environ.clear()
    os.environ.update(program["env"])
    if program["ignore_warnings"]:
        warnings.simplefilter("ignore")
    script = program["script"]
    sys.argv = [script or "-c", *program["arguments"]]
    first = os.path.dirname(script) if script else ""
    inherited = os.environ.get("PYTHONPATH", "").split(os.pathsep)
    sys.path[:] = [first, *filter(None, inherited), *paths]
    main = sys.modules["__main__"] = types.ModuleType("__main__")
    if script:
        main.__file__ = script
    if program["zero_code"]:
        # All that the ``sitecustomize`` of ``opentelemetry-instrument`` does.
        from opentelemetry.instrumentation.auto_instrumentation import initialize

        initialize()
    return compile(program["source"], script or "<string>", "exec"), main.__dict__


def threads() -> list[str]:
    """The names of this process's threads that a fork would leave without their work."""
    tasks = Path("/proc/self/task")
    names = (
        [(task / "comm").read_text().strip() for task in tasks.iterdir()] if tasks.exists() else []
    )
    # The allocator of pyarrow knows forks.
    return [name for name in names if name != "jemalloc_bg_thd"]


if __name__ == "__main__":
    found = sys.path[1:]
    sys.path[0] = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
    importlib.import_module(sys.argv[2])
    if len(threads()) > 1:
        sys.exit(f"{sys.argv[2]} starts threads: {threads()}")
    gc.collect()
    gc.freeze()
    server = socket.socket(socket.AF_UNIX)
    server.bind(sys.argv[1])
    server.listen(64)
    print("ready", flush=True)
    code, namespace = become(receive_a_program(server), found)
    exec(code, namespace)
