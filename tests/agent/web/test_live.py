"""Live pictures, the event stream, and the inspection of one part, over real sockets."""

import itertools
import json
import re
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import cv2
import numpy as np
import pytest
from mqtt_listener import wait_until
from page_server import API, Client, make_server, with_passwords
from result_maker import make_result

from zsad_agent.capture import CAMERA, INFERENCE, CameraStatus
from zsad_agent.daemon.web import WebServer
from zsad_agent.messages import Result
from zsad_agent.web import EventHub, EventWatch, LivePictures
from zsad_core.types import Verdict

PICTURE = np.random.default_rng(0).integers(0, 255, (480, 640, 3), dtype=np.uint8)
OVERLAY = cv2.imencode(".jpg", PICTURE[::2, ::2])[1].tobytes()


@dataclass
class FakeCapture:
    """Answers a trigger by `answer`."""

    triggered: bool
    answer: Callable[[str], None]
    images: list[np.ndarray] = field(default_factory=list)
    paused: bool = False

    def trigger(self, trigger_id: str | None) -> None:
        assert trigger_id is not None
        threading.Thread(target=self.answer, args=(trigger_id,), daemon=True).start()

    def newest_images(self, count: int) -> list[np.ndarray]:
        return self.images[-count:]


@dataclass
class Page:
    """`cam0` is triggered, `free` runs free."""

    server: WebServer
    client: Client
    live: LivePictures
    hub: EventHub
    stations: dict[str, Any]

    @property
    def port(self) -> int:
        assert self.server.port is not None
        return self.server.port

    def listen(self, receive_bytes: int | None = None) -> socket.socket:
        """A page that has asked for the events."""
        stream = socket.socket()
        if receive_bytes is not None:
            stream.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_bytes)
        stream.settimeout(60)
        stream.connect(("127.0.0.1", self.port))
        cookie = f"Cookie: zsad_session={self.client.cookie}\r\n" if self.client.cookie else ""
        stream.sendall(f"GET {API}/events HTTP/1.1\r\nHost: 127.0.0.1\r\n{cookie}\r\n".encode())
        return stream


def read_until(stream: socket.socket, *wanted: bytes) -> bytes:
    """All bytes up to those that hold everything `wanted`."""
    found = b""
    while not all(one in found for one in wanted):
        more = stream.recv(65_536)
        assert more, found
        found += more
    return found


@pytest.fixture
def page(tmp_path: Path) -> Iterator[Page]:
    hub = EventHub()

    def answer(trigger_id: str) -> None:
        if trigger_id != "lost":
            hub.accept(make_result(1, camera="free"), None)  # another camera's, and another part's
            hub.accept(make_result(2, trigger_id="other", captured_at=datetime.now(UTC)), None)
            hub.accept(make_result(3, trigger_id=trigger_id, captured_at=datetime.now(UTC)), None)

    stations = {
        name: SimpleNamespace(
            name=name, status=CameraStatus(name, lambda *_: None), capture=FakeCapture(name == "cam0", answer)
        )
        for name in ("cam0", "free")
    }
    live = LivePictures(None)
    with make_server(tmp_path, live=live, events=hub, stations=list(stations.values())) as server:
        assert server.port is not None
        yield Page(server, Client(server.port).open(), live, hub, stations)


@pytest.mark.parametrize("path", ["live.jpg", "frame.jpg"])
def test_unknown_camera_and_one_without_a_picture_are_404_with_the_reason(page: Page, path: str) -> None:
    unknown = page.client.ask("GET", f"/cameras/cam9/{path}")
    assert unknown.status == 404 and "no camera 'cam9'. There are: cam0, free" in unknown.error
    empty = page.client.ask("GET", f"/cameras/cam0/{path}")
    assert empty.status == 404 and "cam0 has not given a picture yet" in empty.error


def test_live_picture_is_the_newest_in_the_asked_width_with_or_without_its_heatmap(page: Page) -> None:
    page.live.keep(make_result(1), PICTURE, OVERLAY)
    page.live.keep(make_result(2, verdict=Verdict.UNKNOWN), None, None)  # a fault has no picture
    answer = page.client.ask("GET", "/cameras/cam0/live.jpg?width=320")
    assert (answer.status, answer.headers["X-Result-Id"]) == (200, make_result(1).id)
    picture = cv2.imdecode(np.frombuffer(answer.body, np.uint8), cv2.IMREAD_COLOR)
    assert picture is not None and picture.shape == (240, 320, 3)
    again = page.client.ask(
        "GET", "/cameras/cam0/live.jpg?width=320", headers={"If-None-Match": answer.headers["ETag"]}
    )
    assert (again.status, again.body) == (304, b"")
    assert page.client.ask("GET", "/cameras/cam0/live.jpg?overlay=1").body == OVERLAY
    page.live.keep(make_result(3), PICTURE, None)
    newer = page.client.ask(
        "GET", "/cameras/cam0/live.jpg?width=320", headers={"If-None-Match": answer.headers["ETag"]}
    )
    assert (newer.status, newer.headers["X-Result-Id"]) == (200, make_result(3).id)
    for width in ("15", "4097", "x"):
        assert "width" in page.client.ask("GET", f"/cameras/cam0/live.jpg?width={width}").error


def test_pages_are_asked_to_share_what_live_pictures_may_cost(page: Page, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("zsad_agent.web.hub.os.sched_getaffinity", lambda pid: {0, 1})
    spent_s, cost_s = itertools.count(), 0.0015
    monkeypatch.setattr("zsad_agent.web.hub.time.thread_time", lambda: next(spent_s) * cost_s)
    page.live.keep(make_result(1), PICTURE, OVERLAY)

    def pause_ms() -> int:
        return int(page.client.ask("GET", "/cameras/cam0/live.jpg").headers["X-Pause-Ms"])

    assert pause_ms() == 0
    with ExitStack() as stack:
        for _ in range(20):
            read_until(stack.enter_context(page.listen()), b": open")
        for _ in range(100):
            page.hub.picture_pause_ms()
        assert pause_ms() == pytest.approx(750, abs=5)  # 20 pages, 1.5 ms each, of 2 % of two cores
        spent_s, cost_s = itertools.count(1), 1e6
        assert pause_ms() < 2000  # something else was done meanwhile


def test_ready_picture_is_answered_without_another_thread(page: Page, monkeypatch: pytest.MonkeyPatch) -> None:
    """Twenty pages ask for it all the time. Each change of the thread costs more than the answer."""
    page.live.keep(make_result(1), PICTURE, OVERLAY)
    assert page.client.ask("GET", "/cameras/cam0/live.jpg?width=320").status == 200  # encodes it

    def refuse(*_: Any, **__: Any) -> None:
        raise AssertionError("another thread was asked")

    monkeypatch.setattr("starlette.concurrency.run_in_threadpool", refuse)
    monkeypatch.setattr("anyio.to_thread.run_sync", refuse)
    for query in ("width=320", "overlay=1"):
        assert page.client.ask("GET", f"/cameras/cam0/live.jpg?{query}").status == 200


def test_frame_is_the_newest_of_the_camera_with_its_size(page: Page) -> None:
    page.stations["free"].capture.images = [PICTURE[:16], PICTURE]
    answer = page.client.ask("GET", "/cameras/free/frame.jpg?width=64")
    picture = cv2.imdecode(np.frombuffer(answer.body, np.uint8), cv2.IMREAD_COLOR)
    assert picture is not None and picture.shape == (48, 64, 3)
    assert answer.headers["X-Frame-Size"] == "640x480"


def test_the_frame_of_a_lost_camera_is_refused_with_the_reason(page: Page) -> None:
    page.stations["free"].capture.images = [PICTURE]
    page.stations["free"].status.fault(CAMERA, "camera lost: /dev/video0 is gone")
    refused = page.client.ask("GET", "/cameras/free/frame.jpg")
    assert refused.status == 409 and "/dev/video0 is gone" in refused.error
    page.stations["free"].status.clear(CAMERA)
    assert page.client.ask("GET", "/cameras/free/frame.jpg").status == 200


def test_events_come_as_they_happen_and_a_new_page_gets_the_newest_of_each_kind(page: Page) -> None:
    page.hub.publish("health", {"ready": False})
    page.hub.publish("health", {"ready": True})
    page.hub.publish("settings", {"camera": "cam0", "key": "threshold", "value": 0.4, "source": "command"})
    with page.listen() as stream:
        begin = read_until(stream, b'"value":0.4')
        assert b"text/event-stream" in begin and begin.count(b"event: health") == 1 and b'{"ready":true}' in begin
        result = make_result(7, source_name="a\nb.png")
        page.hub.accept(result, None)
        found = read_until(stream, b"}\n\n")
    data = found[found.index(b"event: result\ndata: ") :].split(b"\n")[1].removeprefix(b"data: ")
    assert Result.decode(data) == result and data == result.encode()


def test_many_results_reach_a_page_in_few_messages(page: Page, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("zsad_agent.web.hub.PAUSE_S", 5.0)
    with page.listen() as stream:
        read_until(stream, b": open")
        page.hub.accept(make_result(1), None)
        read_until(stream, b'"seq":1,')
        for seq in range(2, 50):
            page.hub.accept(make_result(seq), None)
            time.sleep(0.001)
        found = read_until(stream, b'"seq":49,')
    assert len(re.findall(rb"(?m)^[0-9a-f]+\r\n", found)) == 1  # chunks
    assert found.count(b"event: result") == 48


def test_forty_pages_get_events_and_one_more_is_refused_until_another_closes(page: Page) -> None:
    with ExitStack() as stack:
        streams = [stack.enter_context(page.listen()) for _ in range(40)]
        for stream in streams:
            read_until(stream, b": open")
        refused = page.client.ask("GET", "/events")
        assert refused.status == 503 and "40 pages are open" in refused.error
        page.hub.publish("health", {"ready": True})
        for stream in streams:
            read_until(stream, b"event: health")
        streams[0].close()
        wait_until(lambda: page.hub.streams == 39)
        read_until(stack.enter_context(page.listen()), b": open")
    wait_until(lambda: page.hub.streams == 0)


def test_slow_page_gets_the_newest_results_and_how_many_were_left_out_and_delays_nobody(page: Page) -> None:
    count = 10_000
    results = [make_result(seq) for seq in range(count)]
    with page.listen(receive_bytes=4096) as slow, page.listen() as quick:
        read_until(slow, b": open")
        read_until(quick, b": open")
        began_s = time.monotonic()
        for result in results:
            page.hub.accept(result, None)
        assert time.monotonic() - began_s < 60
        wait_until(lambda: page.hub.streams == 2)
        page.hub.publish("health", {"last": True})
        whole = read_until(slow, b'"last":true', b'"seq":9999,')
    found = re.sub(rb"\r\n[0-9a-f]+\r\n", b"", whole).decode()  # without the sizes of the chunks
    found = found[: found.rindex("\n\n")]
    skipped = sum(json.loads(line[6:])["results"] for line in found.splitlines() if line.startswith('data: {"results"'))
    seen = [json.loads(line[6:])["seq"] for line in found.splitlines() if '"zsad.result/1"' in line]
    assert seen == sorted(seen) and skipped > count / 2
    assert count - 2 <= skipped + len(seen) <= count  # the last may be cut


def test_stream_ends_with_the_session_and_at_the_stop(page: Page) -> None:
    page.client = with_passwords(page.port)
    ended, kept = page.listen(), None
    read_until(ended, b": open")
    page.client.ask("DELETE", "/session")
    page.hub.publish("health", {"ready": True})
    with ended:
        assert b"health" not in read_until(ended, b"0\r\n\r\n")
    wait_until(lambda: page.hub.streams == 0)
    page.client.log_in()
    kept = page.listen()
    read_until(kept, b": open")
    began_s = time.monotonic()
    page.server.stop(began_s + 60)
    assert time.monotonic() - began_s < 20 and not page.server.alive
    with kept, pytest.raises(OSError, match="reset"):
        while kept.recv(65_536):
            pass
        raise ConnectionResetError("reset: closed in order")  # both are an end
    assert page.hub.streams == 0


def test_triggered_camera_gives_the_result_of_its_own_trigger(page: Page) -> None:
    for body in ({"trigger_id": "part 7"}, {}):
        answer = page.client.ask("POST", "/cameras/cam0/inspect", body)
        assert (answer.status, answer.json["seq"]) == (200, 3)
        assert answer.json["trigger_id"].startswith(body.get("trigger_id", "page-"))
    assert not page.hub._wanted
    assert page.client.ask("GET", "/audit").json == []  # nothing was changed


def test_no_result_in_time_says_why(page: Page) -> None:
    page.stations["cam0"].status.fault(INFERENCE, "unplugged")
    answer = page.client.ask("POST", "/cameras/cam0/inspect", {"trigger_id": "lost", "timeout_s": 0.2})
    assert answer.status == 504 and answer.error == "no result of cam0 within 0.2 s: unplugged"
    assert not page.hub._wanted


def test_free_running_camera_gives_the_next_picture_that_it_takes(page: Page) -> None:
    def later() -> None:
        wait_until(lambda: bool(page.hub._wanted))
        page.hub.accept(make_result(4, camera="free"), None)  # taken before the question
        page.hub.accept(make_result(5, camera="free", captured_at=datetime.now(UTC)), None)

    threading.Thread(target=later, daemon=True).start()
    answer = page.client.ask("POST", "/cameras/free/inspect", {"timeout_s": 20})
    assert (answer.status, answer.json["seq"]) == (200, 5)
    named = page.client.ask("POST", "/cameras/free/inspect", {"trigger_id": "T-1"})
    assert named.status == 422 and "free takes pictures without triggers" in named.error


@pytest.mark.parametrize(
    "body", [{"timeout_s": 0}, {"timeout_s": 31}, {"trigger_id": ""}, {"trigger_id": "x" * 129}, {"other": 1}, []]
)
def test_wrong_questions_for_an_inspection_are_refused(page: Page, body: Any) -> None:
    assert page.client.ask("POST", "/cameras/cam0/inspect", body).status == 422


def test_only_so_many_inspections_wait_at_once(page: Page) -> None:
    waiting = [
        threading.Thread(target=page.client.ask, args=("POST", "/cameras/free/inspect", {"timeout_s": 30}), daemon=True)
        for _ in range(8)
    ]
    for thread in waiting:
        thread.start()
    wait_until(lambda: len(page.hub._wanted) == 8)
    refused = page.client.ask("POST", "/cameras/free/inspect", {})
    assert refused.status == 503 and "8 inspections are waiting" in refused.error
    page.hub.accept(make_result(1, camera="free", captured_at=datetime.now(UTC)), None)
    for thread in waiting:
        thread.join(60)


def events_in(body: bytes) -> list[tuple[str, Any]]:
    """Kind and content."""
    return [(kind.decode(), json.loads(data)) for kind, data in re.findall(rb"event: (\w+)\ndata: ([^\n]*)\n\n", body)]


def test_watch_tells_open_pages_of_changes_only_and_repeats_health(page: Page, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("zsad_agent.web.hub.WATCH_EVERY_S", 0.02)
    monkeypatch.setattr("zsad_agent.web.hub.HEALTH_EVERY_S", 0.4)
    threshold, fails, asked = 0.5, False, 0

    def read() -> Iterator[tuple[str, dict[str, Any]]]:
        nonlocal asked
        asked += 1
        if fails:
            raise RuntimeError("no answer")
        yield "health", {"ready": True}
        for camera in ("cam0", "free"):
            yield "settings", {"camera": camera, "key": "threshold", "value": threshold, "source": "config"}

    with EventWatch(page.hub, read) as watch:
        time.sleep(0.2)
        assert asked == 0  # nobody looks
        with page.listen() as stream:
            read_until(stream, b'"camera":"free"')
            fails = True
            time.sleep(0.1)
            threshold, fails = 0.7, False
            found = events_in(read_until(stream, b'"camera":"cam0","key":"threshold","value":0.7', b'"ready":true'))
            assert ("health", {"ready": True}) in found
            with page.listen() as second:  # gets what is known at once
                assert b'"value":0.7' in read_until(second, b'"camera":"free"')
            repeated = events_in(read_until(stream, b"event: health"))
            assert [kind for kind, _ in repeated].count("settings") <= 1  # of the camera `free`, changed above
        wait_until(lambda: page.hub.streams == 0)
        threshold = 0.9
        with page.listen() as later:
            read_until(later, b'"camera":"cam0","key":"threshold","value":0.9')
        assert watch.alive


def test_watch_that_waits_for_a_lock_delays_neither_results_nor_the_other_watch(
    page: Page, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("zsad_agent.web.hub.WATCH_EVERY_S", 0.02)
    let_go = threading.Event()

    def read_teach() -> Iterator[tuple[str, dict[str, Any]]]:
        let_go.wait(60)
        yield "teach", {"camera": "cam0", "state": {"phase": "idle"}}

    with (
        EventWatch(page.hub, read_teach) as stuck,
        EventWatch(page.hub, lambda: [("health", {"ready": True})]),
        page.listen() as stream,
    ):
        read_until(stream, b"event: health")
        page.hub.accept(make_result(1), None)
        read_until(stream, b"event: result")
        began_s = time.monotonic()
        stuck.stop(began_s + 0.2)
        assert time.monotonic() - began_s < 20
        let_go.set()
