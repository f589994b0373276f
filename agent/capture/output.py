"""Numbers and dates one camera's frames and faults, puts them into its queue, and keeps the newest frames."""

import itertools
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import TypeAlias

from zsad_agent.sources import Picture
from zsad_agent.system import FrameQueue
from zsad_core.types import Frame

PUT_WAIT_S = 0.2
NEWEST_FRAMES = 4
NEWEST_BYTES = 64_000_000  # total size of the kept pictures; one picture is always kept


@dataclass(frozen=True, kw_only=True, slots=True)
class Fault:
    """Takes the place of a frame that cannot be inspected."""

    camera: str
    seq: int
    captured_at: datetime  # UTC
    captured_monotonic_s: float
    reason: str
    is_part: bool  # True: a part was there but its picture is bad; False: the camera was lost
    trigger_id: str | None = None  # id of the trigger that it answers, if that has one
    done: Callable[[], None] | None = None  # called once its result is safe


Captured: TypeAlias = Frame | Fault


class FrameOutput:
    """First in, first out. Used from the capture thread and from the threads that trigger and pause it."""

    def __init__(
        self,
        *,
        camera: str,
        slot: FrameQueue[Captured],
        stop: threading.Event,
        seq: Iterator[int] | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """The arguments are those of `zsad_agent.capture.capture.Capture`."""
        self._camera = camera
        self._slot = slot
        self._stop = stop
        self._seq = seq if seq is not None else itertools.count(1)
        self._clock = clock
        self._order = threading.Lock()  # keeps sequence numbers in the order of the queue
        self._newest_lock = threading.Lock()
        self._newest: deque[Frame] = deque(maxlen=NEWEST_FRAMES)

    @property
    def waiting(self) -> int:
        """Frames and faults that were not taken yet."""
        return self._slot.waiting

    def frame(
        self,
        picture: Picture,
        *,
        keep: bool = False,
        trigger_id: str | None = None,
        done: Callable[[], None] | None = None,
    ) -> None:
        """Puts a picture to be inspected. With `keep`, a newer one must not replace it."""
        with self._order:
            now_s = self._clock()
            captured_s = min(picture.captured_monotonic_s, now_s)
            frame = Frame(
                image_bgr=picture.image,
                camera=self._camera,
                seq=next(self._seq),
                captured_at=datetime.now(UTC) - timedelta(seconds=now_s - captured_s),
                captured_monotonic_s=captured_s,
                trigger_id=trigger_id,
                done=done,
            )
            self._put(frame, keep=keep)

    def fault(
        self,
        reason: str,
        *,
        is_part: bool,
        keep: bool = False,
        trigger_id: str | None = None,
        done: Callable[[], None] | None = None,
    ) -> None:
        """Puts a fault, which becomes the verdict `unknown` with this reason."""
        with self._order:
            fault = Fault(
                camera=self._camera,
                seq=next(self._seq),
                captured_at=datetime.now(UTC),
                captured_monotonic_s=self._clock(),
                reason=reason,
                is_part=is_part,
                trigger_id=trigger_id,
                done=done,
            )
            self._put(fault, keep=keep)

    def remember(self, picture: Picture) -> None:
        """Keeps a good picture for `newest`, whether it is inspected or not."""
        frame = Frame(
            image_bgr=picture.image,
            camera=self._camera,
            seq=0,
            captured_at=datetime.now(UTC),
            captured_monotonic_s=self._clock(),
        )
        with self._newest_lock:
            self._newest.append(frame)
            while len(self._newest) > 1 and sum(kept.image_bgr.nbytes for kept in self._newest) > NEWEST_BYTES:
                self._newest.popleft()

    def newest(self, count: int) -> list[Frame]:
        """The latest good frames, the newest last: at most `count` and at most `NEWEST_FRAMES`. Their `seq` is 0."""
        with self._newest_lock:
            return list(self._newest)[-count:] if count > 0 else []

    def _put(self, item: Captured, *, keep: bool) -> None:
        while not self._slot.put(item, keep=keep, timeout_s=PUT_WAIT_S):
            if self._stop.is_set():
                return
