"""Takes the newest pictures of an opened live source and reports those that cannot be inspected."""

import logging
import threading
from collections import deque
from collections.abc import Callable

import numpy as np

from zsad_agent.capture.camera_status import DAMAGE, PICTURE, CameraStatus
from zsad_agent.capture.output import FrameOutput
from zsad_agent.capture.pace import Pace, UnknownPace
from zsad_agent.capture.reconnect import Reconnector
from zsad_agent.capture.trigger_queue import Trigger
from zsad_agent.capture.triggers import UNASKED, Triggers
from zsad_agent.picture_health import PictureHealth
from zsad_agent.sources import Picture, Source
from zsad_core.errors import ImageError, SourceError

logger = logging.getLogger(__name__)

LATEST_PICTURES = 25  # damaged pictures are counted among so many
MANY_DAMAGED = 3


class LiveCapture:
    """Reads, checks and puts pictures. For one thread.

    A picture that cannot be inspected gives the result `unknown`: a part may be in it that no other picture shows. For
    a free-running camera `UnknownPace` limits the rate of these results. Every trigger gets one.

    If many pictures are damaged, the camera is degraded until the latest pictures are all good. Good pictures are
    inspected in the meantime.
    """

    def __init__(
        self,
        *,
        source: Source,
        health: PictureHealth,
        desk: Triggers,
        presence: Reconnector,
        pace: Pace,
        out: FrameOutput,
        status: CameraStatus,
        stop: threading.Event,
        clock: Callable[[], float],
        stale_after_s: float,
    ) -> None:
        """Reads nothing yet. A trigger that has waited for `stale_after_s` gets no picture."""
        self._source = source
        self._health = health
        self._desk = desk
        self._presence = presence
        self._pace = pace
        self._out = out
        self._status = status
        self._stop = stop
        self._clock = clock
        self._stale_after_s = stale_after_s
        self._unknowns = UnknownPace(clock)
        self.skipped = 0  # pictures that a newer one replaced before they were read from the camera's process
        self._stated_health: str | None = None
        self._were_damaged: deque[bool] = deque(maxlen=LATEST_PICTURES)

    def read(self) -> None:
        """Reads an opened source until stopped.

        Raises:
            SourceError: the source is lost.
        """
        began_s = self._clock()
        while not self._stop.is_set():
            try:
                picture = self._source.read()
            except ImageError as error:
                self._count_damage(str(error))
                self._pass_on(str(error), began_s)
                began_s = self._clock()
                continue
            if picture is None:
                raise SourceError(f"{self._source.description}: ended")
            self.skipped += picture.skipped
            self._presence.sign()
            self._count_damage(None)
            reason = self._judge(picture.image)
            if reason is None:
                self._out.remember(picture)
            self._pass_on(picture if reason is None else reason, began_s)
            began_s = picture.captured_monotonic_s  # it may be older than this read

    def _pass_on(self, item: Picture | str, began_s: float) -> None:
        """Puts a picture, or the reason why it cannot be inspected, for every trigger that came before its exposure.

        Args:
            item: a reason is put for each trigger; for a free-running camera `UnknownPace` limits the rate.
            began_s: when the previous picture arrived, or when reading began.
        """
        if isinstance(item, Picture):
            self._unknowns.count_good()
        if self._desk.paused:
            return
        triggered = self._desk.triggered
        for turn in self._turns_of_triggers(began_s) if triggered else self._turn_by_pace(item):
            if isinstance(item, Picture):
                self._out.frame(item, keep=triggered, trigger_id=turn.trigger_id)
            else:
                self._out.fault(item, is_part=True, keep=triggered, trigger_id=turn.trigger_id)

    def _turns_of_triggers(self, began_s: float) -> list[Trigger]:
        wait_s = self._stale_after_s
        self._desk.answer_waiting(f"no picture within {wait_s:g} s of the trigger", self._clock() - wait_s)
        return self._desk.turns_of(began_s)

    def _turn_by_pace(self, item: Picture | str) -> list[Trigger]:
        """One turn; none if the picture comes too early for the config's fps, or the next `unknown` is not due."""
        if not self._pace.is_due or (isinstance(item, str) and not self._unknowns.is_due):
            return []
        self._pace.count_taken()
        if isinstance(item, str):
            self._unknowns.count_reported()
        return [UNASKED]

    def _judge(self, image: np.ndarray) -> str | None:
        """Why this picture must not be inspected, or None. A change of the stated health is logged once."""
        reason = self._health.judge(image, self._clock())
        stated = self._health.stated
        if stated != self._stated_health:
            self._stated_health = stated
            if stated is not None:
                logger.warning("%s: %s", self._source.description, stated)
                self._status.fault(PICTURE, stated, replace=True)
            else:
                logger.info("back: the pictures of %s are good again", self._source.description)
                self._status.clear(PICTURE)
        return reason

    def _count_damage(self, damage: str | None) -> None:
        self._were_damaged.append(damage is not None)
        damaged = sum(self._were_damaged)
        if damage is not None and damaged >= MANY_DAMAGED:
            said = f"{MANY_DAMAGED} or more of {LATEST_PICTURES} pictures are damaged: {damage}"
            if self._status.fault(DAMAGE, said):
                logger.warning("%s", said)
        elif damaged == 0 and self._status.clear(DAMAGE):
            logger.info("back: the pictures of %s are no longer damaged", self._source.description)
