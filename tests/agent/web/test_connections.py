"""Connections to the page over real sockets: slow clients, TLS, and the address that it listens at."""

import asyncio
import contextlib
import logging
import socket
import ssl
import threading
import time
from pathlib import Path

import pytest
from certificate_maker import Authority
from mosquitto_broker import free_port
from mqtt_listener import wait_until
from page_server import PASSWORD, Client, connect, make_server

from zsad_agent.daemon import web
from zsad_agent.serving import Receive, Scope, Send

HEAD = b"GET /api/v1/session HTTP/1.1\r\nHost: localhost\r\n"
pytestmark = pytest.mark.usefixtures("cheap_hash")


def answers(port: int) -> bool:
    """On a slow machine its connection may be the one that has waited longest, and is closed."""
    try:
        return Client(port).ask("GET", "/session").status == 200
    except OSError:
        return False


@pytest.mark.parametrize(
    "said",
    [b"", b"G", HEAD, b"POST /api/v1/session HTTP/1.1\r\nHost: localhost\r\nContent-Length: 60000\r\n\r\n{"],
    ids=["nothing", "a byte", "a head", "a body"],
)
def test_slow_clients_do_not_keep_others_out(said: bytes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """300 clients say this and nothing more, and connect again when they are closed."""
    monkeypatch.setattr(web, "LIMITS", web.Limits(connections=256, head_s=60.0, body_s=60.0))
    over, slow = threading.Event(), []
    server = make_server(tmp_path)
    server.start()
    port = server.port or 0

    def drip() -> None:
        while not over.wait(0.02):
            for connection in list(slow):
                try:
                    connection.recv(1)
                    is_open = False
                except BlockingIOError:
                    is_open = True
                except OSError:
                    is_open = False
                if not is_open:
                    slow.remove(connection)
                    connection.close()
            while len(slow) < 300 and not over.is_set():
                with contextlib.suppress(OSError):
                    slow.append(socket.create_connection(("127.0.0.1", port), timeout=30))
                    slow[-1].sendall(said)
                    slow[-1].setblocking(False)

    attack = threading.Thread(target=drip)
    attack.start()
    try:
        wait_until(lambda: len(slow) > 250)
        for _ in range(10):
            started_s = time.monotonic()
            wait_until(lambda: answers(port))
            assert time.monotonic() - started_s < 20  # a slow client may stay for 60 s
    finally:
        over.set()
        attack.join()
        server.stop(time.monotonic() + 60)
        for connection in slow:
            connection.close()


@pytest.mark.parametrize(
    "said", [HEAD, b"POST /api/v1/session HTTP/1.1\r\nHost: localhost\r\nContent-Length: 9999\r\n\r\n"]
)
def test_slow_request_is_ended_although_a_byte_comes_now_and_then(
    said: bytes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(web, "LIMITS", web.Limits(connections=9, head_s=0.5, body_s=0.5))
    with make_server(tmp_path) as server, connect(server) as connection:
        connection.sendall(said)
        started_s = time.monotonic()
        with pytest.raises(OSError):
            while time.monotonic() - started_s < 60:
                connection.sendall(b" ")
                time.sleep(0.05)


def test_tls_handshake_that_does_not_come_is_ended(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(web, "LIMITS", web.Limits(connections=9, head_s=0.5, body_s=0.5))
    with make_server(tmp_path, {"generate_certificate": True}) as server:
        slow = [connect(server) for _ in range(20)]
        context = ssl._create_unverified_context()
        assert Client(server.port or 0, context=context).ask("GET", "/session").status == 200
        for connection in slow:
            with contextlib.suppress(ConnectionResetError):
                assert connection.recv(1) == b""
            connection.close()


def test_client_that_reads_nothing_is_ended(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(web, "LIMITS", web.Limits(connections=9, head_s=5, body_s=5, stalled_s=0.5))

    ended = threading.Event()

    async def endless(scope: Scope, receive: Receive, send: Send) -> None:
        async def note_end() -> None:
            while (await receive())["type"] != "http.disconnect":
                pass
            ended.set()

        noted = asyncio.create_task(note_end())
        await send({"type": "http.response.start", "status": 200, "headers": []})
        while not ended.is_set():
            await send({"type": "http.response.body", "body": b"x" * 65536, "more_body": True})
        await noted

    with make_server(tmp_path, wrap=lambda app: endless) as server, connect(server) as connection:
        connection.sendall(HEAD + b"\r\n")
        assert ended.wait(60)


def test_tls_with_a_generated_certificate_that_stays(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    for _ in range(2):
        with make_server(tmp_path, {"generate_certificate": True}) as server, connect(server):
            context = ssl.create_default_context()
            wait_until(lambda: (tmp_path / "web-certificate.pem").exists())
            context.load_verify_locations(tmp_path / "web-certificate.pem")
            client = Client(server.port or 0, context=context).open()
            assert client.ask("PUT", "/passwords", {"role": "admin", "password": PASSWORD}).status in (204, 401)
            assert "; secure" in client.log_in().headers["Set-Cookie"].lower()
            assert Client(server.port or 0, context=context).ask("GET", "/session").json["role"] is None
    fingerprints = {record.message for record in caplog.records if "fingerprint" in record.message}
    assert len(fingerprints) == 1
    assert (tmp_path / "web-key.pem").stat().st_mode & 0o077 == 0


def test_tls_with_own_certificate_accepts_its_names_as_host(tmp_path: Path) -> None:
    pair = Authority(tmp_path).sign("line3", hosts=("line3.factory.example", "127.0.0.1"))
    with make_server(tmp_path, {"certificate": str(pair.cert), "key": str(pair.key)}) as server:
        context = ssl.create_default_context(cafile=tmp_path / "plant-ca.crt")
        client = Client(server.port or 0, context=context)
        assert client.ask("GET", "/session", headers={"Host": "line3.factory.example"}).status == 200
        assert client.ask("GET", "/session", headers={"Host": "line4.factory.example"}).status == 403


def listens_everywhere(port: int) -> bool:
    lines = Path("/proc/net/tcp").read_text().splitlines()
    return any(line.split()[1] == f"00000000:{port:04X}" and line.split()[3] == "0A" for line in lines[1:])


def test_server_stays_on_the_loopback_until_a_password_is_set(tmp_path: Path) -> None:
    port = free_port()
    with make_server(tmp_path, {"listen": f"0.0.0.0:{port}"}) as server:
        assert not listens_everywhere(port) and server.port == port
        assert server.fault is not None and "no password is set" in server.fault
        assert f"http://127.0.0.1:{port}" in server.fault and f"ssh -L {port}:127.0.0.1:{port}" in server.fault
        body = {"role": "admin", "password": PASSWORD}
        assert Client(port).open().ask("PUT", "/passwords", body).status == 204
        wait_until(lambda: listens_everywhere(port))
        assert server.fault is None
        assert Client(port).log_in().status == 200
    with make_server(tmp_path, {"listen": f"0.0.0.0:{port}"}):
        assert listens_everywhere(port)
