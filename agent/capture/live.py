"""Takes the newest pictures of an opened live source and reports those that cannot be inspected."""

import logging
from collections import deque

import numpy as np

from zsad_agent.capture.camera_status import DAMAGE, PICTURE
from zsad_agent.capture.pace import UnknownPace
from zsad_agent.capture.parts import Parts
from zsad_agent.capture.silence import Silence
from zsad_agent.picture_health import PictureHealth
from zsad_agent.sources import Picture
from zsad_core.errors import ImageError, SourceError

logger = logging.getLogger(__name__)

LATEST_PICTURES = 25  # damaged pictures are counted among so many
MANY_DAMAGED = 3


class LiveCapture:
    """Reads, checks and puts pictures. For one thread.

    A picture that cannot be inspected gives the result `unknown`: a part may be in it that no other picture shows. For
    a free-running camera `UnknownPace` limits the rate of these results. Every trigger, also one of hardware, gets one.

    If many pictures are damaged, the camera is degraded until the latest pictures are all good. Good pictures are
    inspected in the meantime.
    """

    def __init__(self, parts: Parts, health: PictureHealth) -> None:
        """Reads nothing yet."""
        self._parts = parts
        self._health = health
        self._unknowns = UnknownPace(parts.clock)
        self._is_a_part = parts.config.each_picture_is_a_part
        self._were_damaged: deque[bool] = deque(maxlen=LATEST_PICTURES)
        self.silence = Silence(parts.clock)
        self.skipped = 0  # pictures that a newer one replaced before they were read from the camera's process

    def read(self) -> None:
        """Reads an opened source until stopped.

        Raises:
            SourceError: the source is lost.
        """
        try:
            self._read()
        finally:
            self.silence.end()

    def _read(self) -> None:
        source, clock = self._parts.source, self._parts.clock
        began_s = damaged_s = clock()
        while not self._parts.stop.is_set():
            try:
                picture = source.read()
            except ImageError as error:
                self.silence.note_picture()
                self._count_damage(str(error))
                self._pass_on(str(error), max(began_s, damaged_s))
                damaged_s = clock()  # not `began_s`: good frames may have been exposed before this one was given up
                continue
            if picture is None:
                raise SourceError(f"{source.description}: ended")
            self.silence.note_picture()
            self.skipped += picture.skipped
            self._parts.triggers.find(source.description)
            for _ in range(min(picture.damaged, LATEST_PICTURES)):
                self._count_damage(picture.damage)
            for _ in range(min(picture.skipped - picture.damaged + 1, LATEST_PICTURES)):
                self._count_damage(None)
            reason = self._judge(picture.image)
            if reason is None:
                self._parts.out.remember(picture.image)
            self._pass_on(picture if reason is None else reason, began_s)
            began_s = picture.captured_monotonic_s  # it may be older than this read

    def _pass_on(self, item: Picture | str, began_s: float) -> None:
        """Puts a picture, or the reason why it cannot be inspected, for every trigger that came before its exposure.

        `UnknownPace` limits the reasons of a free-running camera. `began_s`: when the previous picture arrived, or when
        reading began.
        """
        triggers = self._parts.triggers
        if isinstance(item, Picture):
            self._unknowns.count_good()
        if triggers.paused:
            return
        if triggers.triggered:
            for turn in triggers.turns(began_s, wait_s=self._parts.config.stale_after_s):
                self._parts.out.put(item, keep=True, trigger_id=turn.trigger_id)
        elif self._parts.pace.is_due and (isinstance(item, Picture) or self._is_a_part or self._unknowns.take()):
            self._parts.pace.count_taken()
            self._parts.out.put(item)

    def _judge(self, image: np.ndarray) -> str | None:
        """Why this picture must not be inspected, or None. A change of the stated health is logged once."""
        reason = self._health.judge(image, self._parts.clock())
        stated = self._health.stated
        if stated is None:
            self._clear(PICTURE, "good again")
        elif self._parts.status.fault(PICTURE, stated, replace=True):
            logger.warning("%s: %s", self._parts.source.description, stated)
        return reason

    def _count_damage(self, damage: str | None) -> None:
        self._were_damaged.append(damage is not None)
        damaged = sum(self._were_damaged)
        if damage is not None and damaged >= MANY_DAMAGED:
            reason = f"{MANY_DAMAGED} or more of {LATEST_PICTURES} pictures are damaged: {damage}"
            if self._parts.status.fault(DAMAGE, reason):
                logger.warning("%s", reason)
        elif damaged == 0:
            self._clear(DAMAGE, "no longer damaged")

    def _clear(self, part: str, again: str) -> None:
        if self._parts.status.clear(part):
            logger.info("back: the pictures of %s are %s", self._parts.source.description, again)
