from collections.abc import Iterator
from pathlib import Path

import pytest
from page_server import Client, make_server, with_passwords

from zsad_agent.daemon.web import WebServer


@pytest.fixture
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
