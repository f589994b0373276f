"""A server whose port, application or event loop fails, and one that listens elsewhere later."""

import asyncio
import contextlib
import http.client
import logging
import os
import socket
import threading
import time
from collections.abc import Callable

import pytest
from mqtt_listener import wait_until

from zsad_agent.serving import App, HttpServer, Limits, Receive, Scope, Send, send_whole
from zsad_agent.serving.connections import Connections, LimitedProtocol

LIMITS = Limits(connections=8, head_s=5, body_s=5)


async def hello(scope: Scope, receive: Receive, send: Send) -> None:
    await send_whole(send, 200, "text/plain", b"hello")


def make_server(make_app: Callable[[], App] = lambda: hello, host: str = "127.0.0.1", **options: float) -> HttpServer:
    return HttpServer(make_app, lambda: (host, 0), LIMITS, **options)  # type: ignore[arg-type]


def ask(port: int | None, host: str = "127.0.0.1") -> bytes:
    connection = http.client.HTTPConnection(host, port, timeout=30)
    connection.request("GET", "/")
    return connection.getresponse().read()


def fault_of(server: HttpServer) -> str:
    """Its next fault, which may soon be over."""
    found: list[str | None] = []
    wait_until(lambda: found.append(server.fault) or found[-1])
    return str(found[-1])


def end_the_thread(*_: object, **__: object) -> None:
    raise SystemExit("the end")


def test_application_that_cannot_be_made_is_a_fault_and_is_made_again(caplog: pytest.LogCaptureFixture) -> None:
    attempts: list[int] = []

    def make() -> App:
        attempts.append(1)
        if len(attempts) == 1:
            end_the_thread()
        return hello

    with make_server(make) as server:
        port = server.port
        with contextlib.suppress(ConnectionResetError):  # the crash closes the port
            socket.create_connection(("127.0.0.1", port or 0), timeout=30).close()
        assert fault_of(server) == "http server: it crashed and is started again: SystemExit: the end" and server.alive
        wait_until(lambda: server.fault is None)
        assert ask(port) == b"hello" and server.port == port and len(attempts) == 2
    assert [record.levelname for record in caplog.records] == ["ERROR", "WARNING"]


def test_crash_of_the_loop_is_a_fault_and_the_server_works_again(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    with make_server() as server:
        assert ask(server.port) == b"hello"
        with monkeypatch.context() as patched:
            patched.setattr(Connections, "accept_from", end_the_thread)
            server.listen_again()
            assert "it crashed and is started again" in fault_of(server) and server.alive
        wait_until(lambda: server.fault is None)
        assert ask(server.port) == b"hello"
    assert [record.levelname for record in caplog.records if " at http://" in record.message] == ["WARNING"]


def test_body_of_an_answer_does_not_wait_for_the_acknowledgement_of_its_head(monkeypatch: pytest.MonkeyPatch) -> None:
    """Else each answer takes 40 ms longer, because the client's kernel delays the acknowledgement."""
    found: list[int] = []
    begin = LimitedProtocol.connection_made

    def note(protocol: LimitedProtocol, transport: asyncio.Transport) -> None:
        found.append(transport.get_extra_info("socket").getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY))
        begin(protocol, transport)

    monkeypatch.setattr(LimitedProtocol, "connection_made", note)
    with make_server() as server:
        assert ask(server.port) == b"hello"
    assert found == [1]


def test_crash_of_the_loop_closes_its_connections(monkeypatch: pytest.MonkeyPatch) -> None:
    """Their clients would wait for an answer that never comes."""
    with make_server() as server:
        assert ask(server.port) == b"hello"
        with socket.create_connection(("127.0.0.1", server.port or 0), timeout=60) as waiting:
            waiting.sendall(b"GET / HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n")
            assert waiting.recv(65_536)
            with monkeypatch.context() as patched:
                patched.setattr(Connections, "accept_from", end_the_thread)
                server.listen_again()
                wait_until(lambda: server.fault is not None)
                with contextlib.suppress(ConnectionResetError):
                    while waiting.recv(65_536):
                        pass


def test_connections_stay_when_the_server_listens_elsewhere() -> None:
    hosts = ["127.0.0.1", "127.0.0.2"]
    server = HttpServer(lambda: hello, lambda: (hosts[0], 0), LIMITS)
    with server:
        connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=30)
        connection.request("GET", "/")
        assert connection.getresponse().read() == b"hello"
        used = connection.sock
        del hosts[0]
        server.listen_again()
        wait_until(lambda: refuses(server.port))
        assert ask(server.port, "127.0.0.2") == b"hello"
        connection.request("GET", "/")
        assert connection.getresponse().read() == b"hello" and connection.sock is used


def refuses(port: int | None) -> bool:
    try:
        socket.create_connection(("127.0.0.1", port or 0), timeout=60).close()
    except ConnectionRefusedError:
        return True
    return False


def test_application_is_made_after_a_while_even_without_a_client() -> None:
    made: list[int] = []

    def make() -> App:
        made.append(1)
        return hello

    with make_server(make):
        time.sleep(0.5)
        assert not made
    with make_server(make, begin_s=0.1):
        wait_until(lambda: bool(made))


def test_server_gives_way_to_the_other_threads() -> None:
    async def say_priority(scope: Scope, receive: Receive, send: Send) -> None:
        mine = os.getpriority(os.PRIO_PROCESS, threading.get_native_id())
        other = await asyncio.to_thread(lambda: os.getpriority(os.PRIO_PROCESS, threading.get_native_id()))
        await send_whole(send, 200, "text/plain", f"{mine} {other}".encode())

    here = os.getpriority(os.PRIO_PROCESS, threading.get_native_id())
    lower = min(19, here + 5)
    with make_server(lambda: say_priority, nice=lower) as server:
        assert ask(server.port) == f"{lower} {lower}".encode()
    with make_server(lambda: say_priority) as server:
        assert ask(server.port) == f"{here} {here}".encode()


@pytest.mark.parametrize("host", ["::1", "localhost", "::"])
def test_ipv6_and_names_are_listened_on(host: str) -> None:
    if host != "localhost" and not socket.has_ipv6:
        pytest.skip("needs IPv6")
    try:
        with make_server(host=host) as server:
            if server.port is None:
                pytest.skip("needs IPv6 on the loopback")
            assert ask(server.port, "::1" if host == "::1" else "127.0.0.1") == b"hello"
    except OSError as error:
        pytest.fail(str(error))


def test_name_that_nobody_knows_is_a_fault(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.ERROR), make_server(host="no-such-host.invalid") as server:
        assert server.fault is not None and "cannot listen on no-such-host.invalid:0" in server.fault and server.alive


def test_stop_ends_open_connections_and_answers_in_progress() -> None:
    async def endless(scope: Scope, receive: Receive, send: Send) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b"x", "more_body": True})
        while (await receive())["type"] != "http.disconnect":
            pass
        time.sleep(0.01)

    with make_server(lambda: endless) as server:
        connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=30)
        connection.request("GET", "/")
        answer = connection.getresponse()
        assert answer.read(1) == b"x"
        started_s = time.monotonic()
        server.stop(started_s + 60)
        assert time.monotonic() - started_s < 20 and not server.alive
    with pytest.raises(http.client.IncompleteRead):
        answer.read()
