"""Where one camera's frames and faults go out: numbered, dated, into its slot; the newest frames are kept at hand."""

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
NEWEST_BYTES = 64_000_000  # of their pictures together; one is kept however large it is


@dataclass(frozen=True, kw_only=True, slots=True)
class Fault:
    """Stands where a frame would have stood."""

    camera: str
    seq: int
    captured_at: datetime  # UTC
    captured_monotonic_s: float
    reason: str
    is_part: bool  # True: a part was there and its picture is bad; False: the camera was lost
    trigger_id: str | None = None  # of the trigger that it answers, where that has one
    done: Callable[[], None] | None = None  # to be called once its result is safe


Captured: TypeAlias = Frame | Fault


class FrameOutput:
    """Used from the capture thread and from those that trigger and pause it; what goes in comes out in that order."""

    def __init__(
        self,
        *,
        camera: str,
        slot: FrameQueue[Captured],
        stop: threading.Event,
        seq: Iterator[int] | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """See `zsad_agent.capture.capture.Capture` for the arguments."""
        self._camera = camera
        self._slot = slot
        self._stop = stop
        self._seq = seq if seq is not None else itertools.count(1)
        self._clock = clock
        self._order = threading.Lock()  # the order of sequence numbers is that of the slot
        self._newest_lock = threading.Lock()
        self._newest: deque[Frame] = deque(maxlen=NEWEST_FRAMES)

    @property
    def waiting(self) -> int:
        """Frames and faults that nobody took yet."""
        return self._slot.waiting

    def frame(
        self,
        picture: Picture,
        *,
        keep: bool = False,
        trigger_id: str | None = None,
        done: Callable[[], None] | None = None,
    ) -> None:
        """Puts a picture to be inspected. With `keep` no newer one may replace it."""
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
        """Puts what becomes the verdict `unknown` with this reason."""
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
        """Keeps a good picture for `newest`, inspected or not."""
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
        """The latest good frames, at most `count` and at most `NEWEST_FRAMES`, the newest last. Their `seq` is 0."""
        with self._newest_lock:
            return list(self._newest)[-count:] if count > 0 else []

    def _put(self, item: Captured, *, keep: bool) -> None:
        while not self._slot.put(item, keep=keep, timeout_s=PUT_WAIT_S):
            if self._stop.is_set():
                return
