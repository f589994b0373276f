"""A capture over a real watched folder, in its own thread."""

import itertools
import os
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from mqtt_listener import wait_until
from plain_pictures import UNCHECKED
from watched_folder_tools import level, names, write_picture

from zsad_agent.capture import CameraStatus, Capture, Captured, Fault
from zsad_agent.config import SourceConfig
from zsad_agent.sources import LOOK_EVERY_S, FolderDropSource, make_source
from zsad_agent.sources import watched_folder as folder_drop
from zsad_agent.system import BoundedQueue
from zsad_core.picture import read_encoded
from zsad_core.types import Frame, Verdict


class Watched:
    """A capture over a real folder, in its thread."""

    def __init__(self, folder: Path, **config: Any) -> None:
        self.said: list[dict[str, Any]] = []
        self.slot: BoundedQueue[Captured] = BoundedQueue(4)
        self.stop = threading.Event()
        settings = SourceConfig(source=str(folder), trigger="folder", reopen_max_s=0.05, health=UNCHECKED, **config)
        self.capture = Capture(
            source=make_source(settings),
            config=settings,
            slot=self.slot,
            status=CameraStatus("cam0", lambda camera, status: self.said.append(status)),
            stop=self.stop,
            seq=itertools.count(1),
        )
        self.thread = threading.Thread(target=self.capture.run, daemon=True)
        self.thread.start()

    def get(self) -> Captured:
        item = self.slot.get(60)
        assert item is not None
        return item

    def wait_for_state(self, state: str) -> dict[str, Any]:
        wait_until(lambda: self.said and self.said[-1]["state"] == state)
        return self.said[-1]

    def end(self) -> float:
        started_s = time.monotonic()
        self.stop.set()
        self.thread.join(60)
        assert not self.thread.is_alive()
        return time.monotonic() - started_s


@pytest.fixture
def watch(tmp_path: Path) -> Iterator[Callable[..., Watched]]:
    started: list[Watched] = []

    def start(**config: Any) -> Watched:
        started.append(Watched(tmp_path, **config))
        return started[-1]

    yield start
    for watched in started:
        watched.capture.expect_no_results()
        watched.end()


def settle(item: Captured) -> None:
    assert item.done is not None
    item.done(Verdict.OK)


def test_every_picture_is_read_once_and_moved(tmp_path: Path, watch: Callable[..., Watched]) -> None:
    watched = watch()
    shades = list(range(10, 210, 10))

    def write() -> None:
        for shade in shades:
            write_picture(tmp_path / f"{shade}.writing.png.part.png", shade).rename(tmp_path / f"{shade:03}.png")

    writer = threading.Thread(target=write)
    writer.start()
    items = []
    for _ in shades:
        items.append(watched.get())
        settle(items[-1])
    writer.join()
    assert all(isinstance(item, Frame) for item in items)
    assert sorted(level(item.image_bgr) or 0 for item in items if isinstance(item, Frame)) == shades
    assert [item.seq for item in items] == list(range(1, len(shades) + 1))
    wait_until(lambda: names(tmp_path) == ["inspected"])
    assert len(names(tmp_path / "inspected")) == len(shades)
    assert watched.slot.get(0.5) is None


def test_unreadable_picture_becomes_a_fault_of_a_part_with_a_receipt(tmp_path: Path) -> None:
    (tmp_path / "bad.png").write_bytes(b"\x89PNG nothing")
    slot: BoundedQueue[Captured] = BoundedQueue(4)
    stop = threading.Event()
    config = SourceConfig(source=str(tmp_path), trigger="folder")
    source = FolderDropSource(tmp_path, stale_after_s=5.0, grace_s=0.1)
    status = CameraStatus("cam0", lambda camera, state: None)
    capture = Capture(source=source, config=config, slot=slot, status=status, stop=stop, seq=itertools.count(1))
    thread = threading.Thread(target=capture.run, daemon=True)
    thread.start()
    fault = slot.get(60)
    assert isinstance(fault, Fault) and fault.is_part and "bad.png" in fault.reason
    settle(fault)
    stop.set()
    thread.join(60)
    assert names(tmp_path / "unreadable") == ["bad.png"]


def test_stop_ends_the_wait_for_pictures_at_once(watch: Callable[..., Watched]) -> None:
    watched = watch(stale_after_s=60.0)
    watched.wait_for_state("ok")
    assert watched.end() < 20


def test_pause_leaves_pictures_where_they_are(tmp_path: Path, watch: Callable[..., Watched]) -> None:
    watched = watch()
    watched.capture.pause(True)
    time.sleep(2 * LOOK_EVERY_S)  # a listing may have begun
    write_picture(tmp_path / "a.png", 30)
    assert watched.slot.get(1.0) is None
    watched.capture.pause(False)
    assert isinstance(watched.get(), Frame)


def test_folder_that_is_removed_is_reported_as_lost_and_back(tmp_path: Path, watch: Callable[..., Watched]) -> None:
    watched = watch()
    watched.wait_for_state("ok")
    away = tmp_path.with_name(tmp_path.name + "-away")
    tmp_path.rename(away)
    assert "cannot be listed" in watched.wait_for_state("degraded")["reason"]
    fault = watched.get()
    assert isinstance(fault, Fault) and not fault.is_part
    away.rename(tmp_path)
    watched.wait_for_state("ok")
    write_picture(tmp_path / "a.png", 30)
    assert isinstance(watched.get(), Frame)


def test_failed_move_is_a_fault_until_it_works_again(
    tmp_path: Path, watch: Callable[..., Watched], caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "inspected").write_text("in the way")
    watched = watch()
    for shade in (10, 20):
        write_picture(tmp_path / f"{shade}.png", shade)
        settle(watched.get())
    assert "cannot be moved" in watched.wait_for_state("degraded")["reason"]
    assert caplog.text.count("cannot be moved") == 1
    (tmp_path / "inspected").unlink()
    write_picture(tmp_path / "30.png", 30)
    settle(watched.get())
    watched.wait_for_state("ok")  # without a further picture
    assert names(tmp_path / "inspected") == ["10.png", "20.png", "30.png"]


def test_picture_that_cannot_be_moved_does_not_delay_others(tmp_path: Path, watch: Callable[..., Watched]) -> None:
    (tmp_path / "unreadable").write_text("in the way")
    (tmp_path / "bad.png").write_bytes(b"no picture")
    os.utime(tmp_path / "bad.png", (1, 1))
    watched = watch()
    settle(watched.get())
    assert "bad.png" in watched.wait_for_state("degraded")["reason"]
    for shade in (10, 20):
        write_picture(tmp_path / f"{shade}.png", shade)
        settle(watched.get())
    wait_until(lambda: names(tmp_path / "inspected") == ["10.png", "20.png"])
    assert watched.said[-1]["state"] == "degraded"


def test_receipts_are_settled_while_paused_and_while_the_next_picture_is_not_due(
    tmp_path: Path, watch: Callable[..., Watched]
) -> None:
    watched = watch(fps=0.001)
    write_picture(tmp_path / "a.png", 10)
    write_picture(tmp_path / "b.png", 20)
    first = watched.get()
    watched.capture.pause(True)
    settle(first)
    wait_until(lambda: len(names(tmp_path / "inspected")) == 1)
    assert watched.slot.get(0.5) is None


def test_receipts_are_settled_on_the_thread_of_the_source(
    tmp_path: Path, watch: Callable[..., Watched], monkeypatch: pytest.MonkeyPatch
) -> None:
    write_picture(tmp_path / "a.png", 10)  # it renames the file too
    watched = watch(stale_after_s=0.3)
    item = watched.get()
    goes_on = hang(monkeypatch, "rename")
    started_s = time.monotonic()
    settle(item)
    assert time.monotonic() - started_s < 20  # the folder hangs for 60 s
    assert "no answer for 0.3 s" in watched.wait_for_state("degraded")["reason"]
    goes_on.set()
    watched.wait_for_state("ok")
    assert names(tmp_path / "inspected") == ["a.png"]
    write_picture(tmp_path / "b.png", 20)
    fault, frame = watched.get(), watched.get()
    assert isinstance(fault, Fault) and not fault.is_part and isinstance(frame, Frame)


def test_receipts_that_come_after_the_stop_are_settled_before_the_capture_ends(
    tmp_path: Path, watch: Callable[..., Watched]
) -> None:
    watched = watch()
    for shade in (10, 20):
        write_picture(tmp_path / f"{shade}.png", shade)
    first, second = watched.get(), watched.get()
    watched.stop.set()
    time.sleep(0.5)
    settle(first)
    settle(second)
    assert watched.end() < 5.0
    assert names(tmp_path / "inspected") == ["10.png", "20.png"]


def test_low_fps_is_no_fault(tmp_path: Path, watch: Callable[..., Watched]) -> None:
    watched = watch(fps=1.0, stale_after_s=0.7)
    for shade in (10, 20, 30):
        write_picture(tmp_path / f"{shade}.png", shade)
    for _ in range(3):
        assert isinstance(watched.get(), Frame)
    assert [state["state"] for state in watched.said] == ["ok"]


def test_full_queue_is_no_fault_of_the_folder(tmp_path: Path, watch: Callable[..., Watched]) -> None:
    watched = watch(stale_after_s=0.7)
    for shade in range(10, 80, 10):
        write_picture(tmp_path / f"{shade}.png", shade)
    time.sleep(1.5)  # the queue is not read
    for _ in range(7):
        assert isinstance(watched.get(), Frame)
    assert [state["state"] for state in watched.said] == ["ok"]


def hang(monkeypatch: pytest.MonkeyPatch, call: str) -> threading.Event:
    """Makes a call of `os` wait until the event is set, as for a folder of another machine that does not answer."""
    goes_on, real = threading.Event(), getattr(os, call)

    def hanging(*args: Any, **settings: Any) -> Any:
        goes_on.wait(60)
        return real(*args, **settings)

    monkeypatch.setattr(os, call, hanging)
    return goes_on


def test_folder_that_hangs_is_lost_until_it_answers_and_loses_no_picture(
    tmp_path: Path, watch: Callable[..., Watched], monkeypatch: pytest.MonkeyPatch
) -> None:
    watched = watch(stale_after_s=0.3)
    watched.wait_for_state("ok")
    write_picture(tmp_path / "a.png", 30)
    goes_on = hang(monkeypatch, "scandir")
    assert watched.wait_for_state("degraded")["reason"] == f"folder {tmp_path}: no answer for 0.3 s"
    fault = watched.get()
    assert isinstance(fault, Fault) and fault.reason == f"camera lost: folder {tmp_path}: no answer for 0.3 s"
    threads = threading.active_count()
    time.sleep(1.0)
    assert threading.active_count() <= threads  # a hanging folder uses one thread, not one for each retry
    goes_on.set()
    watched.wait_for_state("ok")
    assert isinstance(watched.get(), Frame)


def test_picture_that_is_read_slowly_is_inspected_later(
    tmp_path: Path, watch: Callable[..., Watched], monkeypatch: pytest.MonkeyPatch
) -> None:
    goes_on = threading.Event()

    def slow(path: Path) -> np.ndarray:
        goes_on.wait(60)
        return read_encoded(path)

    monkeypatch.setattr(folder_drop, "read_encoded", slow)
    watched = watch(stale_after_s=0.3)
    write_picture(tmp_path / "a.png", 30)
    assert isinstance(watched.get(), Fault)
    goes_on.set()
    item = watched.get()
    assert isinstance(item, Frame) and level(item.image_bgr) == 30


def test_folder_that_hangs_does_not_delay_the_stop(
    tmp_path: Path, watch: Callable[..., Watched], monkeypatch: pytest.MonkeyPatch
) -> None:
    watched = watch(stale_after_s=0.3)
    watched.wait_for_state("ok")
    goes_on = hang(monkeypatch, "scandir")
    watched.wait_for_state("degraded")
    assert watched.end() < 20  # the folder hangs for 60 s
    goes_on.set()
