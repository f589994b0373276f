import contextlib
import http.client
import json
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from mqtt_listener import wait_until

from zsad_agent.config import HttpConfig
from zsad_agent.monitoring import HealthApp, HealthServer
from zsad_agent.monitoring.health_server import MAX_CONNECTIONS


class Agent:
    """A fake agent for the server."""

    def __init__(self) -> None:
        self.stuck: str | None = None
        self.missing: list[str] = []
        self.broken = False
        self.asked = threading.Event()
        self.wait: Callable[[], object] = lambda: None

    def metrics(self) -> bytes:
        return b"zsad_x 1\n"

    def say_stuck(self) -> str | None:
        self.asked.set()
        self.wait()
        if self.broken:
            raise RuntimeError("private")
        return self.stuck


def server_of(agent: Agent, listen: str = "127.0.0.1:0", head_s: float = 30.0) -> HealthServer:
    app = HealthApp(metrics=agent.metrics, stuck=agent.say_stuck, missing=lambda: agent.missing)
    return HealthServer(listen, app, head_s=head_s)


@pytest.fixture
def agent() -> Agent:
    return Agent()


@pytest.fixture
def port(agent: Agent) -> Iterator[int]:
    with server_of(agent) as server:
        assert server.port is not None
        yield server.port


def ask(port: int, path: str, method: str = "GET", host: str | None = None) -> tuple[int, str, bytes]:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=30)
    connection.request(method, path, headers={"Host": host} if host is not None else {})
    answer = connection.getresponse()
    body = answer.read()
    connection.close()
    return answer.status, answer.headers["Content-Type"], body


def send_raw(port: int, request: bytes, timeout_s: float = 30.0) -> bytes:
    """All bytes until the server closes or resets the connection."""
    received = b""
    with socket.create_connection(("127.0.0.1", port), timeout=timeout_s) as connection:
        try:
            connection.sendall(request)
            while part := connection.recv(65536):
                received += part
        except (ConnectionResetError, BrokenPipeError):
            pass
    return received


def test_metrics_are_answered_as_text(port: int) -> None:
    assert ask(port, "/metrics") == (200, "text/plain; version=0.0.4; charset=utf-8", b"zsad_x 1\n")
    assert ask(port, "/metrics?name[]=x")[0] == 200


def test_healthz_names_the_hanging_thread(agent: Agent, port: int) -> None:
    assert ask(port, "/healthz") == (200, "application/json", b'{"status": "ok", "reasons": []}\n')
    agent.stuck = "inference has hung for 20 s"
    status, _, body = ask(port, "/healthz")
    assert (status, json.loads(body)) == (503, {"status": "unavailable", "reasons": [agent.stuck]})
    agent.stuck = None
    assert ask(port, "/healthz")[0] == 200


def test_readyz_names_every_reason(agent: Agent, port: int) -> None:
    assert ask(port, "/readyz")[0] == 200
    agent.missing = ["camera cam0: no frame for 5 s", "broker: no answer"]
    status, _, body = ask(port, "/readyz")
    assert (status, json.loads(body)["reasons"]) == (503, agent.missing)
    assert ask(port, "/healthz")[0] == 200  # a restart would bring neither back


def test_failing_check_answers_503_without_details(agent: Agent, port: int) -> None:
    agent.broken = True
    status, _, body = ask(port, "/healthz")
    assert status == 503 and b"private" not in body
    assert json.loads(body)["error"].startswith("the check failed")


def test_head_is_the_same_without_a_body(port: int) -> None:
    answer = send_raw(port, b"HEAD /metrics HTTP/1.1\r\nHost: localhost\r\n\r\n")
    assert answer.startswith(b"HTTP/1.1 200 OK\r\n") and b"content-length: 9\r\n" in answer
    assert answer.endswith(b"\r\n\r\n")


@pytest.mark.parametrize("host", ["localhost", "LOCALHOST:9464", "127.0.0.1", "127.0.0.1:1", "localhost:8080"])
def test_names_of_this_machine_are_accepted(port: int, host: str) -> None:
    assert ask(port, "/healthz", host=host)[0] == 200


@pytest.mark.parametrize(
    "host", ["evil.example", "evil.example:9464", "127.0.0.1.evil.example", "localhost.", "", "127.0.0.1:x", "10.0.0.1"]
)
def test_foreign_host_is_refused(port: int, host: str) -> None:
    status, content_type, body = ask(port, "/metrics", host=host)
    assert (status, content_type) == (403, "application/json") and "IP address" in json.loads(body)["error"]


@pytest.mark.parametrize(
    ("request_head", "status"),
    [
        (b"GET /metrics HTTP/1.1\r\n\r\n", 400),  # no host
        (b"GET /metrics HTTP/1.0\r\n\r\n", 403),
        (b"GET /metrics HTTP/1.1\r\nHost: localhost\r\nHost: evil\r\n\r\n", 400),
        (b"GET /marker HTTP/1.1\r\nHost: localhost\r\n\r\n", 404),
        (b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n", 404),
        (b"GET /../../etc/passwd HTTP/1.1\r\nHost: localhost\r\n\r\n", 404),
        (b"GET http://evil/metrics HTTP/1.1\r\nHost: localhost\r\n\r\n", 404),
        (b"POST /metrics HTTP/1.1\r\nHost: localhost\r\nContent-Length: 3\r\n\r\nabc", 405),
        (b"MARKER /metrics HTTP/1.1\r\nHost: localhost\r\n\r\n", 405),
        (b"GET /metrics MARKER/9\r\nHost: localhost\r\n\r\n", 400),
        (b"GET /metrics HTTP/1.1 marker\r\nHost: localhost\r\n\r\n", 400),
        (b"\x16\x03\x01\x00\xff\x01marker\r\n\r\n", 400),
        (b"GET /metrics HTTP/1.1\r\n" + b"X-marker: 1\r\n" * 150 + b"Host: localhost\r\n\r\n", 431),
        (b"GET /metrics HTTP/1.1\r\nX: " + b"marker" * 5000, 431),
        (b"GET /" + b"marker" * 1_000_000, 431),
    ],
)
def test_invalid_request_is_refused_and_its_text_is_not_repeated(
    port: int, request_head: bytes, status: int, capfd: pytest.CaptureFixture[str]
) -> None:
    started_s = time.monotonic()
    answer = send_raw(port, request_head)
    assert time.monotonic() - started_s < 25  # because it is invalid, not after the 30 s of a connection
    if answer:  # a reset may cut the answer to a request that is too long
        assert answer.startswith(f"HTTP/1.1 {status} ".encode()), answer
        assert json.loads(answer.partition(b"\r\n\r\n")[2])["error"]
    else:
        assert len(request_head) > 8192
    assert b"marker" not in answer.lower()
    assert ask(port, "/healthz")[0] == 200
    assert capfd.readouterr().err == ""


def test_slow_connection_is_closed(agent: Agent) -> None:
    with server_of(agent, head_s=0.5) as server:
        assert server.port is not None
        with socket.create_connection(("127.0.0.1", server.port), timeout=30) as connection:
            started_s = time.monotonic()
            with pytest.raises(OSError):
                while True:
                    connection.sendall(b"G")  # a byte before each timeout of the socket
                    time.sleep(0.05)
                    assert time.monotonic() - started_s < 60


def ask_again(port: int, path: str) -> int:
    """The status, as a scraper gets it: on a slow machine its connection may be the one that has waited longest."""
    while True:
        with contextlib.suppress(ConnectionError):
            return ask(port, path)[0]


@pytest.mark.parametrize(
    "said", [b"", b"G", b"GET /metrics HTTP/1.1\r\nHost: localhost\r\n\r\n"], ids=["nothing", "a byte", "requests"]
)
def test_slow_connections_do_not_block_other_clients(agent: Agent, said: bytes) -> None:
    """200 connections send this now and then, read no answer, and connect again when they are closed.

    All clients have the address of the loopback, so a limit for each address would refuse the honest ones too.
    """
    over = threading.Event()
    slow: list[socket.socket] = []

    def drip(port: int) -> None:
        while not over.wait(0.02):
            for connection in list(slow):
                try:
                    connection.sendall(said)
                    is_open = bool(said) or bool(connection.recv(1))
                except BlockingIOError:
                    is_open = True
                except OSError:
                    is_open = False
                if not is_open:
                    slow.remove(connection)
                    connection.close()
            while len(slow) < 200 and not over.is_set():
                slow.append(socket.create_connection(("127.0.0.1", port), timeout=30))
                slow[-1].setblocking(False)

    before = threading.active_count()
    with server_of(agent) as server:
        assert server.port is not None
        attack = threading.Thread(target=drip, args=(server.port,))
        attack.start()
        wait_until(lambda: len(slow) > 150)
        for _ in range(30):
            started_s = time.monotonic()
            assert ask_again(server.port, "/healthz") == 200
            assert time.monotonic() - started_s < 20  # a slow connection may stay for 30 s
            assert threading.active_count() - before <= 2 * MAX_CONNECTIONS + 2
        over.set()
        attack.join()
        for connection in slow:
            connection.close()


def test_client_that_is_being_answered_is_not_closed_for_newer_ones(
    agent: Agent, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("zsad_agent.monitoring.health_server.ANSWER_S", 60.0)
    go_on = threading.Event()
    agent.wait = lambda: go_on.wait(60)
    with server_of(agent) as server, socket.create_connection(("127.0.0.1", server.port), timeout=30) as early:
        early.sendall(b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n")
        assert agent.asked.wait(60)
        slow = [socket.create_connection(("127.0.0.1", server.port), timeout=30) for _ in range(100)]
        assert slow[0].recv(1) == b""  # it was closed for a newer one
        go_on.set()
        assert early.recv(100).startswith(b"HTTP/1.1 200 ")
        for connection in slow:
            connection.close()


def test_used_port_is_a_fault_and_is_opened_once_it_is_free(caplog: pytest.LogCaptureFixture, agent: Agent) -> None:
    with contextlib.ExitStack() as stack:
        with server_of(agent) as first:
            assert first.port is not None
            second = stack.enter_context(server_of(agent, f"127.0.0.1:{first.port}"))
            assert second.alive and second.port is None
            assert second.fault == (
                f"health server: cannot listen on 127.0.0.1:{first.port}: Address already in use. It is tried again"
            )
            assert [record.message for record in caplog.records] == [second.fault]
        wait_until(lambda: second.fault is None)
        assert second.port == first.port and ask(first.port, "/healthz")[0] == 200


def test_answer_that_does_not_come_ends_the_connection(agent: Agent, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("zsad_agent.monitoring.health_server.ANSWER_S", 0.5)
    go_on = threading.Event()
    agent.wait = lambda: go_on.wait(60)
    with server_of(agent) as server:
        started_s = time.monotonic()
        assert send_raw(server.port or 0, b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n") == b""
        assert time.monotonic() - started_s < 30
        go_on.set()


def test_server_listens_only_on_loopback(port: int) -> None:
    listening = [line.split()[1] for line in Path("/proc/net/tcp").read_text().splitlines() if f":{port:04X} " in line]
    assert f"0100007F:{port:04X}" in listening and not any(address.startswith("00000000") for address in listening)


def test_stop_is_quick_and_frees_the_port(agent: Agent) -> None:
    with server_of(agent) as server:
        port = server.port
        assert port is not None
        dangling = socket.create_connection(("127.0.0.1", port), timeout=30)
        started_s = time.monotonic()
    assert time.monotonic() - started_s < 20  # not after the 30 s of a connection
    dangling.close()
    with server_of(agent, f"127.0.0.1:{port}") as again:
        assert again.port == port


@pytest.mark.parametrize(
    "listen", ["127.0.0.1:65536", "127.0.0.1:99999", "0.0.0.0:9464", "localhost:9464", "127.0.0.1:"]
)
def test_config_accepts_only_a_port_of_loopback(listen: str) -> None:
    with pytest.raises(ValueError, match="listen"):
        HttpConfig(listen=listen)


@pytest.mark.parametrize("listen", ["off", "127.0.0.1:0", "127.0.0.1:65535"])
def test_config_accepts_every_port(listen: str) -> None:
    assert HttpConfig(listen=listen).listen == listen


def test_process_ends_with_a_connection_open_and_imports_the_server_for_the_first_client() -> None:
    script = (
        "import socket, sys\n"
        "from zsad_agent.monitoring import HealthApp, HealthServer\n"
        "app = HealthApp(metrics=lambda: b'', stuck=lambda: None, missing=list)\n"
        "with HealthServer('127.0.0.1:0', app) as server:\n"
        "    assert server.port and not {'asyncio', 'uvicorn'} & sys.modules.keys()\n"
        "    connection = socket.create_connection(('127.0.0.1', server.port))\n"
        "    connection.sendall(b'GET /healthz HTTP/1.1\\r\\nHost: localhost\\r\\n\\r\\n')\n"
        "    assert connection.recv(12) == b'HTTP/1.1 200'\n"
        "    connection = socket.create_connection(('127.0.0.1', server.port))\n"
        "    connection.sendall(b'GET')\n"
        "assert 'uvicorn' in sys.modules and 'fastapi' not in sys.modules\n"
    )
    assert subprocess.run([sys.executable, "-c", script], timeout=180, check=False).returncode == 0
