"""Takes pictures from one source into a slot, when they are asked for, and keeps a live source going."""

import logging
import random
import threading
import time
from collections.abc import Callable, Iterator
from functools import partial

import numpy as np

from zsad_agent.camera_config import SourceConfig
from zsad_agent.folder_drop import LOOK_EVERY_S, FolderDropSource
from zsad_agent.grabber import GrabberSource
from zsad_agent.outlet import Captured, Fault, Outlet
from zsad_agent.pace import Pace
from zsad_agent.picture_health import PictureHealth
from zsad_agent.slot import Slot
from zsad_agent.sources import Source
from zsad_agent.status import CAMERA, FOLDER, PICTURE, CameraStatus
from zsad_agent.triggers import MAX_ID_CHARACTERS, MAX_REFUSED, MAX_WAITING, Trigger, TriggerQueue
from zsad_core.errors import ImageError, SourceError
from zsad_core.types import Frame

__all__ = ["Capture", "Captured", "Fault"]

logger = logging.getLogger(__name__)

FIRST_BACKOFF_S = 0.5
TURN_WAIT_S = 0.1  # longest wait for a trigger or the end of a pause before looking again whether to stop
UNASKED = Trigger(trigger_id=None, arrived_s=-float("inf"))


class Capture:
    """The body of the capture thread, the watch over it, and what others ask of it from their threads.

    With `trigger: mqtt` every trigger gives exactly one result, in order. Of a live source that is the first picture
    whose reading began after the trigger came, so never one that was taken before; of a finite one, the next. Where no
    picture can be had (camera lost, paused, unhealthy pictures, none within `stale_after_s`, too many triggers waiting)
    it is a fault with the reason. Triggers that wait when the agent is stopped get none, nor do those of a flood:
    behind `MAX_REFUSED` results that nobody took yet they are passed over, with one log line.
    """

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
            source: not yet opened. Health is judged of live ones only; files are taken as they are.
            config: name, fps, loop, trigger, stale_after_s, reopen_max_s and health are used.
            slot: where frames and faults go; closed when `run` ends. Of a live source, one whose `put` never waits.
            status: told when the camera is lost, its pictures are unhealthy, or it is paused; and when no longer.
            stop: ends `run` when set, as soon as the source lets go.
            seq: numbers for the frames, shared by all cameras of the process; None: 1, 2, 3 …
            clock: monotonic seconds.

        Raises:
            ConfigError: the reference that health is judged by cannot be used.
        """
        self._source = source
        self._config = config
        self._slot = slot
        self._status = status
        self._stop = stop
        self._clock = clock
        self._out = Outlet(camera=config.name, slot=slot, stop=stop, seq=seq, clock=clock)
        self._health = None if source.lossless else PictureHealth.of(config.health)
        self._stated_health: str | None = None
        self._triggers = TriggerQueue()
        self._flooded = False
        self._lock = threading.Lock()  # over the three below, and over a trigger being let in while one of them turns
        self._lost: str | None = None  # why
        self._paused = False
        self._last_sign_s = clock()
        self._pace = Pace(config.fps, clock)
        self.failure: str | None = None  # why a finite source could not be read to its end

    def run(self) -> None:
        """Reads until the end of a finite source, or until stopped."""
        try:
            if isinstance(self._source, FolderDropSource):
                self._run_endless(partial(self._read_drops, self._source))
            elif self._source.lossless:
                self._run_finite()
            else:
                self._run_endless(self._read_live)
            if not self._stop.is_set():
                self._answer(self._triggers.take_until(float("inf")), self.failure or "the source has ended")
        finally:
            self._slot.close()

    def check(self) -> None:
        """To be called now and then by another thread: a live source that gives no frame, or hangs, is lost.

        A watched folder, which may be another machine's, is at fault while it hangs.
        """
        now_s, limit_s = self._clock(), self._config.stale_after_s
        if isinstance(self._source, FolderDropSource):
            waits = self._paused or self._out.waiting > 0  # for somebody else than the folder
            if now_s - self._last_sign_s > limit_s and not waits:
                self._status.fault(CAMERA, f"{self._source.description}: no answer for {limit_s:g} s")
        if self._source.lossless:
            return
        if now_s - self._last_sign_s > limit_s:
            self._state_lost(f"{self._source.description}: no frame for {limit_s:g} s")
        self._answer(self._triggers.take_until(now_s - limit_s), f"no picture within {limit_s:g} s of the trigger")

    def trigger(self, trigger_id: str | None) -> None:
        """Asks for one picture to be inspected. Returns at once, from any thread.

        Args:
            trigger_id: given back with the result; 1 to 128 characters, or None.

        Raises:
            ValueError: an id of another length, or a camera that is not triggered by messages.
        """
        if self._config.trigger != "mqtt":
            raise ValueError(f"{self._config.name} is not triggered by messages (trigger: {self._config.trigger})")
        if trigger_id is not None and not 1 <= len(trigger_id) <= MAX_ID_CHARACTERS:
            raise ValueError(f"a trigger's id has 1 to {MAX_ID_CHARACTERS} characters, not {len(trigger_id)}")
        if self._is_flooded():
            return
        with self._lock:
            full = self._triggers.pending + self._out.waiting >= MAX_WAITING
            refused = self._no_picture() or (f"too many triggers waiting, {MAX_WAITING}" if full else None)
            trigger = Trigger(trigger_id, self._clock(), refused)
            if refused is None or self._source.lossless:  # whose own thread answers, since its slot can be full
                self._triggers.offer(trigger)
                return
        self._answer([trigger], refused)

    def pause(self) -> None:
        """Inspects nothing until `resume`. A live source stays open and watched."""
        with self._lock:
            self._paused = True
            waiting = [] if self._source.lossless else self._triggers.take_until(float("inf"))
        self._status.pause(True)
        self._answer(waiting, "paused")

    def resume(self) -> None:
        with self._lock:
            self._paused = False
            self._last_sign_s = self._clock()
        self._status.pause(False)

    @property
    def triggers_waiting(self) -> int:
        """Triggers that neither have a picture nor were refused yet."""
        return self._triggers.waiting

    @property
    def triggered(self) -> bool:
        """Whether `trigger` asks for its pictures."""
        return self._config.trigger == "mqtt"

    @property
    def skipped(self) -> int:
        """Frames of a live source that came faster than they were fetched from its process."""
        return self._source.skipped if isinstance(self._source, GrabberSource) else 0

    @property
    def paused(self) -> bool:
        return self._paused

    def newest_frames(self, count: int) -> list[Frame]:
        """The latest good frames, inspected or not, at most 4, the newest last. Their `seq` is 0."""
        return self._out.newest(count)

    def _is_flooded(self) -> bool:
        waiting = self._triggers.waiting + self._out.waiting
        if waiting >= MAX_REFUSED:
            if not self._flooded:
                self._flooded = True
                logger.error(
                    "%s: triggers are passed over, without a result: %d wait already", self._config.name, waiting
                )
            return True
        if self._flooded and waiting < MAX_REFUSED // 2:
            self._flooded = False
            logger.warning("%s: every trigger gets a result again", self._config.name)
        return False

    def _no_picture(self) -> str | None:
        if self._paused:
            return "paused"
        return f"camera lost: {self._lost}" if self._lost is not None else None

    def _answer(self, triggers: list[Trigger], reason: str) -> None:
        for trigger in triggers:
            self._out.fault(trigger.refused or reason, is_part=True, keep=True, trigger_id=trigger.trigger_id)

    # a finite source, and a folder that is watched

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
                self._out.fault(self.failure, is_part=True)

    def _read_to_end(self) -> int:
        taken = 0
        while (turn := self._next_turn()) is not None:
            if not self._take_next(turn):
                break
            taken += 1
        return taken

    def _read_drops(self, folder: FolderDropSource) -> None:
        while (turn := self._next_turn()) is not None:
            if not self._take_next(turn, folder.receipt):
                self._stop.wait(LOOK_EVERY_S)
            self._state_alive()

    def _next_turn(self) -> Trigger | None:
        """Waits until a picture is to be taken. None when stopped."""
        while not self._stop.is_set():
            if self._config.trigger == "mqtt":
                trigger = self._triggers.take_next(TURN_WAIT_S)
                if trigger is None:
                    continue
                if trigger.refused is None and not self._paused:
                    return trigger
                self._answer([trigger], "paused")
            elif self._paused:
                self._stop.wait(TURN_WAIT_S)
            else:
                return UNASKED
        return None

    def _take_next(self, turn: Trigger, receipt: Callable[[], Callable[[], None]] | None = None) -> bool:
        """Reads one picture and puts it, or the fault in its place. False when there was none."""
        try:
            image = self._source.read()
            if image is None:
                self._give_back(turn)
                return False
            self._out.remember(image)
            self._out.frame(image, keep=True, trigger_id=turn.trigger_id, done=self._when_safe(receipt))
        except ImageError as error:
            logger.warning("%s", error)
            self._out.fault(
                str(error), is_part=True, keep=True, trigger_id=turn.trigger_id, done=self._when_safe(receipt)
            )
        except SourceError:
            self._give_back(turn)
            raise
        self._pace.count_taken()
        self._pace.wait(self._stop)
        return True

    def _give_back(self, turn: Trigger) -> None:
        if turn is not UNASKED:
            self._triggers.put_back(turn)

    def _when_safe(self, receipt: Callable[[], Callable[[], None]] | None) -> Callable[[], None] | None:
        return partial(self._settle, receipt()) if receipt is not None else None

    def _settle(self, receipt: Callable[[], None]) -> None:
        """Called by whoever made the result safe. A picture that then cannot be moved is stated, no error of theirs."""
        try:
            receipt()
        except SourceError as error:
            if self._status.fault(FOLDER, str(error)):
                logger.warning("%s", error)
        else:
            if self._status.clear(FOLDER):
                logger.info("back: pictures of %s can be moved again", self._source.description)

    # what is reopened when it is lost

    def _run_endless(self, read: Callable[[], None]) -> None:
        first_backoff_s = min(FIRST_BACKOFF_S, self._config.reopen_max_s)
        backoff_s = first_backoff_s
        while not self._stop.is_set():
            opened_s = self._clock()
            try:
                with self._source:
                    read()
            except SourceError as error:
                self._state_lost(str(error))
            if self._clock() - opened_s > self._config.reopen_max_s:  # it ran well in between
                backoff_s = first_backoff_s
            self._stop.wait(backoff_s * random.uniform(0.75, 1.25))
            backoff_s = min(2 * backoff_s, self._config.reopen_max_s)

    def _read_live(self) -> None:
        began_s = self._clock()
        while not self._stop.is_set():
            try:
                image = self._source.read()
            except ImageError as error:
                self._pass_on(None, str(error), began_s)
                began_s = self._clock()
                continue
            if image is None:
                raise SourceError(f"{self._source.description}: ended")
            captured_s = self._clock()
            if isinstance(self._source, GrabberSource) and self._source.captured_monotonic_s is not None:
                captured_s = self._source.captured_monotonic_s  # it may have waited to be fetched
            self._state_alive()
            reason = self._judge(image)
            if reason is None:
                self._out.remember(image)
            self._pass_on(image, reason, began_s, captured_s)
            began_s = captured_s

    def _pass_on(
        self, image: np.ndarray | None, reason: str | None, began_s: float, captured_s: float | None = None
    ) -> None:
        """Puts a live picture, or the reason why it is none, for whoever asked before its exposure can have begun.

        Args:
            began_s: when the picture before it had come, or reading began.
            captured_s: when it came from the camera.
        """
        if self._paused:
            return
        triggered = self._config.trigger == "mqtt"
        if triggered:
            turns = self._triggers.take_until(began_s)
        elif self._pace.is_due:  # else it is more frames than the config's fps asks for
            self._pace.count_taken()
            turns = [UNASKED]
        else:
            turns = []
        for turn in turns:
            if reason is not None or image is None:
                self._out.fault(reason or "no picture", is_part=True, keep=triggered, trigger_id=turn.trigger_id)
            else:
                self._out.frame(image, keep=triggered, trigger_id=turn.trigger_id, captured_s=captured_s)

    def _judge(self, image: np.ndarray) -> str | None:
        """Why this picture is not to be inspected. A change of the stated health is said once."""
        if self._health is None:
            return None
        reason = self._health.judge(image, self._clock())
        stated = self._health.stated
        if stated != self._stated_health:
            self._stated_health = stated
            if stated is not None:
                logger.warning("%s: %s", self._source.description, stated)
                self._status.fault(PICTURE, stated, replace=True)
            else:
                logger.info("back: the pictures of %s are as they should be", self._source.description)
                self._status.clear(PICTURE)
        return reason

    def _state_alive(self) -> None:
        with self._lock:
            self._last_sign_s = self._clock()
            was_lost, self._lost = self._lost, None
        if was_lost is not None:
            logger.info("back: %s", self._source.description)
        self._status.clear(CAMERA)

    def _state_lost(self, reason: str) -> None:
        with self._lock:
            if self._lost is not None or self._stop.is_set():
                return
            self._lost = reason
            waiting = [] if self._source.lossless else self._triggers.take_until(float("inf"))
        logger.warning("lost: %s", reason)
        self._status.fault(CAMERA, reason)
        self._out.fault(f"camera lost: {reason}", is_part=False, keep=True)
        self._answer(waiting, f"camera lost: {reason}")
