"""Takes every picture of files and of a watched folder, in order and at the model's pace."""

import logging
import threading
from collections.abc import Callable
from functools import partial

from zsad_agent.capture.camera_status import CAMERA, FOLDER, CameraStatus
from zsad_agent.capture.output import FrameOutput
from zsad_agent.capture.pace import Pace
from zsad_agent.capture.reconnect import Reconnector
from zsad_agent.capture.trigger_queue import Trigger
from zsad_agent.capture.triggers import Triggers
from zsad_agent.sources import LOOK_EVERY_S, FolderDropSource, Source
from zsad_core.errors import ImageError, SourceError

logger = logging.getLogger(__name__)

Receipt = Callable[[], Callable[[], None]]


class FiniteCapture:
    """For one thread."""

    def __init__(
        self,
        *,
        source: Source,
        loop: bool,
        desk: Triggers,
        pace: Pace,
        out: FrameOutput,
        status: CameraStatus,
        stop: threading.Event,
    ) -> None:
        """Opens nothing yet; `loop` starts the source again at its end."""
        self._source = source
        self._loop = loop
        self._desk = desk
        self._pace = pace
        self._out = out
        self._status = status
        self._stop = stop
        self.failure: str | None = None  # why the source could not be read to its end

    def run(self) -> None:
        """Reads until the end, or until stopped."""
        opened = False
        try:
            while not self._stop.is_set():
                with self._source:
                    opened = True
                    self._status.clear(CAMERA)
                    taken = self._read_to_end()
                if not self._loop or self._stop.is_set():
                    return
                if taken == 0:
                    raise SourceError(f"{self._source.description}: nothing to read, looping over it is no use")
        except SourceError as error:
            self.failure = str(error)
            self._status.fault(CAMERA, self.failure)
            if opened:  # parts that were to come are missing: said as a result too, not only in the log
                self._out.fault(self.failure, is_part=True)

    def read_drops(self, folder: FolderDropSource, presence: Reconnector) -> None:
        """Reads what comes into an opened folder, until stopped."""
        while (turn := self._desk.next_turn(self._stop)) is not None:
            if not self._take_next(turn, folder.receipt):
                self._stop.wait(LOOK_EVERY_S)
            presence.sign()

    def _read_to_end(self) -> int:
        taken = 0
        while (turn := self._desk.next_turn(self._stop)) is not None:
            if not self._take_next(turn):
                break
            taken += 1
        return taken

    def _take_next(self, turn: Trigger, receipt: Receipt | None = None) -> bool:
        """Reads one picture and puts it, or the fault in its place. False when there was none."""
        try:
            image = self._source.read()
            if image is None:
                self._desk.give_back(turn)
                return False
            self._out.remember(image)
            self._out.frame(image, keep=True, trigger_id=turn.trigger_id, done=self._when_safe(receipt))
        except ImageError as error:
            logger.warning("%s", error)
            self._out.fault(
                str(error), is_part=True, keep=True, trigger_id=turn.trigger_id, done=self._when_safe(receipt)
            )
        except SourceError:
            self._desk.give_back(turn)
            raise
        self._pace.count_taken()
        self._pace.wait(self._stop)
        return True

    def _when_safe(self, receipt: Receipt | None) -> Callable[[], None] | None:
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
