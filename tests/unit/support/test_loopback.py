# Copyright The opentelemetry-instrumentation-dspy Authors
# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import http.client
import socket
import threading
from concurrent.futures import ThreadPoolExecutor

import pytest

from tests.support.faults import HalfBody, Hang, Reset, Status
from tests.support.http_client import post, post_with_headers
from tests.support.loopback import HttpReply, HttpRequest, LoopbackServer


def _echo(request: HttpRequest) -> HttpReply:
    return HttpReply(body=request.body)


def test_answers_fifty_clients_at_once() -> None:
    together = threading.Barrier(50)

    def ask(number: int) -> bytes:
        together.wait(10)
        return post(server.url, number)[1]

    with LoopbackServer(_echo) as server, ThreadPoolExecutor(50) as pool:
        assert list(pool.map(ask, range(50))) == [b"%d" % number for number in range(50)]


def test_keeps_the_connection_open_between_requests() -> None:
    with LoopbackServer(_echo) as server:
        connection = http.client.HTTPConnection(server.url.removeprefix("http://"), timeout=5)
        connection.request("POST", "/", b"1")
        assert connection.getresponse().read() == b"1"
        first = connection.sock
        connection.request("POST", "/", b"2")
        assert connection.getresponse().read() == b"2"
        assert connection.sock is first
        connection.close()


def test_reads_a_chunked_request() -> None:
    with LoopbackServer(_echo) as server:
        connection = http.client.HTTPConnection(server.url.removeprefix("http://"), timeout=5)
        connection.request("POST", "/", iter([b"one ", b"two"]), encode_chunked=True)
        assert connection.getresponse().read() == b"one two"
        connection.close()


def test_faults_are_used_up_in_order_and_then_it_answers() -> None:
    with LoopbackServer(_echo) as server:
        server.fail_with(Status(429, retry_after=2), Status(503, "later", retry_after="soon"))
        status, headers, body = post_with_headers(server.url, 1)
        assert (status, headers["Retry-After"], body) == (429, "2", b"injected 429")
        status, headers, body = post_with_headers(server.url, 1)
        assert (status, headers["Retry-After"], body) == (503, "soon", b"later")
        assert post(server.url, 1) == (200, b"1")


def test_redirect() -> None:
    with LoopbackServer(_echo) as server:
        server.fail_with(Status(302, headers={"Location": "http://127.0.0.1:1/"}))
        status, headers, _ = post_with_headers(server.url, 1)
        assert (status, headers["Location"]) == (302, "http://127.0.0.1:1/")


def test_status_can_repeat_the_api_key() -> None:
    with LoopbackServer(_echo) as server:
        server.fail_with(Status(401, "no such key: {api_key}"))
        _, body = post(server.url, 1, {"Authorization": "Bearer sk-secret"})
        assert body == b"no such key: sk-secret"


def test_reset_is_a_real_reset() -> None:
    with LoopbackServer(_echo) as server:
        server.fail_with(Reset())
        with pytest.raises(ConnectionResetError):
            post(server.url, 1)
        assert post(server.url, 2) == (200, b"2")


def test_half_body() -> None:
    with LoopbackServer(_echo) as server:
        server.fail_with(HalfBody())
        with pytest.raises(http.client.IncompleteRead) as caught:
            post(server.url, b"0123456789")
        assert caught.value.partial == b"01234"


def test_half_of_a_streamed_body() -> None:
    streamed = HttpReply(body=iter([b"one", b"two", b"three", b"four"]))
    with LoopbackServer(lambda request: streamed) as server:
        server.fail_with(HalfBody())
        with pytest.raises(http.client.IncompleteRead) as caught:
            post(server.url, 1)
        assert caught.value.partial == b"onetwo"


def test_hang_ends_without_an_answer() -> None:
    with LoopbackServer(_echo) as server:
        server.fail_with(Hang(0.01))
        with pytest.raises(http.client.RemoteDisconnected):
            post(server.url, 1)


@pytest.mark.parametrize("fault", [Hang(0.0, processed=True), Reset(processed=True)])
def test_work_can_be_done_though_the_answer_is_lost(fault: Hang | Reset) -> None:
    done: list[bytes] = []

    def work(request: HttpRequest) -> HttpReply:
        done.append(request.body)
        return HttpReply()

    with LoopbackServer(work) as server:
        server.fail_with(fault)
        with pytest.raises(ConnectionError):
            post(server.url, 1)
        assert done == [b"1"]


def test_stop_does_not_wait_for_a_hanging_request() -> None:
    received = threading.Event()
    outcome: list[BaseException] = []

    def ask() -> None:
        try:
            post(server.url, 1)
        except ConnectionError as error:
            outcome.append(error)

    server = LoopbackServer(_echo, received=lambda request: received.set())
    with server:
        server.fail_with(Hang(600))
        client = threading.Thread(target=ask)
        client.start()
        assert received.wait(5)
    client.join(5)
    assert len(outcome) == 1


def test_stopped_means_refused_and_started_again_means_the_same_port() -> None:
    server = LoopbackServer(_echo)
    with server:
        before = server.url
    with pytest.raises(ConnectionRefusedError):
        post(before, 1)
    with server:
        assert post(before, 1) == (200, b"1")


def test_stop_breaks_idle_connections() -> None:
    with LoopbackServer(_echo) as server:
        host, port = server.url.removeprefix("http://").split(":")
        idle = socket.create_connection((host, int(port)), timeout=5)
        idle.sendall(b"POST / HTTP/1.1\r\nContent-Length: 0\r\n\r\n")
        assert idle.recv(1000).startswith(b"HTTP/1.1 200")
    assert idle.recv(1000) == b""
    idle.close()


def test_a_mistake_in_the_responder_is_answered_and_raised_at_the_end() -> None:
    def broken(request: HttpRequest) -> HttpReply:
        raise KeyError("oops")

    with pytest.raises(KeyError, match="oops"), LoopbackServer(broken) as server:
        status, body = post(server.url, 1)
        assert status == 500
        assert b"KeyError: 'oops'" in body


def test_needs_to_be_started() -> None:
    with pytest.raises(RuntimeError, match="never started"):
        _ = LoopbackServer(_echo).url
