"""Takes pictures from one source into a slot, and keeps a live source going: lost, reopened, back."""

import itertools
import logging
import random
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TypeAlias

import numpy as np

from zsad_agent.camera_config import SourceConfig
from zsad_agent.slot import Slot
from zsad_agent.sources import Source
from zsad_agent.status import CAMERA, CameraStatus
from zsad_core.errors import ImageError, SourceError
from zsad_core.types import Frame

logger = logging.getLogger(__name__)

FIRST_BACKOFF_S = 0.5
PUT_WAIT_S = 0.2


@dataclass(frozen=True, kw_only=True, slots=True)
class Fault:
    """Stands where a frame would have stood."""

    camera: str
    seq: int
    captured_at: datetime  # UTC
    captured_monotonic_s: float
    reason: str
    is_part: bool  # True: a part was there and its picture is bad; False: the camera was lost


Captured: TypeAlias = Frame | Fault


class Capture:
    """The body of the capture thread, and the watch over it."""

    def __init__(
        self,
        *,
        source: Source,
        config: SourceConfig,
        slot: Slot[Captured],
        status: CameraStatus,
        stop: threading.Event,
        seq: Iterator[int] | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Starts nothing.

        Args:
            source: not yet opened.
            config: name, fps, loop, stale_after_s and reopen_max_s are used.
            slot: where frames and faults go; closed when `run` ends.
            status: told when the camera is lost and when it is back.
            stop: ends `run` when set, as soon as the source lets go.
            seq: numbers for the frames, shared by all cameras of the process; None: 1, 2, 3 …
            clock: monotonic seconds.
        """
        self._source = source
        self._config = config
        self._slot = slot
        self._status = status
        self._stop = stop
        self._seq = seq if seq is not None else itertools.count(1)
        self._clock = clock
        self._lock = threading.Lock()  # over the three below, and over the order of sequence numbers
        self._lost = False
        self._last_sign_s = clock()
        self._next_due_s = -float("inf")
        self.failure: str | None = None  # why a finite source could not be read to its end

    def run(self) -> None:
        """Reads until the end of a finite source, or until stopped."""
        try:
            if self._source.lossless:
                self._run_finite()
            else:
                self._run_live()
        finally:
            self._slot.close()

    def check(self) -> None:
        """To be called now and then by another thread: a live source that gives no frame, or hangs, is lost."""
        age_s = self._clock() - self._last_sign_s
        if not self._source.lossless and age_s > self._config.stale_after_s:
            self._state_lost(f"{self._source.description}: no frame for {self._config.stale_after_s:g} s")

    def _run_finite(self) -> None:
        opened = False
        try:
            while not self._stop.is_set():
                with self._source:
                    opened = True
                    self._status.clear(CAMERA)
                    taken = self._read_to_end()
                if not self._config.loop or self._stop.is_set():
                    return
                if taken == 0:
                    raise SourceError(f"{self._source.description}: nothing to read, looping over it is no use")
        except SourceError as error:
            self.failure = str(error)
            self._status.fault(CAMERA, self.failure)
            if opened:  # parts that were to come are missing: said as a result too, not only in the log
                self._put_fault(self.failure, is_part=True)

    def _read_to_end(self) -> int:
        taken = 0
        while not self._stop.is_set():
            try:
                image = self._source.read()
            except ImageError as error:
                logger.warning("%s", error)
                self._put_fault(str(error), is_part=True)
            else:
                if image is None:
                    break
                self._put_frame(image)
            taken += 1
            self._pace()
        return taken

    def _pace(self) -> None:
        self._count_taken()
        if self._config.fps is not None:
            self._stop.wait(max(0.0, self._next_due_s - self._clock()))

    def _count_taken(self) -> None:
        """Sets when the next frame is due: evenly, and without catching up on time that was lost."""
        if self._config.fps is not None:
            now_s, on_grid_s = self._clock(), self._next_due_s + 1 / self._config.fps
            self._next_due_s = on_grid_s if on_grid_s > now_s else now_s + 1 / self._config.fps

    def _run_live(self) -> None:
        first_backoff_s = min(FIRST_BACKOFF_S, self._config.reopen_max_s)
        backoff_s = first_backoff_s
        while not self._stop.is_set():
            opened_s = self._clock()
            try:
                with self._source:
                    self._read_live()
            except SourceError as error:
                self._state_lost(str(error))
            if self._clock() - opened_s > self._config.reopen_max_s:  # it ran well in between
                backoff_s = first_backoff_s
            self._stop.wait(backoff_s * random.uniform(0.75, 1.25))
            backoff_s = min(2 * backoff_s, self._config.reopen_max_s)

    def _read_live(self) -> None:
        while not self._stop.is_set():
            try:
                image = self._source.read()
            except ImageError as error:
                self._put_fault(str(error), is_part=True)
                continue
            if image is None:
                raise SourceError(f"{self._source.description}: ended")
            self._state_alive()
            if self._clock() >= self._next_due_s:  # else it is more frames than the config's fps asks for
                self._count_taken()
                self._put_frame(image)

    def _state_alive(self) -> None:
        with self._lock:
            self._last_sign_s = self._clock()
            was_lost, self._lost = self._lost, False
        if was_lost:
            logger.info("back: %s", self._source.description)
        self._status.clear(CAMERA)

    def _state_lost(self, reason: str) -> None:
        with self._lock:
            if self._lost or self._stop.is_set():
                return
            self._lost = True
        logger.warning("lost: %s", reason)
        self._status.fault(CAMERA, reason)
        self._put_fault(f"camera lost: {reason}", is_part=False)

    def _put_frame(self, image: np.ndarray) -> None:
        with self._lock:
            frame = Frame(
                image_bgr=image,
                camera=self._config.name,
                seq=next(self._seq),
                captured_at=datetime.now(UTC),
                captured_monotonic_s=self._clock(),
            )
            self._put(frame, keep=False)

    def _put_fault(self, reason: str, *, is_part: bool) -> None:
        with self._lock:
            fault = Fault(
                camera=self._config.name,
                seq=next(self._seq),
                captured_at=datetime.now(UTC),
                captured_monotonic_s=self._clock(),
                reason=reason,
                is_part=is_part,
            )
            self._put(fault, keep=not is_part)

    def _put(self, item: Captured, *, keep: bool) -> None:
        while not self._slot.put(item, keep=keep, timeout_s=PUT_WAIT_S):
            if self._stop.is_set():
                return
