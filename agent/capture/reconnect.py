"""Reopens a lost source, and reports `lost` and `back` once each."""

import logging
import threading
from collections.abc import Callable

from zsad_agent.capture.camera_status import CAMERA, CameraStatus
from zsad_agent.capture.output import FrameOutput
from zsad_agent.capture.triggers import Triggers
from zsad_agent.sources import Source
from zsad_agent.system import Backoff
from zsad_core.errors import SourceError

logger = logging.getLogger(__name__)

FIRST_BACKOFF_S = 0.5


class Reconnector:
    """Keeps a live source or watched folder open. For the thread that reads it; every read has a time limit."""

    def __init__(
        self,
        *,
        source: Source,
        desk: Triggers,
        out: FrameOutput,
        status: CameraStatus,
        stop: threading.Event,
        clock: Callable[[], float],
        reopen_max_s: float,
    ) -> None:
        """Opens nothing yet.

        Args:
            source: not yet opened.
            desk: answers the waiting triggers when the camera is lost.
            out: takes a result that says so.
            status: gets the fault.
            stop: ends `keep_open` when set.
            clock: monotonic seconds.
            reopen_max_s: longest wait between two openings.
        """
        self._source = source
        self._desk = desk
        self._out = out
        self._status = status
        self._stop = stop
        self._clock = clock
        self._reopen_max_s = reopen_max_s

    def keep_open(self, read: Callable[[], None]) -> None:
        """Calls `read` with the source open, until stopped. Repeats it with back-off when it returns or fails."""
        backoff = Backoff(FIRST_BACKOFF_S, self._reopen_max_s)
        while not self._stop.is_set():
            opened_s = self._clock()
            try:
                with self._source:
                    read()
            except SourceError as error:
                self._state_lost(str(error))
            if self._clock() - opened_s > self._reopen_max_s:  # it worked for a while
                backoff.reset()
            self._stop.wait(backoff.next_s())

    def sign(self) -> None:
        """Notes that the source works."""
        if self._desk.find():
            logger.info("back: %s", self._source.description)
        self._status.clear(CAMERA)

    def _state_lost(self, reason: str) -> None:
        def say() -> None:
            logger.warning("lost: %s", reason)
            self._status.fault(CAMERA, reason)
            self._out.fault(f"camera lost: {reason}", is_part=False, keep=True)

        if not self._stop.is_set():
            self._desk.lose(reason, say)
