"""Who wants a picture of one camera, and what they are told when there is none: triggers, pause, lost camera."""

import logging
import threading
from collections.abc import Callable

from zsad_agent.capture.camera_status import CameraStatus
from zsad_agent.capture.output import FrameOutput
from zsad_agent.capture.trigger_queue import MAX_ID_CHARACTERS, MAX_REFUSED, MAX_WAITING, Trigger, TriggerQueue

logger = logging.getLogger(__name__)

TURN_WAIT_S = 0.1  # longest wait for a trigger or the end of a pause before looking again whether to stop
UNASKED = Trigger(trigger_id=None, arrived_s=-float("inf"))
ALL_S = float("inf")


class Triggers:
    """Used from any thread. Every trigger that it takes in is given out once, or answered with a reason."""

    def __init__(
        self, *, mode: str, lossless: bool, out: FrameOutput, status: CameraStatus, clock: Callable[[], float]
    ) -> None:
        """Takes what it answers by.

        Args:
            mode: the camera's `trigger`; with `mqtt` it takes a picture only when it is asked to.
            lossless: whether its source is finite or a folder.
            out: where answers go.
            status: told of a pause.
            clock: monotonic seconds.
        """
        self._mode = mode
        self._lossless = lossless
        self._out = out
        self._status = status
        self._clock = clock
        self._queue = TriggerQueue()
        self._flooded = False
        self._lock = threading.Lock()  # over the three below, and over a trigger being let in while one of them turns
        self._lost: str | None = None  # why
        self._paused = False
        self._ended: str | None = None  # why nobody answers any more

    @property
    def triggered(self) -> bool:
        return self._mode == "mqtt"

    @property
    def paused(self) -> bool:
        return self._paused

    def ask(self, trigger_id: str | None) -> None:
        """As `zsad_agent.capture.capture.Capture.trigger`."""
        if not self.triggered:
            raise ValueError(f"{self._status.camera} is not triggered by messages (trigger: {self._mode})")
        if trigger_id is not None and not 1 <= len(trigger_id) <= MAX_ID_CHARACTERS:
            raise ValueError(f"a trigger's id has 1 to {MAX_ID_CHARACTERS} characters, not {len(trigger_id)}")
        if self._is_flooded():
            return
        with self._lock:
            if self._ended is not None:
                logger.warning("%s: a trigger has no result: %s", self._status.camera, self._ended)
                return
            full = self._queue.pending + self._out.waiting >= MAX_WAITING
            refused = self._no_picture() or (f"too many triggers waiting, {MAX_WAITING}" if full else None)
            trigger = Trigger(trigger_id, self._clock(), refused)
            if refused is None or self._lossless:  # whose own thread answers, since its slot can be full
                self._queue.offer(trigger)
                return
        self._answer([trigger], refused)

    def pause(self) -> None:
        with self._lock:
            self._paused = True
            waiting = [] if self._lossless else self._queue.take_until(ALL_S)
        self._status.pause(True)
        self._answer(waiting, "paused")

    def resume(self) -> None:
        with self._lock:
            self._paused = False
        self._status.pause(False)

    def lose(self, reason: str, said: Callable[[], None]) -> None:
        """The camera is lost: `said` is called, then those who wait are answered. Nothing if it was lost already."""
        with self._lock:
            if self._lost is not None:
                return
            self._lost = reason
            waiting = [] if self._lossless else self._queue.take_until(ALL_S)
        said()
        self._answer(waiting, f"camera lost: {reason}")

    def find(self) -> bool:
        """The camera is there. Whether it was lost."""
        with self._lock:
            was_lost, self._lost = self._lost, None
        return was_lost is not None

    def answer_waiting(self, reason: str, until_s: float = ALL_S) -> None:
        """Those who asked no later than `until_s` get no picture, for that reason."""
        self._answer(self._queue.take_until(until_s), reason)

    def end(self, reason: str) -> None:
        """As `answer_waiting`, and whoever comes later is told in the log alone: the camera gives no more results."""
        with self._lock:
            self._ended = reason
        self.answer_waiting(reason)

    def turns_of(self, began_s: float) -> list[Trigger]:
        """Who gets the live picture whose reading began at `began_s`."""
        return self._queue.take_until(began_s)

    def next_turn(self, stop: threading.Event) -> Trigger | None:
        """Waits until a picture of a finite source or folder is to be taken. None when stopped."""
        while not stop.is_set():
            if self.triggered:
                trigger = self._queue.take_next(TURN_WAIT_S)
                if trigger is None:
                    continue
                if trigger.refused is None and not self._paused:
                    return trigger
                self._answer([trigger], "paused")
            elif self._paused:
                stop.wait(TURN_WAIT_S)
            else:
                return UNASKED
        return None

    def give_back(self, turn: Trigger) -> None:
        """There was no picture for it yet."""
        if turn is not UNASKED:
            self._queue.put_back(turn)

    def _is_flooded(self) -> bool:
        """Whether so many wait that one more is passed over: each takes memory until its result is on the disk."""
        waiting = self._queue.waiting + self._out.waiting
        if waiting >= MAX_REFUSED and not self._flooded:
            self._flooded = True
            logger.error("%s: triggers are passed over, without a result: %d wait", self._status.camera, waiting)
        elif waiting < MAX_REFUSED // 2 and self._flooded:
            self._flooded = False
            logger.warning("%s: every trigger gets a result again", self._status.camera)
        return waiting >= MAX_REFUSED

    def _no_picture(self) -> str | None:
        if self._paused:
            return "paused"
        return f"camera lost: {self._lost}" if self._lost is not None else None

    def _answer(self, triggers: list[Trigger], reason: str) -> None:
        for trigger in triggers:
            self._out.fault(trigger.refused or reason, is_part=True, keep=True, trigger_id=trigger.trigger_id)
