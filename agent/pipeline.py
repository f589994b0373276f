"""Three threads, capture -> inference -> publishing, so that the model never waits for a picture or a disk."""

import logging
import threading
import time
from collections.abc import Callable, Sequence
from typing import Any, Protocol

from zsad_agent.capture import Capture, Captured, Fault
from zsad_agent.inspection import Inspected, Inspector
from zsad_agent.slot import Handover, Slot, SlotClosed

logger = logging.getLogger(__name__)

WAIT_S = 0.25  # longest wait of a stage before it gives a sign of life again
CONCLUSION_PLACES = 4  # inspected pictures that may wait for the disk


class Sink(Protocol):
    """Takes every result; `zsad_agent.publisher.Publisher` is one. Durable when it returns."""

    def accept(self, result: dict[str, Any], heatmap: bytes | None) -> None: ...


class Pipeline:
    """Owns the three threads. Started once, stopped once."""

    def __init__(
        self,
        *,
        capture: Capture,
        slot: Slot[Captured],
        inspector: Inspector,
        sinks: Sequence[Sink],
        stop: threading.Event,
        max_frames: int | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Starts nothing.

        Args:
            capture: puts into `slot`.
            slot: what the inference thread takes from.
            inspector: does the work.
            sinks: each is given every result, in the order of capture.
            stop: the one that `capture` was given.
            max_frames: ends after so many pictures; None: when the source ends.
            clock: monotonic seconds.
        """
        self._capture = capture
        self._slot = slot
        self._inspector = inspector
        self._sinks = sinks
        self._stop = stop
        self._max_frames = max_frames
        self._clock = clock
        self._halt = threading.Event()  # no further picture goes to the model, though one may wait
        self._inspected: Handover[Inspected] = Handover(CONCLUSION_PLACES)
        self._signs_s: dict[str, float] = {}
        self._threads = {
            name: threading.Thread(target=self._guarded, args=(name, body), name=name, daemon=True)
            for name, body in (("capture", capture.run), ("inference", self._infer), ("publishing", self._conclude))
        }
        self.crash: str | None = None  # why a thread ended that should not have
        self.inspected_frames = 0

    @property
    def dropped(self) -> int:
        """Frames of a live source that a newer one replaced before the model was free."""
        return self._slot.dropped

    @property
    def failure(self) -> str | None:
        """Why the run is not a success, if so."""
        return self.crash or self._capture.failure

    def start(self) -> None:
        for name, thread in self._threads.items():
            self._signs_s[name] = self._clock()
            thread.start()

    def check(self) -> None:
        """To be called now and then while it runs."""
        self._capture.check()

    def stop(self) -> None:
        """Takes no more pictures; those inspected, and the one at the model, still reach the sinks. Does not wait."""
        self._halt.set()
        self._stop.set()
        self._slot.close()

    def wait(self, timeout_s: float) -> bool:
        """True once all that was inspected is with the sinks. A capture that hangs in a driver is not waited for."""
        deadline_s = self._clock() + timeout_s
        for name in ("inference", "publishing"):
            self._threads[name].join(max(0.0, deadline_s - self._clock()))
        return not any(self._threads[name].is_alive() for name in ("inference", "publishing"))

    def wait_capture(self, timeout_s: float) -> bool:
        """True once the source is closed."""
        self._threads["capture"].join(timeout_s)
        return not self._threads["capture"].is_alive()

    def stuck(self, limit_s: float) -> str | None:
        """What has given no sign of life for `limit_s`: a model or a disk that hangs. None when all goes on.

        Waiting for pictures is a sign of life: a missing camera is no reason to restart.
        """
        for name in ("inference", "publishing"):
            silent_s = self._clock() - self._signs_s[name]
            if self._threads[name].is_alive() and silent_s > limit_s:
                return f"{name} has not moved for {silent_s:.0f} s"
        return None

    def _guarded(self, name: str, body: Callable[[], None]) -> None:
        try:
            body()
        except Exception as error:  # the last place that can tell: the process stops and says why
            self.crash = self.crash or f"{name} stopped: {type(error).__name__}: {error}"
            logger.debug("%s stopped", name, exc_info=True)
            self._stop.set()

    def _infer(self) -> None:
        try:
            while not self._halt.is_set() and not self._enough():
                self._signs_s["inference"] = self._clock()
                try:
                    captured = self._slot.get(WAIT_S)
                except SlotClosed:
                    return
                if captured is None:
                    continue
                inspected = self._inspector.look(captured)
                if not (isinstance(captured, Fault) and not captured.is_part):
                    self.inspected_frames += 1
                while not self._inspected.put(inspected, timeout_s=WAIT_S):
                    self._signs_s["inference"] = self._clock()
                    if self.crash is not None:
                        return
            self._stop.set()
        finally:
            self._inspected.close()

    def _enough(self) -> bool:
        return self._max_frames is not None and self.inspected_frames >= self._max_frames

    def _conclude(self) -> None:
        try:
            while True:
                self._signs_s["publishing"] = self._clock()
                try:
                    inspected = self._inspected.get(WAIT_S)
                except SlotClosed:
                    return
                if inspected is None:
                    continue
                result, heatmap = self._inspector.conclude(inspected)
                for sink in self._sinks:
                    sink.accept(result, heatmap)
        finally:
            self._inspected.close()
