"""A real server of the page over a fake agent, and a client that keeps its cookie and CSRF token."""

import contextlib
import http.client
import json
import socket
import ssl
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

from zsad_agent.config import AgentConfig
from zsad_agent.daemon.web import WebServer
from zsad_agent.messages import AgentSnapshot
from zsad_agent.monitoring import HealthApp
from zsad_agent.serving import App, Guard
from zsad_agent.web import Access, EventHub, LivePictures, WebParts, body_limit, make_app

API = "/api/v1"
PASSWORD = "correct horse"


class NoCommands:
    def perform(self, camera: str | None, key: str, value: Any, *, by: str) -> dict[str, Any]:
        return {"value": value, "source": "command"}


def make_parts(config: AgentConfig, access: Access, state_dir: Path, **changes: Any) -> WebParts:
    """`WebParts` of an agent without cameras."""
    fields: dict[str, Any] = {
        "config": config,
        "config_path": None,
        "check_config": lambda path: (),
        "reload": lambda: None,
        "state_dir": state_dir,
        "version": "0.0.1",
        "snapshot": lambda: cast(AgentSnapshot, None),
        "health": HealthApp(metrics=lambda: b"zsad_x 1\n", stuck=lambda: None, missing=list),
        "access": access,
        "stations": (),
        "models": cast(Any, None),
        "commands": NoCommands(),
        "learner": None,
        "profiles": None,
        "evidence_folder": None,
        "history": None,
        "live": LivePictures(None),
        "events": EventHub(),
        "plc": None,
    }
    return WebParts(**(fields | changes))


def make_server(
    state_dir: Path,
    web: dict[str, Any] | None = None,
    wrap: Any = None,
    settings: dict[str, Any] | None = None,
    **changes: Any,
) -> WebServer:
    """`wrap`: puts something around the application, inside `Guard`. `settings`: others than `web`. `changes`: of
    `make_parts`."""
    config = AgentConfig.model_validate(
        {"device_id": "line3", **(settings or {}), "web": {"listen": "127.0.0.1:0", **(web or {})}}, strict=False
    )
    access = Access(state_dir, config.web.session_h)

    def make() -> App:
        app = make_app(make_parts(config, access, state_dir, **changes))
        return Guard(wrap(app) if wrap is not None else app, names=lambda: server.names, body_limit=body_limit)

    server = WebServer(config, state_dir, access, make)
    return server


@dataclass
class Answer:
    status: int
    headers: http.client.HTTPMessage
    body: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.body)

    @property
    def error(self) -> str:
        content = self.json
        assert list(content) == ["error"] and content["error"], content
        return str(content["error"])


@dataclass
class Client:
    """A browser, as far as the tests need one."""

    port: int
    headers: dict[str, str] = field(default_factory=dict)  # sent with every request
    cookie: str | None = None
    csrf: str | None = None
    context: ssl.SSLContext | None = None

    def ask(
        self, method: str, path: str, body: Any = None, headers: dict[str, str] | None = None, *, raw: bool = False
    ) -> Answer:
        """`path` below `API` unless `raw`. The headers replace the client's own; an empty one is left out."""
        sent = {**self.headers}
        if self.cookie is not None:
            sent["Cookie"] = f"zsad_session={self.cookie}"
        if self.csrf is not None:
            sent["X-CSRF-Token"] = self.csrf
        if body is not None and not isinstance(body, bytes):
            body, sent["Content-Type"] = json.dumps(body).encode(), "application/json"
        sent = {name: value for name, value in (sent | (headers or {})).items() if value}
        if self.context is not None:
            connection: http.client.HTTPConnection = http.client.HTTPSConnection(
                "127.0.0.1", self.port, timeout=30, context=self.context
            )
        else:
            connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=30)
        connection.request(method, path if raw else API + path, body, sent)
        answer = connection.getresponse()
        found = Answer(answer.status, answer.headers, answer.read())
        connection.close()
        return found

    def open(self) -> "Client":
        """Takes over the CSRF token."""
        self.csrf = self.ask("GET", "/session").json["csrf"]
        return self

    def log_in(self, role: str = "admin", password: str = PASSWORD) -> Answer:
        answer = self.ask("POST", "/session", {"role": role, "password": password})
        if answer.status == 200:
            self.cookie = (answer.headers["Set-Cookie"] or "").partition("zsad_session=")[2].partition(";")[0]
            self.csrf = answer.json["csrf"]
        return answer


def with_passwords(port: int) -> Client:
    """Sets both passwords, as on the first visit. An admin who has logged in."""
    visitor = Client(port).open()
    assert visitor.ask("PUT", "/passwords", {"role": "admin", "password": PASSWORD}).status == 204
    admin = Client(port)
    assert admin.log_in().status == 200
    assert admin.ask("PUT", "/passwords", {"role": "operator", "password": PASSWORD}).status == 204
    return admin


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
