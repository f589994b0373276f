"""What the server of the page answers: errors, limits of bodies, headers, files, health."""

import errno
import json
from dataclasses import replace
from pathlib import Path

import pytest
from page_server import API, PASSWORD, Client, make_server, send_raw

from zsad_agent.serving import Receive, Scope, Send

ELSEWHERE = {"X-Forwarded-For": "10.0.0.9"}  # a request that a proxy passes on counts as one from another machine
pytestmark = pytest.mark.usefixtures("cheap_hash")


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
