# Copyright The opentelemetry-instrumentation-dspy Authors
# SPDX-License-Identifier: Apache-2.0
"""ASGI servers that SIGTERM stops, as containers are: the spans of every answered request arrive.

uvicorn puts the default action of SIGTERM back at its end and raises the signal again.
"""

from __future__ import annotations

import os
import signal
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from tests.integration.span_sink import PATIENCE, SpanSink, spooled, traces, wait_for
from tests.integration.test_delivery_workers import AUTOLOG, Started, answers, free_port, settings
from tests.integration.traced_program import WORK

pytestmark = [
    pytest.mark.integration,
    pytest.mark.skipif(os.name != "posix", reason="needs signals"),
]

ASGI = (
    WORK
    + """
import asyncio, os

async def app(scope, receive, send):
    assert scope["type"] == "http"
    name = scope["path"].strip("/")
    if name == "slow":
        open(os.environ["BEGUN"], "w").close()
        await asyncio.sleep(1.5)
    work(name)
    length = [(b"content-length", b"2")]
    await send({"type": "http.response.start", "status": 200, "headers": length})
    await send({"type": "http.response.body", "body": b"ok"})
"""
)
UVICORN = ("uvicorn", "--log-level", "warning", "--lifespan", "off")
GUNICORN = ("gunicorn", "--worker-class", "uvicorn.workers.UvicornWorker")
SERVERS = [
    pytest.param(UVICORN, "--port", -signal.SIGTERM, id="uvicorn"),
    pytest.param((*UVICORN, "--workers", "2"), "--port", 0, id="uvicorn with workers"),
    pytest.param(GUNICORN, "--bind", 0, id="gunicorn with uvicorn"),
    pytest.param((*GUNICORN, "--preload"), "--bind", 0, id="preloaded gunicorn with uvicorn"),
]


@pytest.mark.parametrize("zero_code", [False, True], ids=["autolog", "opentelemetry-instrument"])
@pytest.mark.parametrize(("server", "option", "code"), SERVERS)
def test_sigterm_while_a_request_is_answered(
    server: tuple[str, ...], option: str, code: int, zero_code: bool, tmp_path: Path
) -> None:
    pytest.importorskip(server[0])
    (tmp_path / "served.py").write_text(ASGI if zero_code else AUTOLOG + ASGI)
    port = free_port()
    address = f"127.0.0.1:{port}" if option == "--bind" else str(port)
    command = [sys.executable, "-m", *server, option, address, "served:app"]
    names = [f"request-{n}" for n in range(5)]
    begun = tmp_path / "begun"
    with SpanSink() as sink:
        environment = {**settings(tmp_path, sink), "BEGUN": str(begun)}
        with Started(command, tmp_path, environment, zero_code=zero_code) as started:
            for name in names:
                wait_for(lambda name=name: answers(port, name), f"{server[0]}: {started.log}")
            with ThreadPoolExecutor() as client:
                slow = client.submit(answers, port, "slow")
                wait_for(begun.exists, f"the slow request: {started.log}")
                started.process.send_signal(signal.SIGTERM)
                assert slow.result(PATIENCE), started.log
            assert started.process.wait(PATIENCE) == code, started.log
        # A request is made again if its connection breaks.
        assert sink.stored().keys() == traces(*names, "slow").keys(), started.log
    assert spooled(tmp_path / "state") == 0
