"""Takes every picture of files and of a watched folder, in order, as fast as the model inspects them."""

import logging
import threading
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from functools import partial

from zsad_agent.capture.camera_status import CAMERA, FOLDER
from zsad_agent.capture.parts import Parts
from zsad_agent.capture.triggers import UNASKED, Trigger
from zsad_agent.picture_health import unfit
from zsad_agent.sources import LOOK_EVERY_S, DamagedPicture, Picture, Receipt, ReceiptError
from zsad_core.errors import ImageError, SourceError
from zsad_core.types import Verdict

logger = logging.getLogger(__name__)

RETRY_S = 5.0  # between two attempts to move pictures that could not be moved
MOST_RETRIED = 20  # pictures per attempt
END_LOOK_S = 0.02  # between two checks at the end for results that have become safe


class Receipts:
    """The receipts of one source's pictures. For the thread that reads the source, with two exceptions.

    Any thread may call the function that `of` returns, and `expect_no_more`. Neither waits.
    """

    def __init__(self, parts: Parts) -> None:
        self._parts = parts
        self._outstanding = 0  # results that are not known to be safe
        self._safe: deque[Callable[[], None]] = deque()
        self._refused: deque[Callable[[], None]] = deque()  # retried at `_retry_s`
        self._retry_s = -float("inf")
        self._no_more = threading.Event()

    def of(self, receipt: Receipt | None) -> Callable[[Verdict], None] | None:
        """The function to call once the result is safe."""
        if receipt is None:
            return None
        self._outstanding += 1
        return lambda verdict: self._safe.append(partial(receipt, verdict))

    def settle(self) -> None:
        """Moves the pictures whose results are safe. A picture that cannot be moved is a stated fault and is retried.

        Raises:
            SourceError: the source is lost. The next call moves the rest.
        """
        while self._safe:
            self._try_first(self._safe)
            self._outstanding -= 1
        if self._refused and self._parts.clock() >= self._retry_s:
            self._retry_s = self._parts.clock() + RETRY_S
            for _ in range(min(len(self._refused), MOST_RETRIED)):
                self._try_first(self._refused)
        if not self._refused and self._parts.status.clear(FOLDER):
            logger.info("back: pictures of %s can be moved again", self._parts.source.description)

    def expect_no_more(self) -> None:
        """No further result will become safe."""
        self._no_more.set()

    def settle_rest(self) -> None:
        """Moves pictures until no result is outstanding, or none will become safe."""
        with suppress(SourceError):  # the next start inspects the remaining pictures again
            while self._outstanding and not self._no_more.wait(END_LOOK_S):
                self.settle()
            self.settle()

    def _try_first(self, receipts: deque[Callable[[], None]]) -> None:
        receipt = receipts[0]
        try:
            receipt()
        except ReceiptError as error:
            receipts.popleft()
            self._refused.append(receipt)
            if self._parts.status.fault(FOLDER, str(error)):
                logger.warning("%s", error)
                self._retry_s = self._parts.clock() + RETRY_S
        else:
            receipts.popleft()


class FiniteCapture:
    """Reads a finite source or a watched folder. For one thread."""

    def __init__(self, parts: Parts) -> None:
        """Opens nothing yet."""
        self._parts = parts
        self.receipts = Receipts(parts)
        self.failure: str | None = None  # why the source could not be read to its end
        self.unreadable = 0  # pictures that could not be decoded

    def run(self) -> None:
        """Reads until the end, or until stopped."""
        opened, stop = False, self._parts.stop
        try:
            while not stop.is_set():
                with self._parts.source as source:
                    opened = True
                    self._parts.status.clear(CAMERA)
                    taken = self._read_to_end()
                if not self._parts.config.loop or stop.is_set():
                    return
                if taken == 0:
                    raise SourceError(f"{source.description}: nothing to read, so it cannot loop")
        except SourceError as error:
            self.failure = str(error)
            self._parts.status.fault(CAMERA, self.failure)
            if opened:  # the remaining parts are not inspected, so a result must say it too
                self._parts.out.put(self.failure)

    def read_folder(self) -> None:
        """Reads pictures from an opened folder until stopped. Moves finished pictures also while paused."""
        stop, pace, triggers = self._parts.stop, self._parts.pace, self._parts.triggers
        while not stop.is_set():
            self.receipts.settle()
            taken = not triggers.paused and pace.is_due and self._take_next(UNASKED)
            triggers.find(self._parts.source.description)
            if taken:
                pace.wait(stop, LOOK_EVERY_S)
            else:
                stop.wait(LOOK_EVERY_S)

    def _read_to_end(self) -> int:
        taken = 0
        while (turn := self._parts.triggers.next_turn(self._parts.stop)) is not None:
            if not self._take_next(turn):
                break
            self._parts.pace.wait(self._parts.stop)
            taken += 1
        return taken

    def _take_next(self, turn: Trigger) -> bool:
        """Reads one picture and puts it, or a fault in its place. False when there was none."""
        item: Picture | str
        try:
            picture = self._parts.source.read()
            if picture is None:
                self._parts.triggers.give_back(turn)
                return False
            item, name, receipt = picture, picture.source_name, picture.receipt
            if finding := unfit(picture.image, self._parts.config.health):
                item = finding.reason
                logger.warning("%s: %s", self._parts.source.description, item)
            else:
                self._parts.out.remember(picture.image)
        except ImageError as error:
            logger.warning("%s", error)
            self.unreadable += 1
            item, name, receipt = str(error), None, None
            if isinstance(error, DamagedPicture):
                name, receipt = error.source_name, error.receipt
        except SourceError:
            self._parts.triggers.give_back(turn)
            raise
        done = self.receipts.of(receipt)
        self._parts.out.put(item, keep=True, trigger_id=turn.trigger_id, source_name=name, done=done)
        self._parts.pace.count_taken()
        return True
