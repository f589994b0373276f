import itertools
import logging
import threading
import time
from collections.abc import Callable, Sequence
from typing import Any, Self

import numpy as np
import pytest
from mqtt_listener import wait_until
from plain_pictures import UNCHECKED

from zsad_agent.capture import UNKNOWN_EVERY_S, CameraStatus, Capture, Captured, Fault
from zsad_agent.config import HealthConfig, SourceConfig
from zsad_agent.sources import Picture
from zsad_agent.system import BoundedQueue, FrameQueue, LatestQueue, QueueClosed
from zsad_core.errors import ImageError, SourceError
from zsad_core.types import Frame

PICTURE = np.full((9, 12, 3), 90, np.uint8)
PICTURE[3:6] = 120
Step = np.ndarray | Exception | None | Callable[[], np.ndarray]


class FakeSource:
    """Plays one script per opening; an opening without a script fails."""

    description = "fake"

    def __init__(self, *openings: Sequence[Step], lossless: bool) -> None:
        self.lossless, self.endless = lossless, not lossless
        self.closed = 0
        self._openings = list(openings)
        self._steps: list[Step] = []

    def __enter__(self) -> Self:
        if not self._openings:
            raise SourceError("fake: not there")
        self._steps = list(self._openings.pop(0))
        return self

    def __exit__(self, *_: object) -> None:
        self.closed += 1

    def read(self) -> Picture | None:
        step = self._steps.pop(0) if self._steps else None
        if isinstance(step, Exception):
            raise step
        image = step() if callable(step) else step
        return Picture(image=image) if image is not None else None


class Bench:
    """A capture in its own thread, with its slot and statuses."""

    def __init__(
        self,
        source: FakeSource,
        clock: Callable[[], float] = time.monotonic,
        slot: FrameQueue[Captured] | None = None,
        **config: Any,
    ) -> None:
        self.said: list[dict[str, Any]] = []
        self.slot = slot or (BoundedQueue(100) if source.lossless else LatestQueue())
        self.stop = threading.Event()
        self.capture = Capture(
            source=source,
            config=SourceConfig(reopen_max_s=0.02, **config),
            slot=self.slot,
            status=CameraStatus("cam0", lambda camera, status: self.said.append(status)),
            stop=self.stop,
            seq=itertools.count(1),
            clock=clock,
        )
        self.thread = threading.Thread(target=self.capture.run, daemon=True)

    def run(self) -> list[Captured]:
        """All results of a finite source."""
        self.capture.run()
        return self.rest()

    def rest(self) -> list[Captured]:
        items = []
        while True:
            try:
                item = self.slot.get(0)
            except QueueClosed:
                return items
            assert item is not None
            items.append(item)

    def get(self) -> Captured:
        item = self.slot.get(60)
        assert item is not None
        return item

    def end(self) -> None:
        self.stop.set()
        self.thread.join(60)
        assert not self.thread.is_alive()

    @property
    def states(self) -> list[str]:
        return [status["state"] for status in self.said]


def test_finite_source_gives_every_picture_numbered_in_order() -> None:
    source = FakeSource([PICTURE] * 5, lossless=True)
    bench = Bench(source)
    frames = bench.run()
    assert [frame.seq for frame in frames] == [1, 2, 3, 4, 5]
    assert all(isinstance(frame, Frame) and frame.frame_wh == (12, 9) for frame in frames)
    assert all(frame.captured_at.tzinfo is not None for frame in frames)
    assert source.closed == 1
    assert bench.capture.failure is None
    assert bench.states == ["ok"]


def test_bad_picture_gives_a_fault_in_order_and_the_others_are_read() -> None:
    _, bad, last = Bench(FakeSource([PICTURE, ImageError("b.jpg: damaged"), PICTURE], lossless=True)).run()
    assert isinstance(bad, Fault)
    assert (bad.seq, bad.reason, bad.is_part) == (2, "b.jpg: damaged", True)
    assert isinstance(last, Frame)


def test_finite_source_that_fails_gives_a_fault_and_a_failure() -> None:
    bench = Bench(FakeSource([PICTURE, SourceError("v.avi: cut short")], lossless=True))
    _, fault = bench.run()
    assert isinstance(fault, Fault) and fault.reason == "v.avi: cut short"
    assert bench.capture.failure == "v.avi: cut short"
    assert bench.states == ["ok", "degraded"]


def test_finite_source_that_does_not_open_fails_without_a_result() -> None:
    bench = Bench(FakeSource(lossless=True))
    assert bench.run() == []
    assert bench.capture.failure == "fake: not there"


def test_loop_starts_again_until_stopped() -> None:
    bench = Bench(FakeSource(*[[PICTURE, PICTURE]] * 1000, lossless=True), loop=True)
    bench.thread.start()
    assert [bench.get().seq for _ in range(7)] == list(range(1, 8))
    bench.end()


def test_loop_that_is_stopped_before_its_first_picture_is_no_failure() -> None:
    class Stopped(FakeSource):
        def __enter__(self) -> Self:
            bench.stop.set()
            return super().__enter__()

    bench = Bench(Stopped([PICTURE], lossless=True), loop=True)
    bench.capture.run()
    assert bench.capture.failure is None


def test_loop_without_pictures_ends_with_an_error() -> None:
    bench = Bench(FakeSource([], [], lossless=True), loop=True)
    bench.run()
    assert bench.capture.failure is not None and "nothing to read" in bench.capture.failure


def test_stop_ends_a_capture_that_waits_for_a_full_queue() -> None:
    bench = Bench(FakeSource([PICTURE] * 1000, lossless=True))
    bench.thread.start()
    assert bench.get().seq == 1
    bench.end()


def test_fps_sets_the_pace_of_a_finite_source() -> None:
    bench = Bench(FakeSource([PICTURE] * 6, lossless=True), fps=50.0)
    frames = bench.run()
    spent_s = frames[-1].captured_monotonic_s - frames[0].captured_monotonic_s
    assert 5 / 50 - 0.01 < spent_s < 5.0  # not less at any speed of the machine


def test_fps_limits_the_frames_of_a_live_source() -> None:
    times = iter(np.arange(0, 100, 0.1).tolist())
    now = [0.0]

    def frame() -> np.ndarray:
        now[0] = next(times)
        return PICTURE

    def end() -> np.ndarray:
        bench.stop.set()
        return PICTURE

    ten_a_second_for_ten_seconds = FakeSource([frame] * 100 + [end], lossless=False)
    bench = Bench(ten_a_second_for_ten_seconds, clock=lambda: now[0], slot=BoundedQueue(1000), fps=2.0)
    bench.capture.run()
    assert len(bench.rest()) == 20


def test_lost_camera_is_logged_once_and_its_return_once(caplog: pytest.LogCaptureFixture) -> None:
    opened_again, gate = threading.Event(), threading.Event()

    def wait() -> np.ndarray:
        opened_again.set()
        gate.wait(60)
        return PICTURE

    source = FakeSource(
        [PICTURE, SourceError("fake: gone")], [SourceError("fake: still gone")], [wait, wait, PICTURE], lossless=False
    )
    bench = Bench(source)
    with caplog.at_level(logging.INFO):
        bench.thread.start()
        assert opened_again.wait(60)  # after the attempt that fails again
        gate.set()
        items = [bench.get()]
        while not (isinstance(items[-1], Frame) and any(isinstance(item, Fault) for item in items)):
            items.append(bench.get())
        bench.end()
    faults = [item for item in items if isinstance(item, Fault)]
    assert [fault.reason for fault in faults] == ["camera lost: fake: gone"]
    assert not faults[0].is_part
    assert [item.seq for item in items] == sorted(item.seq for item in items)
    assert bench.states[:3] == ["ok", "degraded", "ok"]
    assert [record.message for record in caplog.records if "back" in record.message] == ["back: fake"]
    assert caplog.text.count("lost: fake: gone") == 1
    assert "still gone" not in caplog.text


def test_missing_camera_is_tried_again_until_it_appears() -> None:
    source = FakeSource(*[[SourceError("fake: not yet")]] * 5, [PICTURE] * 10_000, lossless=False)
    bench = Bench(source)
    bench.thread.start()
    first = bench.get()
    assert isinstance(first, Fault)
    assert isinstance(bench.get(), Frame)
    bench.end()


def test_live_picture_of_another_size_is_not_inspected_where_a_region_is_set_in_pixels() -> None:
    steps = [PICTURE, np.tile(PICTURE, (2, 2, 1)), PICTURE]
    bench = Bench(FakeSource(steps, lossless=False), slot=BoundedQueue(100), region_xywh=(0, 0, 8, 8))
    bench.thread.start()
    items = [bench.get() for _ in range(3)]
    assert [type(item) for item in items] == [Frame, Fault, Frame]
    assert isinstance(items[1], Fault) and "the picture is 24x18, region_xywh is in pixels of 12x9" in items[1].reason
    bench.end()


def test_one_damaged_live_picture_is_unknown_and_not_a_camera_fault() -> None:
    bench = Bench(FakeSource([PICTURE, ImageError("cut"), *[PICTURE] * 30], lossless=False), slot=BoundedQueue(100))
    bench.thread.start()
    items = [bench.get() for _ in range(32)]
    assert [type(item) for item in items[:3]] == [Frame, Fault, Frame]
    assert isinstance(items[1], Fault) and items[1].reason == "cut" and items[1].is_part
    assert not any("damaged" in (status["reason"] or "") for status in bench.said)
    bench.end()


def test_many_damaged_pictures_are_reported_until_the_latest_are_all_valid(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    steps = [*[PICTURE, ImageError("cut")] * 5, *[PICTURE] * 40]
    bench = Bench(FakeSource(steps, lossless=False), slot=BoundedQueue(100))
    bench.thread.start()
    items = [bench.get() for _ in range(50)]
    assert sum(isinstance(item, Fault) for item in items) == 5
    assert bench.states[:3] == ["ok", "degraded", "ok"]
    assert bench.said[1]["reason"] == "3 or more of 25 pictures are damaged: cut"
    told = [record.getMessage() for record in caplog.records]
    assert [text for text in told if "damaged" in text or "whole" in text] == [
        "3 or more of 25 pictures are damaged: cut",
        "back: the pictures of fake are no longer damaged",
    ]
    bench.end()


def test_consecutive_damaged_pictures_give_one_unknown_per_interval() -> None:
    now = [0.0]

    def cut() -> np.ndarray:
        now[0] += 1.0
        raise ImageError("cut")

    bench = Bench(
        FakeSource([PICTURE, *[cut] * 130, PICTURE, cut], lossless=False), clock=lambda: now[0], slot=BoundedQueue(200)
    )
    bench.thread.start()
    items = [bench.get() for _ in range(6)]
    bench.end()
    assert UNKNOWN_EVERY_S == 60.0
    assert [type(item) for item in items] == [Frame, Fault, Fault, Fault, Frame, Fault]
    assert [item.captured_monotonic_s for item in items] == [0.0, 1.0, 61.0, 121.0, 130.0, 131.0]
    assert not [item for item in bench.rest() if isinstance(item, Fault) and item.is_part]


def test_every_damaged_picture_of_a_hardware_trigger_is_unknown() -> None:
    """Each one is a part that has to be rejected."""

    def cut() -> np.ndarray:
        raise ImageError("cut")

    source = FakeSource([PICTURE, *[cut] * 5], lossless=False)
    bench = Bench(source, slot=BoundedQueue(200), aravis="a", aravis_trigger="hardware Line1")
    bench.thread.start()
    items = [bench.get() for _ in range(6)]
    bench.end()
    assert [type(item) for item in items] == [Frame, *[Fault] * 5]


@pytest.mark.parametrize("kind", ["black", "overexposed", "frozen", "size"])
def test_live_pictures_that_cannot_be_inspected_do_not_fill_the_spool(kind: str) -> None:
    now = [0.0]
    shade = itertools.count()

    def step() -> np.ndarray:
        now[0] += 1 / 30
        if kind == "size":
            image = np.full((18, 24, 3), 50 + next(shade) % 100, np.uint8)
            image[6:12] += 30
            return image
        return PICTURE if kind == "frozen" else np.full((9, 12, 3), {"black": 0, "overexposed": 255}[kind], np.uint8)

    health = HealthConfig(frozen_after_s=0.05)
    bench = Bench(
        FakeSource([PICTURE, *[step] * (90 * 30)], lossless=False),
        clock=lambda: now[0],
        slot=BoundedQueue(10_000),
        health=health,
        region_xywh=(0, 0, 8, 8),
    )
    bench.thread.start()
    wait_until(lambda: now[0] >= 89.9)
    bench.end()
    faults = [item for item in bench.rest() if isinstance(item, Fault) and item.is_part]
    assert len(faults) == 2  # 90 s: one at once, one after a minute
    assert bench.said[1]["state"] == "degraded"


@pytest.mark.parametrize(
    ("grey", "reason"), [(0, "black picture"), (255, "overexposed picture"), (90, "picture without structure")]
)
def test_file_picture_without_structure_is_unknown_and_not_a_camera_fault(grey: int, reason: str) -> None:
    blank = np.full((9, 12, 3), grey, np.uint8)
    bench = Bench(FakeSource([PICTURE, blank, blank, ImageError("cut"), PICTURE], lossless=True))
    items = bench.run()
    assert [type(item) for item in items] == [Frame, Fault, Fault, Fault, Frame]
    assert [isinstance(item, Fault) and item.is_part and item.reason.startswith(reason) for item in items[1:3]] == [
        True,
        True,
    ]
    assert bench.states == ["ok"]
    assert len(bench.capture.newest_images(4)) == 2


def test_limits_of_zero_accept_every_picture_of_a_file() -> None:
    blank = [np.full((9, 12, 3), grey, np.uint8) for grey in (0, 90, 255)]
    items = Bench(FakeSource(blank, lossless=True), health=UNCHECKED).run()
    assert [type(item) for item in items] == [Frame] * 3
