"""Takes pictures from one source into a queue when they are due or triggered, and reopens a lost source."""

import threading
import time
from collections.abc import Callable, Iterator

import numpy as np

from zsad_agent.capture.camera_status import CameraStatus
from zsad_agent.capture.finite import FiniteCapture
from zsad_agent.capture.live import LiveCapture
from zsad_agent.capture.output import Captured, FrameOutput
from zsad_agent.capture.pace import Pace
from zsad_agent.capture.parts import Parts
from zsad_agent.capture.triggers import Triggers
from zsad_agent.config import SourceConfig
from zsad_agent.picture_health import PictureHealth, load_reference
from zsad_agent.sources import Source
from zsad_agent.system import Backoff, FrameQueue
from zsad_core.errors import SourceError

FIRST_BACKOFF_S = 0.5  # longest wait before the second opening, without jitter


class Capture:
    """The body of the capture thread, and the calls that other threads make to it.

    With `trigger: mqtt` or `plc` every trigger gives exactly one result, in order. A live source gives the first
    picture whose reading began after the trigger came, so the picture is never older than the trigger. A finite source
    gives its next picture. If there is no picture (camera lost, paused, unhealthy pictures, none within
    `stale_after_s`, too many triggers waiting), the result is a fault with the reason.

    Some triggers get no result: those that wait when the agent stops, those that come after the end of a file (one log
    line each), and those of a flood, when `MAX_REFUSED` results already wait (one log line for all).
    """

    def __init__(
        self,
        *,
        source: Source,
        config: SourceConfig,
        slot: FrameQueue[Captured],
        status: CameraStatus,
        stop: threading.Event,
        seq: Iterator[int],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Starts nothing.

        Args:
            source: not yet opened.
            config: name, fps, loop, trigger, stale_after_s, reopen_max_s, region_xywh and health are used.
            slot: takes frames and faults; closed when `run` ends. For a live source its `put` must never wait.
            status: gets the faults of the camera and its pictures, their end, and pauses.
            stop: ends `run` when set, as soon as the source's current call returns.
            seq: frame numbers, shared by all cameras of the process.
            clock: monotonic seconds.

        Raises:
            ConfigError: the reference for picture health cannot be used.
        """
        out = FrameOutput(camera=config.name, slot=slot, stop=stop, seq=seq, clock=clock)
        triggers = Triggers(mode=config.trigger, lossless=source.lossless, out=out, status=status, clock=clock)
        self._parts = parts = Parts(
            source=source,
            config=config,
            out=out,
            triggers=triggers,
            pace=Pace(config.fps, clock),
            status=status,
            stop=stop,
            clock=clock,
        )
        self._slot = slot
        self._finite = FiniteCapture(parts)
        self._live: LiveCapture | None = None
        if not source.lossless:
            health = config.health
            reference = load_reference(health.reference) if health.reference is not None else None
            has_region = config.region_xywh is not None
            self._live = LiveCapture(parts, PictureHealth(health, reference, has_region=has_region))

    def run(self) -> None:
        """Reads until the end of a finite source, or until stopped."""
        try:
            if self._live is not None:
                self._keep_open(self._live.read)
            elif self._parts.source.endless:
                self._keep_open(self._finite.read_folder)
                self._finite.receipts.settle_rest()
            else:
                self._finite.run()
            if not self._parts.stop.is_set():
                self._parts.triggers.end(self.failure or "the source has ended")
        finally:
            self._slot.close()

    def _keep_open(self, read: Callable[[], None]) -> None:
        """Calls `read` with the source open, until stopped. Repeats it with back-off when it returns or fails."""
        parts, reopen_max_s = self._parts, self._parts.config.reopen_max_s
        backoff = Backoff(FIRST_BACKOFF_S, reopen_max_s)
        while not parts.stop.is_set():
            opened_s = parts.clock()
            try:
                with parts.source:
                    read()
            except SourceError as error:
                if not parts.stop.is_set():
                    parts.triggers.lose(str(error))
            if parts.clock() - opened_s > reopen_max_s:  # it worked for a while
                backoff.reset()
            parts.stop.wait(backoff.next_s())

    def expect_no_results(self) -> None:
        """No further result will become safe: pictures that still wait for one stay in place. Returns at once."""
        self._finite.receipts.expect_no_more()

    def trigger(self, trigger_id: str | None) -> None:
        """Requests the inspection of one picture. Returns at once. Any thread may call it.

        Args:
            trigger_id: returned with the result; 1 to 128 characters, or None.

        Raises:
            ValueError: the id has another length, or the camera takes no triggers.
        """
        self._parts.triggers.ask(trigger_id)

    def pause(self, paused: bool) -> None:
        """Stops or resumes inspection. Meanwhile a live source stays open and is still checked."""
        self._parts.triggers.pause(paused)

    @property
    def failure(self) -> str | None:
        """Why a finite source could not be read to its end."""
        return self._finite.failure

    @property
    def unreadable(self) -> int:
        """Pictures of a file or folder that could not be decoded."""
        return self._finite.unreadable

    @property
    def triggered(self) -> bool:
        """Whether a picture is taken only for a trigger."""
        return self._parts.triggers.triggered

    @property
    def skipped(self) -> int:
        """Frames of a live source that a newer one replaced before they were read from its process."""
        return self._live.skipped if self._live is not None else 0

    @property
    def silent_s(self) -> float | None:
        """Seconds without a picture, if that is unusual for this free-running camera; None for all other sources."""
        waits = self.triggered or self._parts.config.has_hardware_trigger
        return None if self._live is None or waits else self._live.silence.unusual_s

    @property
    def paused(self) -> bool:
        return self._parts.triggers.paused

    def newest_images(self, count: int) -> list[np.ndarray]:
        """The latest good images, uint8 BGR [H, W, 3], inspected or not: at most 4, the newest last."""
        return self._parts.out.newest(count)
