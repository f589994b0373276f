"""Who may do what on the page: sessions, roles, other sites and machines, passwords, the list of changes."""

import json
import logging
import re
import socket
from dataclasses import replace
from pathlib import Path

import pytest
from mqtt_listener import wait_until
from page_server import API, PASSWORD, Client, make_server, send_raw, with_passwords

from zsad_agent.serving import Receive, Scope, Send, send_whole
from zsad_agent.web.app import Gate

pytestmark = pytest.mark.usefixtures("cheap_hash")


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
        "POST /cameras/{}/plc/dry-test",
        "DELETE /cameras/{}/plc/dry-test",
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
        audit = tmp_path / "audit.jsonl"
        wait_until(lambda: audit.exists() and audit.read_text().endswith("\n"))
    (line,) = audit.read_text().splitlines()
    assert json.loads(line)["what"] == "PUT /api/v1/cameras/cam0/paused"
