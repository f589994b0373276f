"""Triggers, pause, health and snapshots of a capture, with a camera whose every frame the test hands out."""

import contextlib
import itertools
import logging
import queue
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any, Self

import cv2
import numpy as np
import pytest

from zsad_agent.capture import CameraStatus, Capture, Captured, Fault
from zsad_agent.capture.output import NEWEST_BYTES
from zsad_agent.capture.triggers import MAX_REFUSED, MAX_WAITING
from zsad_agent.config import HealthConfig, SourceConfig
from zsad_agent.sources import Picture
from zsad_agent.system import BoundedQueue, FrameQueue, LatestQueue, QueueClosed
from zsad_core.errors import ConfigError, ImageError, SourceError
from zsad_core.types import Frame


class HandedSource:
    """Gives what the test hands it; `read` waits for that, as a camera does for its next frame."""

    description = "handed"

    def __init__(self, clock: Callable[[], float], *, lossless: bool) -> None:
        self._clock = clock
        self.lossless, self.endless = lossless, not lossless
        self.reads = 0  # begun
        self.openings = 0
        self._handed: queue.Queue[np.ndarray | Exception | None] = queue.Queue()

    def __enter__(self) -> Self:
        self.openings += 1
        return self

    def __exit__(self, *_: object) -> None: ...

    def read(self) -> Picture | None:
        self.reads += 1
        handed = self._handed.get()
        if isinstance(handed, Exception):
            raise handed
        return Picture(image=handed, captured_monotonic_s=self._clock()) if handed is not None else None

    def hand(self, item: np.ndarray | Exception | None) -> None:
        """Gives it to the read that waits, and returns when the next one waits, or the source is done with."""
        wait_until(lambda: self.reads > 0)
        reads = self.reads
        self._handed.put(item)
        if isinstance(item, np.ndarray | ImageError):
            wait_until(lambda: self.reads > reads)

    def release(self) -> None:
        self._handed.put(None)


def wait_until(holds: Callable[[], bool]) -> None:
    deadline_s = time.monotonic() + 30
    while not holds():
        assert time.monotonic() < deadline_s
        time.sleep(0.001)


class Clock:
    """Never the same twice, so that what came first is told; the test moves it on."""

    def __init__(self) -> None:
        self.ahead_s = 0.0

    def __call__(self) -> float:
        return time.monotonic() + self.ahead_s


class Rig:
    def __init__(self, *, lossless: bool = False, trigger: str = "mqtt", **config: Any) -> None:
        self.clock = Clock()
        self.source = HandedSource(self.clock, lossless=lossless)
        self.said: list[dict[str, Any]] = []
        self.slot: FrameQueue[Captured] = BoundedQueue(100) if lossless else LatestQueue()
        self.stop = threading.Event()
        self.capture = Capture(
            source=self.source,
            config=SourceConfig(trigger=trigger, reopen_max_s=0.01, **config),  # type: ignore[arg-type]
            slot=self.slot,
            status=CameraStatus("cam0", lambda camera, status: self.said.append(status)),
            stop=self.stop,
            seq=itertools.count(1),
            clock=self.clock,
        )
        self.thread = threading.Thread(target=self.capture.run, daemon=True)
        self.thread.start()

    def get(self) -> Captured:
        item = self.slot.get(30)
        assert item is not None
        return item

    def answers(self, count: int) -> list[tuple[str | None, str]]:
        """Trigger id, and `frame` or the fault's reason, of so many results; then nothing more waits."""
        items = [self.get() for _ in range(count)]
        assert self.slot.get(0) is None
        assert [item.seq for item in items] == sorted({item.seq for item in items})
        return [(item.trigger_id, item.reason if isinstance(item, Fault) else "frame") for item in items]

    def rest(self, timeout_s: float = 0.0) -> list[Captured]:
        """All that comes until nothing more does for `timeout_s`, or ever."""
        items = []
        with contextlib.suppress(QueueClosed):
            while (item := self.slot.get(timeout_s)) is not None:
                items.append(item)
        return items

    def end(self) -> None:
        self.stop.set()
        self.source.release()
        self.thread.join(30)
        assert not self.thread.is_alive()


@pytest.fixture
def rig() -> Iterator[Callable[..., Rig]]:
    started: list[Rig] = []

    def start(**settings: Any) -> Rig:
        started.append(Rig(**settings))
        return started[-1]

    yield start
    for one in started:
        one.end()


_shade = iter(range(10**9))


def picture(level: int = 90) -> np.ndarray:
    """No two alike, as a sensor's are."""
    image = np.full((48, 64, 3), level, np.uint8)
    image[20:30] += 20
    image[0, :4] = np.frombuffer(next(_shade).to_bytes(12, "little"), np.uint8).reshape(4, 3)
    return image


BLACK = np.zeros((48, 64, 3), np.uint8)


def test_nothing_is_inspected_without_a_trigger(rig: Callable[..., Rig]) -> None:
    line = rig()
    for _ in range(3):
        line.source.hand(picture())
    assert line.answers(0) == []
    assert line.said[-1]["state"] == "ok"


def test_trigger_gets_the_first_frame_whose_reading_began_after_it_and_no_other(rig: Callable[..., Rig]) -> None:
    line = rig()
    line.source.hand(picture(40))
    line.capture.trigger("a")  # while the read of the next frame waits: that may have been exposed before
    line.source.hand(picture(50))
    assert line.answers(0) == []
    line.source.hand(picture(60))
    line.source.hand(picture(70))
    frame = line.get()
    assert isinstance(frame, Frame) and frame.trigger_id == "a"
    assert int(frame.image_bgr[5, 5, 0]) == 60
    assert line.answers(0) == []


def test_trigger_without_an_id_is_answered(rig: Callable[..., Rig]) -> None:
    line = rig()
    line.source.hand(picture())
    line.capture.trigger(None)
    for _ in range(3):
        line.source.hand(picture())
    assert line.answers(1) == [(None, "frame")]


def test_waiting_triggers_are_all_answered_in_order(rig: Callable[..., Rig]) -> None:
    line = rig()
    line.source.hand(picture())
    for number in range(4):
        line.capture.trigger(str(number))
    for _ in range(3):
        line.source.hand(picture())
    for number in range(4, 8):
        line.capture.trigger(str(number))
    for _ in range(3):
        line.source.hand(picture())
    assert line.answers(8) == [(str(number), "frame") for number in range(8)]
    assert line.slot.dropped == 0


def test_triggers_above_the_limit_are_refused_at_once(rig: Callable[..., Rig]) -> None:
    line = rig()
    line.source.hand(picture())
    for number in range(MAX_WAITING + 2):
        line.capture.trigger(str(number))
    refused = [line.get(), line.get()]
    assert [(item.trigger_id, getattr(item, "reason", None)) for item in refused] == [
        (str(number), f"too many triggers waiting, {MAX_WAITING}") for number in (MAX_WAITING, MAX_WAITING + 1)
    ]
    for _ in range(2):
        line.source.hand(picture())
    line.capture.trigger("more")  # those that have a frame, which nobody took yet, count too
    assert [item for item, _ in line.answers(MAX_WAITING + 1)] == [str(n) for n in range(MAX_WAITING)] + ["more"]


def test_trigger_of_a_lost_camera_is_answered_at_once_and_one_that_waited_when_it_is_lost(
    rig: Callable[..., Rig],
) -> None:
    line = rig()
    line.source.hand(picture())
    line.capture.trigger("waited")
    line.source.hand(SourceError("handed: gone"))
    lost, waited = line.get(), line.get()
    assert isinstance(lost, Fault) and not lost.is_part and lost.trigger_id is None
    assert isinstance(waited, Fault)
    assert (waited.trigger_id, waited.reason, waited.is_part) == ("waited", "camera lost: handed: gone", True)
    line.capture.trigger("late")
    assert line.answers(1) == [("late", "camera lost: handed: gone")]
    wait_until(lambda: line.source.openings > 1)
    line.source.hand(picture())
    line.capture.trigger("again")
    line.source.hand(picture())
    line.source.hand(picture())
    assert line.answers(1) == [("again", "frame")]


def test_trigger_that_gets_no_picture_in_time_is_answered_when_the_next_one_comes(rig: Callable[..., Rig]) -> None:
    line = rig(stale_after_s=5.0)
    line.source.hand(picture())
    line.capture.trigger("late")
    line.clock.ahead_s = 4.0
    line.source.hand(picture())  # its reading began before the trigger
    line.capture.trigger("in time")
    line.clock.ahead_s = 5.5
    line.source.hand(picture())
    line.source.hand(picture())
    assert line.answers(2) == [("late", "no picture within 5 s of the trigger"), ("in time", "frame")]


def test_every_trigger_of_a_black_camera_is_answered(rig: Callable[..., Rig]) -> None:
    line = rig()
    line.source.hand(picture())
    for number in range(5):
        line.capture.trigger(str(number))
        line.source.hand(BLACK)
        line.source.hand(BLACK)
    answers = line.answers(5)
    assert [trigger_id for trigger_id, _ in answers] == list("01234")
    assert all(reason.startswith("black picture: ") for _, reason in answers)


def test_trigger_of_a_black_or_damaged_picture_is_answered_by_the_reason(rig: Callable[..., Rig]) -> None:
    line = rig()
    line.source.hand(picture())
    line.capture.trigger("black")
    line.source.hand(picture())
    line.source.hand(BLACK)
    line.capture.trigger("damaged")
    line.source.hand(picture())
    line.source.hand(ImageError("handed: half a picture"))
    (first, reason), damaged = line.answers(2)
    assert first == "black" and reason.startswith("black picture: ")
    assert damaged == ("damaged", "handed: half a picture")


@pytest.mark.parametrize("lossless", [True, False])
def test_trigger_while_paused_is_refused(rig: Callable[..., Rig], lossless: bool) -> None:
    line = rig(lossless=lossless)
    line.capture.pause(True)
    line.capture.trigger("a")
    item = line.get()
    assert isinstance(item, Fault) and (item.trigger_id, item.reason) == ("a", "paused")


def test_pause_answers_the_triggers_that_wait(rig: Callable[..., Rig]) -> None:
    line = rig()
    line.source.hand(picture())
    line.capture.trigger("a")
    line.capture.pause(True)
    line.source.hand(picture())
    line.source.hand(picture())
    assert line.answers(1) == [("a", "paused")]


def test_each_trigger_takes_the_next_picture_of_a_folder_and_the_end_answers_the_rest(rig: Callable[..., Rig]) -> None:
    line = rig(lossless=True)
    assert line.source.reads == 0
    for name in "abcd":
        line.capture.trigger(name)
    line.source.hand(picture())
    line.source.hand(ImageError("b.jpg: damaged"))
    line.source.hand(None)
    line.thread.join(30)
    items = [line.get() for _ in range(4)]
    assert [(item.trigger_id, getattr(item, "reason", "frame")) for item in items] == [
        ("a", "frame"),
        ("b", "b.jpg: damaged"),
        ("c", "the source has ended"),
        ("d", "the source has ended"),
    ]


def test_trigger_after_the_end_of_a_file_is_logged(rig: Callable[..., Rig], caplog: pytest.LogCaptureFixture) -> None:
    line = rig(lossless=True)
    line.capture.trigger("a")
    line.source.hand(None)
    line.thread.join(30)
    line.capture.trigger("b")
    assert [item.trigger_id for item in line.rest()] == ["a"]
    assert "a trigger has no result: the source has ended" in caplog.text


@pytest.mark.parametrize("trigger_id", ["", "x" * 129])
def test_trigger_with_an_invalid_id_raises_value_error(rig: Callable[..., Rig], trigger_id: str) -> None:
    with pytest.raises(ValueError, match="1 to 128 characters"):
        rig().capture.trigger(trigger_id)


def test_trigger_of_a_free_running_camera_raises_value_error(rig: Callable[..., Rig]) -> None:
    with pytest.raises(ValueError, match=r"not triggered by messages \(trigger: free\)"):
        rig(trigger="free").capture.trigger("a")


def test_every_one_of_many_triggers_from_many_threads_is_answered_once(rig: Callable[..., Rig]) -> None:
    line = rig()
    line.source.hand(picture())
    answered: list[str | None] = []
    asked = [f"{thread}-{number}" for thread in range(4) for number in range(50)]
    askers = [
        threading.Thread(target=lambda part: [line.capture.trigger(name) for name in part], args=(asked[n::4],))
        for n in range(4)
    ]
    for asker in askers:
        asker.start()
    while len(answered) < len(asked):
        line.source.hand(picture())
        while (item := line.slot.get(0)) is not None:
            answered.append(item.trigger_id)
    for asker in askers:
        asker.join()
    assert sorted(map(str, answered)) == sorted(asked)


def test_paused_camera_stays_open_is_checked_and_gives_no_results(rig: Callable[..., Rig]) -> None:
    line = rig(trigger="free")
    line.source.hand(picture())
    assert isinstance(line.get(), Frame)
    line.capture.pause(True)
    assert line.capture.paused
    line.source.hand(picture())
    line.source.hand(BLACK)
    assert line.answers(0) == []
    assert [status["state"] for status in line.said] == ["ok", "paused"]
    line.capture.pause(False)
    assert not line.capture.paused
    line.source.hand(picture())
    assert isinstance(line.get(), Frame)
    assert line.source.openings == 1
    assert line.said[-1]["state"] == "ok"


def test_black_camera_gives_one_unknown_and_one_log_line_for_start_and_end(
    rig: Callable[..., Rig], caplog: pytest.LogCaptureFixture
) -> None:
    line = rig(trigger="free")
    items = []
    with caplog.at_level(logging.INFO):
        for image in [picture(), *[BLACK] * 6, *[picture() for _ in range(4)]]:
            line.source.hand(image)
            while (item := line.slot.get(0)) is not None:
                items.append(item)
    kinds = ["frame" if isinstance(item, Frame) else item.reason.split(":")[0] for item in items]
    assert kinds == ["frame", "black picture", "frame", "frame"]
    assert all(item.is_part for item in items if isinstance(item, Fault))
    assert [status["state"] for status in line.said] == ["ok", "degraded", "ok"]
    assert line.said[1]["reason"].startswith("black picture: ")
    assert caplog.text.count("handed: black picture") == 1
    assert caplog.text.count("back: the pictures of handed") == 1


def test_lost_camera_and_black_pictures_are_separate_faults(rig: Callable[..., Rig]) -> None:
    line = rig(trigger="free")
    for _ in range(3):
        line.source.hand(BLACK)
    line.source.hand(SourceError("handed: gone"))
    wait_until(lambda: "gone" in str(line.said[-1]["reason"]))
    assert line.said[-1]["reason"].startswith("handed: gone; black picture: ")


def test_frozen_camera_gives_an_unknown(rig: Callable[..., Rig]) -> None:
    line = rig(trigger="free", health=HealthConfig(frozen_after_s=10))
    frozen = picture()
    for ahead_s in (0.0, 5.0, 9.0):
        line.clock.ahead_s = ahead_s
        line.source.hand(frozen.copy())
        assert isinstance(line.get(), Frame)
    line.clock.ahead_s = 10.5
    line.source.hand(frozen.copy())
    item = line.get()
    assert isinstance(item, Fault) and item.reason == "frozen picture: the same, bit for bit, for 10 s"


def test_every_black_picture_of_a_folder_is_unknown(rig: Callable[..., Rig]) -> None:
    line = rig(lossless=True, trigger="free")
    for _ in range(5):
        line.source.hand(BLACK)
        item = line.get()
        assert isinstance(item, Fault) and item.reason.startswith("black picture: ")


def test_newest_images_are_the_last_good_ones_inspected_or_not(rig: Callable[..., Rig]) -> None:
    line = rig()
    assert line.capture.newest_images(4) == []
    for level in (30, 40, 50, 60, 70, 0):
        line.source.hand(picture(level) if level else BLACK)
    newest = line.capture.newest_images(9)
    assert [int(image[5, 5, 0]) for image in newest] == [40, 50, 60, 70]
    assert [int(image[5, 5, 0]) for image in line.capture.newest_images(1)] == [70]
    assert line.capture.newest_images(0) == []


def test_newest_images_of_a_huge_camera_are_fewer(rig: Callable[..., Rig]) -> None:
    line = rig()
    side = int((NEWEST_BYTES / 3 / 2.5) ** 0.5)
    for level in (30, 40, 50):
        line.source.hand(cv2.resize(picture(level), (side, side)))
    assert len(line.capture.newest_images(4)) == 2


def test_reference_that_is_missing_is_refused_at_the_start(tmp_path: Any) -> None:
    with pytest.raises(ConfigError, match=r"nix\.npz"):
        Rig(health=HealthConfig(reference=tmp_path / "nix.npz"))


@pytest.mark.parametrize("lossless", [False, True])
def test_flood_of_triggers_takes_limited_memory(
    rig: Callable[..., Rig], lossless: bool, caplog: pytest.LogCaptureFixture
) -> None:
    line = rig(lossless=lossless)
    for number in range(MAX_REFUSED + 2 * MAX_WAITING + 500):
        line.capture.trigger(str(number))
    line.source.hand(None)  # the end of a file, and of a live source its loss: whoever waits is answered
    answered = line.rest(timeout_s=1.0)
    assert MAX_REFUSED <= len(answered) <= MAX_REFUSED + MAX_WAITING + 1
    assert caplog.text.count("triggers are dropped") == 1
