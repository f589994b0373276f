"""Takes the newest pictures of an opened live source, and says which of them are none of a part."""

import logging
import threading
from collections import deque
from collections.abc import Callable

import numpy as np

from zsad_agent.capture.camera_status import DAMAGE, PICTURE, CameraStatus
from zsad_agent.capture.output import FrameOutput
from zsad_agent.capture.pace import Pace
from zsad_agent.capture.reconnect import Reconnector
from zsad_agent.capture.triggers import UNASKED, Triggers
from zsad_agent.picture_health import PictureHealth
from zsad_agent.sources import GrabberSource, Source
from zsad_core.errors import ImageError, SourceError

logger = logging.getLogger(__name__)

LATEST_PICTURES = 25  # among which damaged ones are counted
MANY_DAMAGED = 3


class LiveCapture:
    """For one thread.

    A damaged picture is a result, `unknown`: a part may have been in it that no other picture shows. Where many come,
    the camera is degraded until the latest pictures are all whole; those that are whole are inspected meanwhile.
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
    ) -> None:
        """Reads nothing yet."""
        self._source = source
        self._health = health
        self._desk = desk
        self._presence = presence
        self._pace = pace
        self._out = out
        self._status = status
        self._stop = stop
        self._clock = clock
        self._stated_health: str | None = None
        self._were_damaged: deque[bool] = deque(maxlen=LATEST_PICTURES)

    def read(self) -> None:
        """Reads an opened source until stopped.

        Raises:
            SourceError: it is lost.
        """
        began_s = self._clock()
        while not self._stop.is_set():
            try:
                image = self._source.read()
            except ImageError as error:
                self._count_damage(str(error))
                self._pass_on(None, str(error), began_s)
                began_s = self._clock()
                continue
            if image is None:
                raise SourceError(f"{self._source.description}: ended")
            captured_s = self._clock()
            if isinstance(self._source, GrabberSource) and self._source.captured_monotonic_s is not None:
                captured_s = self._source.captured_monotonic_s  # it may have waited to be fetched
            self._presence.sign()
            self._count_damage(None)
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
            image: uint8 BGR [H, W, 3].
            reason: None where it may be inspected.
            began_s: when the picture before it had come, or reading began.
            captured_s: when it came from the camera.
        """
        if self._desk.paused:
            return
        triggered = self._desk.triggered
        if triggered:
            turns = self._desk.turns_of(began_s)
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

    def _count_damage(self, damage: str | None) -> None:
        self._were_damaged.append(damage is not None)
        damaged = sum(self._were_damaged)
        if damage is not None and damaged >= MANY_DAMAGED:
            said = f"{MANY_DAMAGED} or more of {LATEST_PICTURES} pictures came damaged: {damage}"
            if self._status.fault(DAMAGE, said):
                logger.warning("%s", said)
        elif damaged == 0 and self._status.clear(DAMAGE):
            logger.info("back: the pictures of %s come whole", self._source.description)
