"""What the server of the page refuses, over real sockets."""

import contextlib
import errno
import json
import logging
import re
import socket
import ssl
import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from certificate_maker import Authority
from mqtt_listener import wait_until
from page_server import API, PASSWORD, Client, make_server, with_passwords

from zsad_agent.daemon import web
from zsad_agent.daemon.web import WebServer
from zsad_agent.serving import Receive, Scope, Send, send_whole
from zsad_agent.web.app import Gate

ELSEWHERE = {"X-Forwarded-For": "10.0.0.9"}  # a request that a proxy passes on counts as one from another machine
HEAD = b"GET /api/v1/session HTTP/1.1\r\nHost: localhost\r\n"


@pytest.fixture(autouse=True)
def cheap_hash(monkeypatch: pytest.MonkeyPatch) -> None:
    """`test_access` has the real one."""
    monkeypatch.setattr("zsad_agent.web.access._scrypt", lambda password, salt: password.encode() + salt)


@pytest.fixture
def server(tmp_path: Path) -> Iterator[WebServer]:
    with make_server(tmp_path) as server:
        yield server


@pytest.fixture
def port(server: WebServer) -> int:
    assert server.port is not None
    return server.port


@pytest.fixture
def admin(port: int) -> Client:
    return with_passwords(port)


@pytest.fixture
def operator(port: int, admin: Client) -> Client:
    client = Client(port)
    assert client.log_in("operator").status == 200
    return client


def send_raw(port: int, request: bytes, timeout_s: float = 30.0) -> bytes:
    """All bytes until the server closes or resets the connection."""
    received = b""
    with (
        socket.create_connection(("127.0.0.1", port), timeout=timeout_s) as connection,
        contextlib.suppress(ConnectionResetError, BrokenPipeError),
    ):
        connection.sendall(request)
        while part := connection.recv(65536):
            received += part
    return received


def connect(server: WebServer) -> socket.socket:
    return socket.create_connection(("127.0.0.1", server.port or 0), timeout=30)


def test_first_visit_sets_the_passwords_and_later_ones_log_in(port: int) -> None:
    visitor = Client(port)
    before = visitor.ask("GET", "/session").json
    assert (before["role"], before["passwords_set"], before["device_id"]) == ("admin", False, "line3")
    admin = with_passwords(port)
    assert visitor.ask("GET", "/session").json == {
        "role": None,
        "passwords_set": True,
        "csrf": None,
        "version": "0.0.1",
        "device_id": None,
    }
    assert admin.ask("GET", "/session").json["role"] == "admin"
    assert admin.ask("DELETE", "/session").status == 204
    assert admin.ask("GET", "/session").json["role"] is None


def test_session_cookie_is_out_of_reach_of_scripts_and_other_sites(port: int, admin: Client) -> None:
    cookie = Client(port).log_in().headers["Set-Cookie"].lower()
    assert "httponly" in cookie and "samesite=strict" in cookie and "path=/" in cookie and "secure" not in cookie


def test_log_in_does_not_take_over_a_session_that_somebody_else_chose(port: int, admin: Client) -> None:
    chosen = Client(port, cookie="A" * 43)
    assert chosen.log_in().status == 200 and chosen.cookie != "A" * 43
    assert Client(port, cookie="A" * 43).ask("GET", "/session").json["role"] is None
    earlier = admin.cookie
    assert admin.log_in().status == 200 and admin.cookie != earlier
    assert Client(port, cookie=earlier).ask("GET", "/session").json["role"] is None


def test_every_route_needs_a_session(port: int, admin: Client) -> None:
    paths = admin.ask("GET", "/openapi.json").json["paths"]
    routes = [(method.upper(), path) for path, methods in paths.items() for method in methods]
    assert len(routes) > 4
    for method, path in [*routes, ("GET", f"{API}/openapi.json"), ("GET", f"{API}/nothing"), ("GET", API)]:
        if (path, method) not in ((f"{API}/session", "GET"), (f"{API}/session", "POST")):
            answer = Client(port).ask(method, path.replace("{", "").replace("}", ""), raw=True)
            assert (answer.status, answer.error) == (401, "log in first"), (method, path)


def test_without_a_password_nothing_is_answered_to_other_machines(port: int) -> None:
    assert Client(port).ask("GET", "/audit").status == 200
    for name in ("X-Forwarded-For", "Forwarded", "Via"):
        outside = Client(port, headers={name: "10.0.0.9"}).open()
        assert outside.csrf is None
        assert outside.ask("GET", "/audit").status == 401
        outside.csrf = Client(port).open().csrf
        assert outside.ask("PUT", "/passwords", {"role": "admin", "password": PASSWORD}).status == 401


def test_operator_may_not_do_what_an_admin_may(operator: Client) -> None:
    for method, path, body in (("GET", "/audit", None), ("PUT", "/passwords", {"role": "admin", "password": PASSWORD})):
        answer = operator.ask(method, path, body)
        assert (answer.status, answer.error) == (403, "only an admin may do this: log in as admin")
    assert operator.ask("GET", "/openapi.json").status == 200


def test_each_route_needs_the_role_that_the_contract_names(admin: Client, operator: Client) -> None:
    for_admin = {
        "PUT /passwords",
        "GET /audit",
        "PUT /cameras/{}/threshold",
        "POST /cameras/{}/teach/pictures",
        "DELETE /cameras/{}/teach/pictures/{}",
        "PATCH /cameras/{}/settings",
        "DELETE /products/{}",
        "GET /config",
        "PUT /config",
        "POST /config/check",
        "GET /devices",
        "POST /probe/source",
        "POST /probe/broker",
    }
    present, refused = set(), set()
    for path, methods in admin.ask("GET", "/openapi.json").json["paths"].items():
        for method in map(str.upper, methods):
            route = f"{method} {re.sub('{[^}]*}', '{}', path).removeprefix(API)}"
            if route not in ("GET /events", "DELETE /session", "POST /session"):
                status = operator.ask(method, path.replace("{", "").replace("}", ""), raw=True).status
                assert status != 401, route
                present.add(route)
                refused |= {route} if status == 403 else set()
    assert refused == for_admin & present


@pytest.mark.parametrize("token", [None, "", "wrong"])
def test_change_needs_the_csrf_token_also_on_the_first_visit(token: str | None, port: int) -> None:
    body = {"role": "admin", "password": PASSWORD}
    assert Client(port, csrf=token).ask("PUT", "/passwords", body).status == 403
    admin = with_passwords(port)
    for client in (replace(admin, csrf=token), replace(admin, csrf=Client(port).open().csrf)):
        answer = client.ask("PUT", "/passwords", body)
        assert answer.status == 403 and "X-CSRF-Token" in answer.error
    assert admin.ask("PUT", "/passwords", body).status == 204


@pytest.mark.parametrize("origin", ["http://evil.example", "null", "https://localhost", "http://localhost:1"])
def test_change_and_log_in_from_another_site_are_refused(origin: str, port: int, admin: Client) -> None:
    own = {"Host": "localhost", "Origin": "http://localhost"}
    body = {"role": "admin", "password": PASSWORD}
    for client, method, path in ((admin, "PUT", "/passwords"), (Client(port), "POST", "/session")):
        answer = client.ask(method, path, body, own | {"Origin": origin})
        assert answer.status == 403 and "another site" in answer.error
        assert client.ask(method, path, body, own).status < 300


@pytest.mark.parametrize("host", ["evil.example", "localhost.evil.example", "10.0.0.1", "", "127.0.0.1:x", "[::2]"])
def test_foreign_host_is_refused_for_pages_and_api(host: str, port: int) -> None:
    for path in ("/", "/metrics", f"{API}/session"):
        answer = send_raw(port, f"GET {path} HTTP/1.1\r\nHost: {host}\r\n\r\n".encode())
        assert answer.startswith(b"HTTP/1.1 403 "), (path, answer)


@pytest.mark.parametrize("host", ["localhost:1234", "127.0.0.1", "[::1]:8080", socket.gethostname().upper()])
def test_names_of_this_machine_are_accepted(host: str, port: int) -> None:
    assert Client(port).ask("GET", "/session", headers={"Host": host}).status == 200


def test_wrong_passwords_are_limited(port: int, admin: Client) -> None:
    client = Client(port)
    statuses = [client.log_in(password="wrong horse").status for _ in range(6)]
    assert statuses == [401] * 5 + [429]
    refused = client.log_in()
    assert refused.status == 429 and refused.headers["Retry-After"] == "60" and "wait 60 s" in refused.error


def test_password_is_in_no_answer_log_or_list(
    port: int, admin: Client, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    secret = "pass-phrase-7"
    answers = [
        admin.ask("PUT", "/passwords", {"role": "operator", "password": secret}),
        Client(port).log_in("operator", secret),
        Client(port).log_in("admin", secret),
        Client(port).ask("POST", "/session", {"role": "nobody", "password": secret}),
        Client(port).ask("POST", "/session", {"role": "admin", "password": {secret: 1}}),
        Client(port).ask("POST", "/session", {"role": "admin", "password": secret * 40}),
        Client(port).ask("POST", "/session", {"password": secret}),
        Client(port).ask("POST", "/session", f'{{"password": {secret}'.encode(), {"Content-Type": "application/json"}),
        admin.ask("GET", "/audit"),
    ]
    assert [answer.status for answer in answers] == [204, 200, 401, 422, 422, 422, 422, 422, 200]
    assert not [answer.body for answer in answers if secret.encode() in answer.body]
    assert secret not in caplog.text and secret not in (tmp_path / "audit.jsonl").read_text()


def test_who_changed_what_is_listed(admin: Client, operator: Client) -> None:
    operator.ask("DELETE", "/session")
    lines = admin.ask("GET", "/audit").json
    assert [(line["who"], line["what"]) for line in lines] == [
        ("operator", "log-out"),
        ("operator", "log-in"),
        ("admin", "password of operator"),
        ("admin", "log-in"),
        ("admin", "password of admin"),
    ]
    assert {line["address"] for line in lines} == {"127.0.0.1"}
    assert [line["what"] for line in admin.ask("GET", "/audit?limit=1").json] == ["log-out"]


def test_change_that_its_route_does_not_note_gets_a_line(tmp_path: Path) -> None:
    async def change(scope: Scope, receive: Receive, send: Send) -> None:
        await send_whole(send, 422 if scope["path"].endswith("wrong") else 200, "application/json", b"{}")

    def instead(gate: Gate) -> Gate:
        return Gate(change, gate._health, gate._files, gate._access)

    with make_server(tmp_path, wrap=instead) as server:
        visitor = server._access.visitor(None, "127.0.0.1", on_loopback=True)
        client = Client(server.port or 0, csrf=visitor.csrf if visitor is not None else None)
        for method, path in (("PUT", "/wrong"), ("GET", "/cameras"), ("PUT", "/cameras/cam0/paused")):
            client.ask(method, path)
        wait_until(lambda: (tmp_path / "audit.jsonl").exists(), 20)
    (line,) = (tmp_path / "audit.jsonl").read_text().splitlines()
    assert json.loads(line)["what"] == "PUT /api/v1/cameras/cam0/paused"


@pytest.mark.parametrize(
    ("method", "path", "body", "status", "said"),
    [
        ("GET", "/nothing", None, 404, "there is no /api/v1/nothing"),
        ("PUT", "/session", {}, 405, "PUT is not allowed here"),
        ("GET", "/audit?limit=x", None, 422, "query.limit: "),
        ("GET", "/audit?limit=0", None, 422, "got '0'"),
        ("PUT", "/passwords", {"role": "boss", "password": PASSWORD}, 422, "got 'boss'"),
        ("PUT", "/passwords", {"role": "admin"}, 422, "body.password: is missing"),
        ("PUT", "/passwords", {"role": "admin", "password": PASSWORD, "x": 1}, 422, "body.x: is not known here"),
        ("PUT", "/passwords", {"role": "admin", "password": "short"}, 422, "8 to 200 characters, not 5"),
        ("PUT", "/passwords", b"{", 422, "body"),
        ("PUT", "/passwords", b"x" * 10_000_000, 413, "at most 64000 bytes"),
        ("PUT", "/cameras/cam0/teach/pictures", b"x" * 1_000_000, 413, "at most 64000 bytes"),
        ("PATCH", "/cameras/cam0/settings", b"x" * 1_000_001, 413, "at most 1000000 bytes"),
    ],
)
def test_errors_are_json_and_say_what_is_wrong(
    method: str, path: str, body: object, status: int, said: str, admin: Client
) -> None:
    answer = admin.ask(method, path, body)
    assert (answer.status, answer.headers["Content-Type"]) == (status, "application/json")
    assert said in answer.error


def test_body_without_a_length_is_limited_too(admin: Client, port: int) -> None:
    head = (
        f"PUT {API}/passwords HTTP/1.1\r\nHost: localhost\r\nCookie: zsad_session={admin.cookie}\r\nX-CSRF-Token: "
        f"{admin.csrf}\r\nContent-Type: application/json\r\nTransfer-Encoding: chunked\r\n\r\n"
    )
    chunk = b"10000\r\n" + b"x" * 65536 + b"\r\n"
    answer = send_raw(port, head.encode() + 4 * chunk + b"0\r\n\r\n")
    assert answer.startswith(b"HTTP/1.1 413 ")


def test_picture_may_be_larger_than_other_bodies(tmp_path: Path) -> None:
    async def count(scope: Scope, receive: Receive, send: Send) -> None:
        size, more = 0, True
        while more:
            message = await receive()
            size, more = size + len(message.get("body", b"")), message.get("more_body", False)
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": json.dumps({"size": size}).encode()})

    with make_server(tmp_path, wrap=lambda app: count) as server:
        client = Client(server.port or 0)
        path = "/cameras/cam0/teach/pictures?kind=good"
        assert client.ask("POST", path, b"x" * 20_000_000).json == {"size": 20_000_000}
        assert client.ask("POST", path, b"x" * 20_000_001).status == 413


def test_fault_of_a_route_is_no_traceback(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    def broken() -> object:
        raise RuntimeError("private")

    with make_server(tmp_path) as server:
        server._access.audit.read = lambda limit: broken()  # type: ignore[method-assign, assignment, return-value]
        answer = Client(server.port or 0).ask("GET", "/audit")
    assert answer.status == 500 and "log of zsad-agent" in answer.error and b"private" not in answer.body
    assert "RuntimeError: private" in caplog.text


def test_disk_that_fails_is_said_with_the_reason(tmp_path: Path) -> None:
    def full(*_: object, **__: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device", str(tmp_path / "passwords.json"))

    with make_server(tmp_path) as server:
        server._access.set_password = full  # type: ignore[method-assign]
        client = Client(server.port or 0).open()
        answer = client.ask("PUT", "/passwords", {"role": "admin", "password": PASSWORD})
    assert answer.status == 503 and "passwords.json: No space left on device" in answer.error


def test_answers_have_safe_headers(port: int) -> None:
    for path, status in (("/", 200), (f"{API}/session", 200), (f"{API}/nothing", 404), ("/metrics", 200), ("/x", 404)):
        answer = Client(port).ask("GET", path, raw=True)
        assert answer.status == status
        policy = answer.headers["Content-Security-Policy"]
        assert (
            policy.startswith("default-src 'self';") and "unsafe" not in policy and "frame-ancestors 'none'" in policy
        )
        assert answer.headers["X-Content-Type-Options"] == "nosniff"
        assert answer.headers["X-Frame-Options"] == "DENY" and answer.headers["Referrer-Policy"] == "no-referrer"
        assert answer.headers["Cache-Control"] in ("no-store", "no-cache")
        assert answer.headers["Server"] is None and answer.headers["Access-Control-Allow-Origin"] is None


@pytest.mark.parametrize(
    "path",
    [
        "/../access.py",
        "/%2e%2e/access.py",
        "/..%2faccess.py",
        "/%2e%2e%2f%2e%2e%2fweb%2faccess.py",
        "//etc/passwd",
        "/static/",
        "/static",
        "/.",
        "/index.html%00.js",
        "/%5c..%5caccess.py",
    ],
)
def test_only_files_of_the_page_are_served_and_no_folder_is_listed(path: str, port: int) -> None:
    answer = send_raw(port, f"GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n".encode())
    assert answer.startswith(b"HTTP/1.1 404 "), answer


def test_page_is_sent_again_only_if_it_has_changed(port: int) -> None:
    first = Client(port).ask("GET", "/", raw=True)
    assert first.status == 200 and b"<html" in first.body and first.headers["Content-Type"].startswith("text/html")
    again = Client(port).ask("GET", "/", headers={"If-None-Match": first.headers["ETag"]}, raw=True)
    assert (again.status, again.body) == (304, b"")
    assert Client(port).ask("HEAD", "/", raw=True).headers["Content-Length"] == str(len(first.body))
    assert Client(port).ask("POST", "/", b"", raw=True).status == 405


def test_health_is_answered_on_the_device_and_elsewhere_with_a_session(port: int, operator: Client) -> None:
    for path in ("/metrics", "/healthz", "/readyz"):
        assert Client(port).ask("GET", path, raw=True).status == 200
        assert Client(port, headers=ELSEWHERE).ask("GET", path, raw=True).status == 401
        assert replace(operator, headers=ELSEWHERE).ask("GET", path, raw=True).status == 200


@pytest.mark.parametrize(
    "said",
    [b"", b"G", HEAD, b"POST /api/v1/session HTTP/1.1\r\nHost: localhost\r\nContent-Length: 60000\r\n\r\n{"],
    ids=["nothing", "a byte", "a head", "a body"],
)
def test_slow_clients_do_not_keep_others_out(said: bytes, server: WebServer, port: int) -> None:
    """300 clients say this and nothing more, and connect again when they are closed."""
    over, slow = threading.Event(), []

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
            assert Client(port).ask("GET", "/session").status == 200
            assert time.monotonic() - started_s < 5
    finally:
        over.set()
        attack.join()
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
            while time.monotonic() - started_s < 20:
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

    async def endless(scope: Scope, receive: Receive, send: Send) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": []})
        while not ended.is_set():
            await send({"type": "http.response.body", "body": b"x" * 65536, "more_body": True})

    ended = threading.Event()
    with make_server(tmp_path, wrap=lambda app: endless) as server, connect(server) as connection:
        connection.sendall(HEAD + b"\r\n")
        time.sleep(3)
        with contextlib.suppress(ConnectionResetError):
            while connection.recv(1_000_000):
                pass
        ended.set()  # else `recv` above would not have come to an end


def test_tls_with_a_generated_certificate_that_stays(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    for _ in range(2):
        with make_server(tmp_path, {"generate_certificate": True}) as server, connect(server):
            context = ssl.create_default_context()
            wait_until(lambda: (tmp_path / "web-certificate.pem").exists(), 20)
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
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    with make_server(tmp_path, {"listen": f"0.0.0.0:{port}"}) as server:
        assert not listens_everywhere(port) and server.port == port
        assert server.fault is not None and "no password is set" in server.fault
        assert f"http://127.0.0.1:{port}" in server.fault and f"ssh -L {port}:127.0.0.1:{port}" in server.fault
        body = {"role": "admin", "password": PASSWORD}
        assert Client(port).open().ask("PUT", "/passwords", body).status == 204
        wait_until(lambda: listens_everywhere(port), 20)
        assert server.fault is None
        assert Client(port).log_in().status == 200
    with make_server(tmp_path, {"listen": f"0.0.0.0:{port}"}):
        assert listens_everywhere(port)
