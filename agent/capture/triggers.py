"""The triggers of one camera, and their answers when there is no picture: paused, camera lost, too many."""

import logging
import threading
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass

from zsad_agent.capture.camera_status import CAMERA, CameraStatus
from zsad_agent.capture.output import FrameOutput
from zsad_agent.config import ON_DEMAND

logger = logging.getLogger(__name__)

MAX_WAITING = 16
MAX_REFUSED = 1000  # refused triggers whose answer waits; further triggers are dropped, to limit memory
MAX_ID_CHARACTERS = 128
TURN_WAIT_S = 0.1  # longest wait for a trigger or the end of a pause before checking `stop`
ALL_S = float("inf")


@dataclass(frozen=True, slots=True)
class Trigger:
    trigger_id: str | None  # chosen by the sender; None: no id
    arrived_s: float  # monotonic
    refused: str | None = None  # reason why it gets no picture


UNASKED = Trigger(trigger_id=None, arrived_s=-ALL_S)


class Triggers:
    """Used from any thread. Every accepted trigger gets one picture, or one answer with a reason."""

    def __init__(
        self, *, mode: str, lossless: bool, out: FrameOutput, status: CameraStatus, clock: Callable[[], float]
    ) -> None:
        """`mode`: the camera's `trigger`. `lossless`: whether its source is finite or a folder."""
        self.triggered = mode in ON_DEMAND
        self._mode = mode
        self._lossless = lossless
        self._out = out
        self._status = status
        self._clock = clock
        self._condition = threading.Condition()  # guards all below
        self._waiting: deque[Trigger] = deque()  # in order of arrival; each is taken once
        self._flooded = False
        self._lost: str | None = None  # reason
        self._paused = False
        self._ended: str | None = None  # reason why there are no more results

    @property
    def paused(self) -> bool:
        return self._paused

    def ask(self, trigger_id: str | None) -> None:
        """As `zsad_agent.capture.capture.Capture.trigger`."""
        if not self.triggered:
            raise ValueError(f"{self._status.camera} is not triggered (trigger: {self._mode})")
        if trigger_id is not None and not 1 <= len(trigger_id) <= MAX_ID_CHARACTERS:
            raise ValueError(f"a trigger's id has 1 to {MAX_ID_CHARACTERS} characters, not {len(trigger_id)}")
        with self._condition:
            if self._is_flooded():
                return
            if self._ended is not None:
                logger.warning("%s: a trigger has no result: %s", self._status.camera, self._ended)
                return
            trigger = Trigger(trigger_id, self._clock(), self._refusal())
            if trigger.refused is None or self._lossless:  # its capture thread answers, because its queue can be full
                self._waiting.append(trigger)
                self._condition.notify_all()
                return
        self._answer([trigger])

    def pause(self, paused: bool) -> None:
        """Starts or ends a pause. Its start answers the waiting triggers."""
        with self._condition:
            self._paused = paused
            waiting = self._take_for_answer() if paused else []
        self._status.pause(paused)
        self._answer(waiting, "paused")

    def lose(self, reason: str) -> None:
        """The camera is lost: reports it and answers the waiting triggers. Does nothing if it was lost already."""
        with self._condition:
            if self._lost is not None:
                return
            self._lost = reason
            waiting = self._take_for_answer()
        logger.warning("lost: %s", reason)
        self._status.fault(CAMERA, reason)
        self._out.put(f"camera lost: {reason}", is_part=False, keep=True)
        self._answer(waiting, f"camera lost: {reason}")

    def find(self, description: str) -> None:
        """The camera with this description works."""
        with self._condition:
            was_lost, self._lost = self._lost, None
        if was_lost is not None:
            logger.info("back: %s", description)
        self._status.clear(CAMERA)

    def end(self, reason: str) -> None:
        """Answers all waiting triggers. Later ones get no result, only a log line: the camera gives no more results."""
        with self._condition:
            self._ended = reason
        self._answer(self._take(), reason)

    def turns(self, began_s: float, *, wait_s: float) -> list[Trigger]:
        """The triggers that get the live picture whose reading began at `began_s`.

        Those that have waited for `wait_s` get none, and are answered.
        """
        self._answer(self._take(self._clock() - wait_s), f"no picture within {wait_s:g} s of the trigger")
        return self._take(began_s)

    def next_turn(self, stop: threading.Event) -> Trigger | None:
        """Waits until the next picture of a finite source or folder is due. None when stopped."""
        while not stop.is_set():
            if not self.triggered:
                if not self._paused:
                    return UNASKED
                stop.wait(TURN_WAIT_S)
                continue
            with self._condition:
                if not self._waiting:
                    self._condition.wait(TURN_WAIT_S)
                trigger = self._waiting.popleft() if self._waiting else None
            if trigger is not None:
                if trigger.refused is None and not self._paused:
                    return trigger
                self._answer([trigger], "paused")
        return None

    def give_back(self, turn: Trigger) -> None:
        """Makes the trigger the oldest again, because there was no picture yet."""
        if turn is not UNASKED:
            with self._condition:
                self._waiting.appendleft(turn)

    def _is_flooded(self) -> bool:
        """Whether too many triggers wait to accept one more: each takes memory until its result is on disk."""
        waiting = len(self._waiting) + self._out.waiting
        if waiting >= MAX_REFUSED and not self._flooded:
            self._flooded = True
            logger.error("%s: triggers are dropped without a result: %d are waiting", self._status.camera, waiting)
        elif waiting < MAX_REFUSED // 2 and self._flooded:
            self._flooded = False
            logger.warning("%s: every trigger gets a result again", self._status.camera)
        return waiting >= MAX_REFUSED

    def _refusal(self) -> str | None:
        """Why a trigger that comes now gets no picture."""
        if self._paused:
            return "paused"
        if self._lost is not None:
            return f"camera lost: {self._lost}"
        waiting = sum(trigger.refused is None for trigger in self._waiting) + self._out.waiting
        return f"too many triggers waiting, {MAX_WAITING}" if waiting >= MAX_WAITING else None

    def _take(self, until_s: float = ALL_S) -> list[Trigger]:
        """Takes all that arrived no later than `until_s`, oldest first."""
        taken = []
        with self._condition:
            while self._waiting and self._waiting[0].arrived_s <= until_s:
                taken.append(self._waiting.popleft())
        return taken

    def _take_for_answer(self) -> list[Trigger]:
        return [] if self._lossless else self._take()

    def _answer(self, triggers: list[Trigger], reason: str = "") -> None:
        """`reason` is that of triggers which were not refused when they came."""
        for trigger in triggers:
            self._out.put(trigger.refused or reason, keep=True, trigger_id=trigger.trigger_id)
