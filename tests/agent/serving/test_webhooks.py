"""Webhooks over real sockets: which results come, faults, retries, losses, slow servers, redirects, secrets."""

import http.server
import json
import socket
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import pytest
from mqtt_listener import wait_until
from result_maker import make_result

from zsad_agent.config import WebhookConfig
from zsad_agent.serving import Webhooks
from zsad_core.types import Verdict


@dataclass
class Receiver:
    """Answers with the next of `statuses`, then with 200."""

    statuses: list[int] = field(default_factory=list)
    got: list[dict[str, Any]] = field(default_factory=list)
    paths: list[str] = field(default_factory=list)
    port: int = 0

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}/hook?token=s3cret"


@pytest.fixture
def receiver(monkeypatch: pytest.MonkeyPatch) -> Iterator[Receiver]:
    monkeypatch.setattr("zsad_agent.serving.webhooks.FIRST_PAUSE_S", 0.05)
    found = Receiver()

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            status = found.statuses.pop(0) if found.statuses else 200
            found.paths.append(self.path)
            if status == 200:
                found.got.append(json.loads(body))
            self.send_response(status)
            if status == 302:
                self.send_header("Location", f"http://localhost:{found.port}/elsewhere")
            self.end_headers()

        def log_message(self, *_: object) -> None: ...

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        found.port = server.server_address[1]
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield found
        server.shutdown()


def hook(url: str, *verdicts: str) -> WebhookConfig:
    return WebhookConfig(url=url, verdicts=verdicts or ("anomalous",))  # type: ignore[arg-type]


def test_results_with_the_wanted_verdicts_come_in_order_as_published(receiver: Receiver) -> None:
    with Webhooks([hook(receiver.url, "anomalous", "unknown")]) as webhooks:
        results = [make_result(seq, verdict=list(Verdict)[seq % 3], trigger_id="T") for seq in range(9)]
        for result in results:
            webhooks.accept(result, None)
        wait_until(lambda: len(receiver.got) == 6)
        assert webhooks.alive and webhooks.fault is None
    assert receiver.got == [json.loads(one.encode()) for one in results if one.verdict is not Verdict.OK]
    assert set(receiver.paths) == {"/hook?token=s3cret"}


def test_failures_are_tried_again_and_told_without_the_secret(
    receiver: Receiver, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    receiver.statuses = [500, 503, 429, 408]
    with Webhooks([hook(receiver.url)]) as webhooks:
        webhooks.accept(make_result(1), None)
        wait_until(lambda: "answered" in (webhooks.fault or ""))
        assert "1 results wait, 0 are lost" in (webhooks.fault or "") and "s3cret" not in (webhooks.fault or "")
        wait_until(lambda: len(receiver.got) == 1 and webhooks.fault is None)
    assert len(receiver.paths) == 5 and "works again" in caplog.text and "s3cret" not in caplog.text


@pytest.mark.parametrize("status", [400, 404, 410, 302])
def test_refused_result_is_lost_and_counted_and_the_next_one_comes(receiver: Receiver, status: int) -> None:
    receiver.statuses = [status]
    with Webhooks([hook(receiver.url)]) as webhooks:
        webhooks.accept(make_result(1), None)
        wait_until(lambda: f"answered {status}" in (webhooks.fault or ""))
        assert "0 results wait, 1 are lost" in (webhooks.fault or "")
        webhooks.accept(make_result(2), None)
        wait_until(lambda: [one["seq"] for one in receiver.got] == [2])
        wait_until(lambda: webhooks.fault is None)
    assert "/elsewhere" not in receiver.paths


def test_queue_is_bounded_and_losses_are_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("zsad_agent.serving.webhooks.MAX_WAITING", 10)
    with Webhooks([hook("http://127.0.0.1:1/")]) as webhooks:
        began_s = time.monotonic()
        for seq in range(30):
            webhooks.accept(make_result(seq), None)
        assert time.monotonic() - began_s < 20
        wait_until(lambda: "10 results wait, 20 are lost" in (webhooks.fault or ""))
        assert "Connection refused" in (webhooks.fault or "")


def test_server_that_never_answers_delays_neither_the_others_nor_the_stop(
    receiver: Receiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    for limit in ("SOCKET_S", "ANSWER_S"):
        monkeypatch.setattr(f"zsad_agent.serving.webhooks.{limit}", 60.0)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        url = f"http://127.0.0.1:{silent.getsockname()[1]}/"
        with Webhooks([hook(url), hook(receiver.url)]) as webhooks:
            webhooks.accept(make_result(1), None)
            wait_until(lambda: len(receiver.got) == 1)
            began_s = time.monotonic()
            webhooks.stop(began_s + 0.2)
            assert time.monotonic() - began_s < 20


def test_answer_that_comes_byte_by_byte_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("zsad_agent.serving.webhooks.ANSWER_S", 0.5)
    ended = threading.Event()

    def drip(server: socket.socket) -> None:
        client, _ = server.accept()
        with client:
            try:
                for byte in b"HTTP/1.1 200 OK\r\nX: " + b"x" * 1000:
                    client.sendall(bytes([byte]))
                    time.sleep(0.05)
            except OSError:
                ended.set()

    with socket.create_server(("127.0.0.1", 0)) as server:
        threading.Thread(target=drip, args=(server,), daemon=True).start()
        with Webhooks([hook(f"http://127.0.0.1:{server.getsockname()[1]}/")]) as webhooks:
            webhooks.accept(make_result(1), None)
            wait_until(lambda: webhooks.fault is not None)
            assert ended.wait(60)


def test_dead_thread_is_seen(receiver: Receiver, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(post: Any, body: bytes) -> Any:
        raise RuntimeError("defect")

    monkeypatch.setattr("zsad_agent.serving.webhooks._Post._send", fail)
    monkeypatch.setattr(threading, "excepthook", lambda args: None)
    with Webhooks([hook(receiver.url)]) as webhooks:
        assert webhooks.alive
        webhooks.accept(make_result(1), None)
        wait_until(lambda: not webhooks.alive)
