"""Numbers and dates one camera's frames and faults, puts them into its queue, and keeps the newest images."""

import threading
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import TypeAlias

import numpy as np

from zsad_agent.sources import Picture
from zsad_agent.system import FrameQueue
from zsad_core.types import Frame, Verdict

PUT_WAIT_S = 0.2
NEWEST_IMAGES = 4
NEWEST_BYTES = 64_000_000  # total size of the kept images; one image is always kept


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
    source_name: str | None = None  # file name of the picture, if it has one
    done: Callable[[Verdict], None] | None = None  # called once its result is safe


Captured: TypeAlias = Frame | Fault


class FrameOutput:
    """First in, first out. Used from the capture thread and from the threads that trigger and pause it."""

    def __init__(
        self,
        *,
        camera: str,
        slot: FrameQueue[Captured],
        stop: threading.Event,
        seq: Iterator[int],
        clock: Callable[[], float],
    ) -> None:
        """The arguments are those of `zsad_agent.capture.capture.Capture`."""
        self._camera = camera
        self._slot = slot
        self._stop = stop
        self._seq = seq
        self._clock = clock
        self._order = threading.Lock()  # keeps sequence numbers in the order of the queue
        self._newest_lock = threading.Lock()
        self._newest: deque[np.ndarray] = deque(maxlen=NEWEST_IMAGES)

    @property
    def waiting(self) -> int:
        """Frames and faults that were not taken yet."""
        return self._slot.waiting

    def put(
        self,
        item: Picture | str,
        *,
        is_part: bool = True,
        keep: bool = False,
        trigger_id: str | None = None,
        source_name: str | None = None,
        done: Callable[[Verdict], None] | None = None,
    ) -> None:
        """Puts a picture to be inspected, or the reason of a fault, which becomes the verdict `unknown`.

        `keep`: a newer item must not replace this one. The other arguments are as in `Fault`.
        """
        with self._order:
            seq, now_s = next(self._seq), self._clock()
            captured: Captured
            if isinstance(item, Picture):
                captured_s = min(item.captured_monotonic_s, now_s)
                captured = Frame(
                    image_bgr=item.image,
                    camera=self._camera,
                    seq=seq,
                    captured_at=datetime.now(UTC) - timedelta(seconds=now_s - captured_s),
                    captured_monotonic_s=captured_s,
                    trigger_id=trigger_id,
                    source_name=source_name,
                    done=done,
                )
            else:
                captured = Fault(
                    camera=self._camera,
                    seq=seq,
                    captured_at=datetime.now(UTC),
                    captured_monotonic_s=now_s,
                    reason=item,
                    is_part=is_part,
                    trigger_id=trigger_id,
                    source_name=source_name,
                    done=done,
                )
            while not self._slot.put(captured, keep=keep, timeout_s=PUT_WAIT_S):
                if self._stop.is_set():
                    return

    def remember(self, image: np.ndarray) -> None:
        """Keeps a good image for `newest`, whether it is inspected or not."""
        with self._newest_lock:
            self._newest.append(image)
            while len(self._newest) > 1 and sum(kept.nbytes for kept in self._newest) > NEWEST_BYTES:
                self._newest.popleft()

    def newest(self, count: int) -> list[np.ndarray]:
        """The latest good images, the newest last: at most `count` and at most `NEWEST_IMAGES`."""
        with self._newest_lock:
            return list(self._newest)[-count:] if count > 0 else []
