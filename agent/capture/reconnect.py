"""Whether a source that is reopened when it is lost is there: lost and back are said once."""

import logging
import random
import threading
from collections.abc import Callable

from zsad_agent.capture.camera_status import CAMERA, CameraStatus
from zsad_agent.capture.output import FrameOutput
from zsad_agent.capture.triggers import Triggers
from zsad_agent.sources import Source
from zsad_core.errors import SourceError

logger = logging.getLogger(__name__)

FIRST_BACKOFF_S = 0.5


class Reconnector:
    """Of a live source or a watched folder. `check` and `check_answer` are called by another thread than the rest."""

    def __init__(
        self,
        *,
        source: Source,
        desk: Triggers,
        out: FrameOutput,
        status: CameraStatus,
        stop: threading.Event,
        clock: Callable[[], float],
        stale_after_s: float,
        reopen_max_s: float,
        start_s: float = 0.0,
    ) -> None:
        """Opens nothing yet.

        Args:
            source: not yet opened.
            desk: tells those who wait that the camera is lost.
            out: a result says so, too.
            status: likewise.
            stop: ends `keep_open` when set.
            clock: monotonic seconds.
            stale_after_s: a source without a sign for so long is lost.
            reopen_max_s: longest wait between two openings.
            start_s: what the first opening may take beside `stale_after_s`, such as a process that has to start.
        """
        self._source = source
        self._desk = desk
        self._out = out
        self._status = status
        self._stop = stop
        self._clock = clock
        self._stale_after_s = stale_after_s
        self._reopen_max_s = reopen_max_s
        self._start_s = start_s  # 0 once it was open
        self._last_sign_s = clock()

    def keep_open(self, read: Callable[[], None]) -> None:
        """Calls `read` with the source open, again with growing pauses when it returns or is lost, until stopped."""
        first_backoff_s = min(FIRST_BACKOFF_S, self._reopen_max_s)
        backoff_s = first_backoff_s
        while not self._stop.is_set():
            opened_s = self._clock()
            try:
                with self._source:
                    self.begin_anew()
                    self._start_s = 0.0
                    read()
            except SourceError as error:
                self._state_lost(str(error))
            if self._clock() - opened_s > self._reopen_max_s:  # it ran well in between
                backoff_s = first_backoff_s
            self._stop.wait(backoff_s * random.uniform(0.75, 1.25))
            backoff_s = min(2 * backoff_s, self._reopen_max_s)

    def sign(self) -> None:
        """It is there."""
        self._last_sign_s = self._clock()
        if self._desk.find():
            logger.info("back: %s", self._source.description)
        self._status.clear(CAMERA)

    def check(self) -> None:
        """It is lost if it gave no sign for too long; who has waited for a picture for too long is answered."""
        now_s, limit_s = self._clock(), self._stale_after_s + self._start_s
        if now_s - self._last_sign_s > limit_s:
            self._state_lost(f"{self._source.description}: no frame for {limit_s:g} s")
        wait_s = self._stale_after_s
        self._desk.answer_waiting(f"no picture within {wait_s:g} s of the trigger", now_s - wait_s)

    def check_answer(self) -> None:
        """As `check`, of a watched folder: while it is asked and does not answer it is at fault, and no part is."""
        waits = self._desk.paused or self._out.waiting > 0  # for somebody else than the folder
        if self._clock() - self._last_sign_s > self._stale_after_s and not waits:
            self._status.fault(CAMERA, f"{self._source.description}: no answer for {self._stale_after_s:g} s")

    def begin_anew(self) -> None:
        """The time without a sign counts from now."""
        self._last_sign_s = self._clock()

    def _state_lost(self, reason: str) -> None:
        def say() -> None:
            logger.warning("lost: %s", reason)
            self._status.fault(CAMERA, reason)
            self._out.fault(f"camera lost: {reason}", is_part=False, keep=True)

        if not self._stop.is_set():
            self._desk.lose(reason, say)
