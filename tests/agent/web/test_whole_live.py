"""A real agent over its API: events, settings in both directions, the config changed and used, a broker that dies."""

import http.server
import json
import socket
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import pytest
import yaml
from agent_process import AgentProcess, write_line_video
from mjpeg_server import MjpegServer
from mosquitto_broker import MosquittoBroker, free_port
from mqtt_listener import MqttListener, wait_until
from page_server import API, Client

SEEN_S = 20.0  # a fault is on the page within 2 s on a machine without other work


class Events:
    """A page's stream of events, read in a thread."""

    def __init__(self, port: int) -> None:
        self.seen: list[tuple[float, str, Any]] = []  # monotonic seconds, kind, content
        self._socket = socket.create_connection(("127.0.0.1", port), timeout=60)

    def __enter__(self) -> Self:
        self._socket.sendall(f"GET {API}/events HTTP/1.0\r\nHost: 127.0.0.1\r\n\r\n".encode())
        threading.Thread(target=self._read, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self._socket.shutdown(socket.SHUT_RDWR)
        self._socket.close()

    def _read(self) -> None:
        kind = ""
        try:
            for line in self._socket.makefile("r", encoding="utf-8"):
                if line.startswith("event: "):
                    kind = line[7:].strip()
                elif line.startswith("data: "):
                    self.seen.append((time.monotonic(), kind, json.loads(line[6:])))
        except (OSError, ValueError):
            pass

    def of(self, kind: str, since_s: float = 0.0) -> list[Any]:
        return [content for at_s, one, content in list(self.seen) if one == kind and at_s >= since_s]

    def light(self, name: str) -> str | None:
        """Its state in the newest `health`."""
        newest = self.of("health")[-1:]
        return next((light["state"] for one in newest for light in one["lights"] if light["name"] == name), None)


@dataclass
class Line:
    agent: AgentProcess
    client: Client
    broker: MosquittoBroker
    posted: list[Any]
    folder: Path


@pytest.fixture
def line(tiny_bundle: Path, tmp_path: Path, mosquitto: Callable[..., MosquittoBroker]) -> Iterator[Line]:
    port, broker, posted = free_port(), mosquitto(), []

    class Receiver(http.server.BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            posted.append(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))
            self.send_response(204)
            self.end_headers()

        def log_message(self, *_: object) -> None: ...

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Receiver) as receiver:
        threading.Thread(target=receiver.serve_forever, daemon=True).start()
        video = write_line_video(tmp_path / "line.avi", frames=20)
        settings = f"""mqtt:
  broker: {broker.url}
control:
  enabled: true
web:
  listen: 127.0.0.1:{port}
  webhooks:
    - url: http://127.0.0.1:{receiver.server_address[1]}/rejects
source:
  # the line
  source: {video}
  loop: true
  fps: 10
"""
        with AgentProcess(tmp_path, tiny_bundle, "--print-results", settings=settings) as agent:
            agent.wait_for_output(" #1 ")
            client = Client(port)
            wait_until(lambda: _ready(client))
            client.open()
            yield Line(agent, client, broker, posted, tmp_path)
        receiver.shutdown()


def test_camera_that_stalls_is_seen_long_before_it_counts_as_lost_and_again_when_it_is_back(
    tiny_bundle: Path, tmp_path: Path, mosquitto: Callable[..., MosquittoBroker]
) -> None:
    port = free_port()
    with MjpegServer() as camera:
        source = f"source:\n  source: {camera.url}\n  stale_after_s: 600\n"
        settings = f"mqtt:\n  broker: {mosquitto().url}\nweb:\n  listen: 127.0.0.1:{port}\n{source}"
        with AgentProcess(tmp_path, tiny_bundle, settings=settings):
            wait_until(lambda: _ready(Client(port)))
            with Events(port) as events:
                wait_until(lambda: events.light("camera cam0") == "ok")
                camera.stalled = True
                stalled_s = time.monotonic()
                wait_until(lambda: events.light("camera cam0") == "warn")
                print(f"seen after {time.monotonic() - stalled_s:.2f} s")
                seen = events.of("health")[-1]["lights"][0]
                assert seen["text"].startswith("no new picture for more than ") and "cable" in seen["advice"]
                camera.stalled = False
                wait_until(lambda: events.light("camera cam0") == "ok")
                assert "fail" not in {told["lights"][0]["state"] for told in events.of("health", stalled_s)}


def _ready(client: Client) -> bool:
    try:
        return client.ask("GET", "/session").status == 200
    except OSError:
        return False


def test_page_and_mqtt_see_each_others_settings_and_the_next_verdict_uses_them(line: Line) -> None:
    with MqttListener(line.broker.port) as listener, Events(line.client.port) as events:
        wait_until(lambda: {"health", "settings", "teach", "result"} <= {kind for _, kind, _ in list(events.seen)})
        changed = line.client.ask("PUT", "/cameras/cam0/threshold", {"value": 0.97})
        assert changed.json == {"value": 0.97, "source": "command", "error": None}
        done_s = time.monotonic()
        wait_until(lambda: [one for one in events.of("result", done_s + 0.3) if one["threshold"] == 0.97])
        topic = "zsad/line3/cam0/threshold/state"
        listener.wait_for(lambda: json.loads(listener.payloads(topic)[-1])["value"] == 0.97)
        assert json.loads(listener.payloads(topic)[-1])["source"] == "command"
        sent_s = time.monotonic()
        command = {"value": 0.42, "id": "m1", "sent_at": time.time()}
        listener.publish("zsad/line3/cam0/threshold/set", json.dumps(command).encode())
        wait_until(lambda: [one for one in events.of("settings") if one["value"] == 0.42], SEEN_S)
        assert time.monotonic() - sent_s < SEEN_S
        assert line.client.ask("GET", "/audit?limit=1").json[0]["what"] == "cam0 threshold"
        wait_until(lambda: len(line.posted) > 1)
        assert {one["verdict"] for one in line.posted} == {"anomalous"}


def test_broker_that_dies_is_seen_and_inspection_and_events_go_on(line: Line) -> None:
    with Events(line.client.port) as events:
        wait_until(lambda: events.light("broker") == "ok" and events.light("camera cam0") == "ok")
        line.broker.kill()
        wait_until(lambda: events.light("broker") == "fail", SEEN_S)
        now_s = time.monotonic()
        wait_until(lambda: len(events.of("result", now_s)) > 3)
        told = line.client.ask("GET", "/health").json
        assert told["ready"] is False and told["reasons"][0].startswith("broker: ")
        assert told["stats"]["device_id"] == "line3"
        line.client.ask("PUT", "/cameras/cam0/paused", {"value": True})
        wait_until(lambda: events.light("camera cam0") == "off", SEEN_S)


def test_region_drawn_on_the_page_is_in_the_file_and_in_use_after_the_reload(line: Line) -> None:
    frame = line.client.ask("GET", "/cameras/cam0/frame.jpg")
    assert (frame.status, frame.headers["X-Frame-Size"]) == (200, "320x240")
    assert line.client.ask("GET", "/cameras/cam0/live.jpg?overlay=1").status == 200
    inspected = line.client.ask("POST", "/cameras/cam0/inspect", {}).json
    assert inspected["schema"] == "zsad.result/1"
    answer = line.client.ask("PATCH", "/cameras/cam0/settings", {"region_xywh": [10, 20, 200, 100]})
    assert answer.status == 200, answer.body
    line.agent.wait_for_output("restarting with the new config")
    text = (line.folder / "agent.yaml").read_text()
    assert "  # the line\n" in text and yaml.safe_load(text)["source"]["region_xywh"] == [10, 20, 200, 100]
    wait_until(lambda: line.agent.output.count("page at http://") == 2 and _ready(line.client))
    line.client.open()
    found = line.client.ask("GET", "/cameras").json
    assert [(one["name"], one["region_xywh"]) for one in found] == [("cam0", [10, 20, 200, 100])]
    wait_until(lambda: line.client.ask("GET", "/cameras").json[0]["up"])
    wrong = line.client.ask("PATCH", "/cameras/cam0/settings", {"region_xywh": [300, 0, 100, 100]})
    assert wrong.status == 422 and "not inside the picture of 320x240" in wrong.error
    assert "Traceback" not in line.agent.output
