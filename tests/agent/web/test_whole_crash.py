"""A crash of the page's server in a real agent: inspection goes on, no result is missing, and the page comes back."""

import http.client
import socket
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from agent_process import write_line_video
from mosquitto_broker import free_port
from mqtt_listener import wait_until
from page_server import API, Client

from zsad_agent.config import AgentConfig
from zsad_agent.daemon import RunOptions, run_agent
from zsad_agent.messages import Result
from zsad_agent.serving.connections import LimitedProtocol


class Line:
    """An agent in a thread of this process. It inspects a video again and again."""

    def __init__(self, bundle: Path, folder: Path) -> None:
        self.client = Client(free_port())
        self.seen: list[int] = []  # numbers of the results
        self._stop = threading.Event()
        settings = {
            "source": {"source": str(write_line_video(folder / "line.avi", frames=20)), "loop": True, "fps": 20},
            "inference": {"bundle": bundle, "cache_dir": folder / "cache", "threads": 1},
            "mqtt": {"broker": "mqtt://127.0.0.1:1"},
            "http": {"listen": "off"},
            "web": {"listen": f"127.0.0.1:{self.client.port}"},
        }
        config = AgentConfig.model_validate(settings, strict=False)
        options = RunOptions(stop=self._stop, state_dir=folder / "state", exit_now=lambda code: None, sinks=[self])
        self._thread = threading.Thread(target=lambda: run_agent(config, options))
        self._thread.start()

    def accept(self, result: Result, heatmap: bytes | None) -> None:
        self.seen.append(result.seq)

    def end(self) -> None:
        self._stop.set()
        self._thread.join(60)
        assert not self._thread.is_alive()

    def answers(self) -> bool:
        try:
            return self.client.ask("GET", "/session").status == 200
        except (OSError, http.client.HTTPException):
            return False

    def goes_on(self) -> None:
        """Waits for ten more results."""
        before = len(self.seen)
        wait_until(lambda: len(self.seen) >= before + 10)

    def events(self) -> socket.socket:
        """The stream of an open page."""
        stream = socket.create_connection(("127.0.0.1", self.client.port), timeout=60)
        stream.sendall(f"GET {API}/events HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n".encode())
        found = b""
        while b"event: result" not in found:
            more = stream.recv(65_536)
            assert more, found
            found += more
        return stream


@pytest.fixture
def line(tiny_bundle: Path, tmp_path: Path) -> Iterator[Line]:
    line = Line(tiny_bundle, tmp_path)
    yield line
    line.end()


def test_server_that_crashes_twice_costs_no_result_and_comes_back(line: Line, monkeypatch: pytest.MonkeyPatch) -> None:
    crashes: list[bytes] = []

    def crash(_: LimitedProtocol, data: bytes) -> Any:
        crashes.append(data)
        raise SystemExit("the end")

    for number in range(2):
        wait_until(line.answers)
        with line.events() as stream:
            with monkeypatch.context() as patched:
                patched.setattr(LimitedProtocol, "data_received", crash)
                assert not line.answers()  # the request ends the event loop
                while stream.recv(65_536):  # the open page notices
                    pass
                line.goes_on()
            assert len(crashes) > number
    wait_until(line.answers)
    line.events().close()
    page = next(light for light in line.client.ask("GET", "/health").json["lights"] if light["name"] == "page")
    assert page["state"] == "ok"
    assert line.seen == list(range(line.seen[0], line.seen[0] + len(line.seen)))
