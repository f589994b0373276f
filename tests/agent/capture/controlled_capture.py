"""A capture whose camera gives the frames that the test gives it."""

import contextlib
import itertools
import queue
import threading
import time
from collections.abc import Callable
from typing import Any, Self

import numpy as np
from mqtt_listener import wait_until

from zsad_agent.capture import CameraStatus, Capture, Captured, Fault
from zsad_agent.config import SourceConfig
from zsad_agent.sources import Picture
from zsad_agent.system import BoundedQueue, FrameQueue, LatestQueue, QueueClosed
from zsad_core.errors import ImageError


class ControlledSource:
    """A source that gives what the test passes to `give`; `read` waits for that, like a camera for its next frame."""

    description = "fake"

    def __init__(self, clock: Callable[[], float], *, lossless: bool) -> None:
        self._clock = clock
        self.lossless, self.endless = lossless, not lossless
        self.reads = 0  # number of calls of `read`
        self.openings = 0
        self._items: queue.Queue[np.ndarray | Picture | Exception | None] = queue.Queue()

    def __enter__(self) -> Self:
        self.openings += 1
        return self

    def __exit__(self, *_: object) -> None: ...

    def read(self) -> Picture | None:
        self.reads += 1
        item = self._items.get()
        if isinstance(item, Exception):
            raise item
        return Picture(image=item, captured_monotonic_s=self._clock()) if isinstance(item, np.ndarray) else item

    def give(self, item: np.ndarray | Picture | Exception | None) -> None:
        """Passes `item` to the waiting `read`; after an image, returns when the next `read` waits."""
        wait_until(lambda: self.reads > 0)
        reads = self.reads
        self._items.put(item)
        if isinstance(item, np.ndarray | Picture | ImageError):
            wait_until(lambda: self.reads > reads)

    def release(self) -> None:
        self._items.put(None)


class Clock:
    """A clock that goes on by a microsecond for each call; the test sets `ahead_s`."""

    def __init__(self) -> None:
        self._begun_s, self._calls = time.monotonic(), itertools.count()
        self.ahead_s = 0.0

    def __call__(self) -> float:
        return self._begun_s + next(self._calls) * 1e-6 + self.ahead_s


class Rig:
    """A capture in its own thread, with its source, clock, slot and statuses."""

    def __init__(self, *, lossless: bool = False, trigger: str = "mqtt", **config: Any) -> None:
        self.clock = Clock()
        self.source = ControlledSource(self.clock, lossless=lossless)
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
        item = self.slot.get(60)
        assert item is not None
        return item

    def answers(self, count: int) -> list[tuple[str | None, str]]:
        """(trigger id, `frame` or the fault's reason) of `count` results; fails if there are more."""
        items = [self.get() for _ in range(count)]
        assert self.slot.get(0) is None
        assert [item.seq for item in items] == sorted({item.seq for item in items})
        return [(item.trigger_id, item.reason if isinstance(item, Fault) else "frame") for item in items]

    def rest(self, timeout_s: float = 0.0) -> list[Captured]:
        """All results until none arrives for `timeout_s` or the slot is closed."""
        items = []
        with contextlib.suppress(QueueClosed):
            while (item := self.slot.get(timeout_s)) is not None:
                items.append(item)
        return items

    def end(self) -> None:
        self.stop.set()
        self.source.release()
        self.thread.join(60)
        assert not self.thread.is_alive()


_shade = iter(range(10**9))


def picture(level: int = 90) -> np.ndarray:
    """An image that differs from all others, like those of a sensor."""
    image = np.full((48, 64, 3), level, np.uint8)
    image[20:30] += 20
    image[0, :4] = np.frombuffer(next(_shade).to_bytes(12, "little"), np.uint8).reshape(4, 3)
    return image


BLACK = np.zeros((48, 64, 3), np.uint8)
