"""The triggers of one camera, and their answers when there is no picture: paused, camera lost, too many."""

import logging
import threading
from collections.abc import Callable

from zsad_agent.capture.camera_status import CameraStatus
from zsad_agent.capture.output import FrameOutput
from zsad_agent.capture.trigger_queue import MAX_ID_CHARACTERS, MAX_REFUSED, MAX_WAITING, Trigger, TriggerQueue

logger = logging.getLogger(__name__)

TURN_WAIT_S = 0.1  # longest wait for a trigger or the end of a pause before checking `stop`
UNASKED = Trigger(trigger_id=None, arrived_s=-float("inf"))
ALL_S = float("inf")


class Triggers:
    """Used from any thread. Every accepted trigger gets one picture, or one answer with a reason."""

    def __init__(
        self, *, mode: str, lossless: bool, out: FrameOutput, status: CameraStatus, clock: Callable[[], float]
    ) -> None:
        """No trigger waits yet.

        Args:
            mode: the camera's `trigger`; with `mqtt` a picture is taken only for a trigger.
            lossless: whether its source is finite or a folder.
            out: takes the answers.
            status: gets the pauses.
            clock: monotonic seconds.
        """
        self._mode = mode
        self._lossless = lossless
        self._out = out
        self._status = status
        self._clock = clock
        self._queue = TriggerQueue()
        self._flooded = False
        self._lock = threading.Lock()  # guards the three below, and the check of them when a trigger arrives
        self._lost: str | None = None  # reason
        self._paused = False
        self._ended: str | None = None  # reason why there are no more results

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
            if refused is None or self._lossless:  # its capture thread answers, because its queue can be full
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
        """The camera is lost: calls `said`, then answers the waiting triggers. Does nothing if it was lost already."""
        with self._lock:
            if self._lost is not None:
                return
            self._lost = reason
            waiting = [] if self._lossless else self._queue.take_until(ALL_S)
        said()
        self._answer(waiting, f"camera lost: {reason}")

    def find(self) -> bool:
        """The camera works. Returns whether it was lost."""
        with self._lock:
            was_lost, self._lost = self._lost, None
        return was_lost is not None

    def answer_waiting(self, reason: str, until_s: float = ALL_S) -> None:
        """Answers the triggers that arrived no later than `until_s` with this reason."""
        self._answer(self._queue.take_until(until_s), reason)

    def end(self, reason: str) -> None:
        """As `answer_waiting`. Later triggers get no result, only a log line: the camera gives no more results."""
        with self._lock:
            self._ended = reason
        self.answer_waiting(reason)

    def turns_of(self, began_s: float) -> list[Trigger]:
        """The triggers that get the live picture whose reading began at `began_s`."""
        return self._queue.take_until(began_s)

    def next_turn(self, stop: threading.Event) -> Trigger | None:
        """Waits until the next picture of a finite source or folder is due. None when stopped."""
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
        """Puts the trigger back, because there was no picture yet."""
        if turn is not UNASKED:
            self._queue.put_back(turn)

    def _is_flooded(self) -> bool:
        """Whether too many triggers wait to accept one more: each takes memory until its result is on disk."""
        waiting = self._queue.waiting + self._out.waiting
        if waiting >= MAX_REFUSED and not self._flooded:
            self._flooded = True
            logger.error("%s: triggers are dropped without a result: %d are waiting", self._status.camera, waiting)
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
