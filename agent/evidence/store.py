"""Pictures, overlays and results on disk, for people who examine rejects."""

import errno
import logging
import math
import threading
import time
from collections import Counter, deque
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import cv2
import numpy as np

from zsad_agent.config import EvidenceConfig
from zsad_agent.evidence import files as evidence_files
from zsad_agent.evidence.files import OVERLAY, PICTURE, RESULT, Place, try_writing
from zsad_agent.evidence.pruning import Pruner
from zsad_agent.messages import EvidenceStats, Result
from zsad_agent.system import Service
from zsad_core.picture import with_comment
from zsad_core.types import Verdict

logger = logging.getLogger(__name__)

QUEUE_BYTES = 64_000_000  # pictures that wait for the disk; a single picture may be larger
RESULT_BYTES = 4_000  # assumed size of a result in the queue
TIDY_S = 60.0  # between two checks of age and free disk
RETRY_S = 1.0  # before a camera's folder that cannot be written is tried again; results until then are left out
MAX_JPEG_SIDE_PX = 65_500  # limit of the format


@dataclass(frozen=True, slots=True)
class _Item:
    result: Result
    image_bgr: np.ndarray | None
    heatmap: bytes | None

    @property
    def weight(self) -> int:
        image = self.image_bgr.nbytes if self.image_bgr is not None else 0
        return RESULT_BYTES + image + len(self.heatmap or b"")


class EvidenceStore(Service):
    """One thread makes all disk calls: it writes and deletes.

    It keeps every `anomalous` and `unknown` result, and every `passes_every`-th pass of each camera. Each file appears
    complete, the JSON last. `files` has the names, `Pruner` the limits.

    No method raises or delays the inspection. A result that the disk cannot store is left out and counted. The reason
    is the `fault`, which is logged once. The next result is tried again.
    """

    name = "evidence"
    stop_s = 0.5

    def __init__(
        self,
        config: EvidenceConfig,
        folder: Path,
        *,
        queue_bytes: int = QUEUE_BYTES,
    ) -> None:
        """Does not access the disk yet. `folder` is created with the first set; it may contain other files."""
        self._config = config
        self._folder = folder
        self._queue_bytes = queue_bytes
        self._condition = threading.Condition()
        self._queue: deque[_Item] = deque()
        self._queued_bytes = 0
        self._closing = False
        self._give_up_s = math.inf
        self._overflowing = False
        self._passes: Counter[str] = Counter()  # by camera
        self._kept = self._dropped = 0
        self._faults: dict[str, tuple[str, float]] = {}  # camera, "" for the limits -> reason, time of the next attempt
        self._newest: dict[str, tuple[Place, int]] = {}  # camera -> the set that was tried last, and its bytes
        self._pruner = Pruner(config, folder, stop=self._must_end)
        self._thread = threading.Thread(target=self._run, name="zsad-evidence", daemon=True)

    def stop(self, deadline_s: float) -> None:
        """Writes the queue until then. Does not wait for a thread that hangs in a disk call."""
        with self._condition:
            self._closing, self._give_up_s = True, deadline_s
            self._condition.notify_all()
        self._wait(deadline_s + 0.1)
        with self._condition:
            if self._queue:
                logger.warning("evidence of %d results was not written before the stop", len(self._queue))
                self._dropped += len(self._queue)
                self._queue.clear()

    @property
    def fault(self) -> str | None:
        """Why evidence cannot be kept; None when there is no fault."""
        with self._condition:
            faults = [why for why, _ in self._faults.values()]
            return "; ".join(dict.fromkeys(filter(None, (*faults, self._pruner.starved)))) or None

    @property
    def stats(self) -> EvidenceStats:
        with self._condition:
            pruned, size = self._pruner.pruned, self._pruner.ledger.bytes
            return EvidenceStats(kept=self._kept, dropped=self._dropped, pruned=pruned, bytes=size)

    def keep(self, result: Result, image_bgr: np.ndarray | None, heatmap: bytes | None) -> None:
        """Queues a result if it is to be kept. Never waits for the disk.

        Args:
            result: its verdict says whether it is kept.
            image_bgr: uint8 [H, W, 3], not changed afterwards; None if there is no picture.
            heatmap: the published overlay, a JPEG.
        """
        if not self._is_wanted(result):
            return
        item = _Item(result, image_bgr, heatmap)
        with self._condition:
            if self._closing or (self._queue and self._queued_bytes + item.weight > self._queue_bytes):
                self._dropped += 1
                if not self._overflowing and not self._closing:
                    self._overflowing = True
                    logger.warning("evidence is left out: results come faster than %s can store them", self._folder)
                return
            self._queue.append(item)
            self._queued_bytes += item.weight
            self._condition.notify_all()

    def _is_wanted(self, result: Result) -> bool:
        if result.verdict is not Verdict.OK:
            return True
        self._passes[result.camera] += 1
        every = self._config.passes_every
        return every > 0 and self._passes[result.camera] % every == 0

    def _run(self) -> None:
        tidy_s = time.monotonic()
        while True:
            if time.monotonic() >= tidy_s and not self._closing:
                if self._attempt("", self._tidy):
                    self._try_again()
                tidy_s = time.monotonic() + self._pause_s()
            item = self._next()
            if item is not None:
                place = evidence_files.place_of(item.result)
                kept = self._attempt(place.camera, partial(self._write, place, item))
                with self._condition:
                    self._kept += kept
                    self._dropped += not kept
                if not kept:
                    tidy_s = min(tidy_s, time.monotonic() + RETRY_S)
            elif self._closing:
                return

    def _pause_s(self) -> float:
        return RETRY_S if self._faults or self._pruner.starved else TIDY_S

    def _try_again(self) -> None:
        """A disk that works again is seen without a further reject."""
        for camera in self._newest.keys() & self._faults.keys():
            self._attempt(camera, partial(try_writing, self._folder, *self._newest[camera]))

    def _next(self) -> _Item | None:
        with self._condition:
            self._condition.wait_for(lambda: self._queue or self._closing, self._pause_s())
            if not self._queue or self._must_end():
                return None
            item = self._queue.popleft()
            self._queued_bytes -= item.weight
            if self._overflowing and not self._queue:
                self._overflowing = False
                logger.warning("evidence keeps up again; left out so far: %d", self._dropped)
            return item

    def _must_end(self) -> bool:
        return time.monotonic() > self._give_up_s

    def _tidy(self) -> None:
        self._pruner.make_room(0)
        self._pruner.delete_aged()

    def _write(self, place: Place, item: _Item) -> None:
        self._newest[place.camera] = place, 0
        files: dict[str, bytes] = {}
        if item.image_bgr is not None:
            jpeg = _as_jpeg(item.image_bgr, self._config.jpeg_quality)
            files[PICTURE] = with_comment(jpeg, item.result.verdict)
        if item.heatmap is not None:
            files[OVERLAY] = item.heatmap
        files[RESULT] = item.result.encode() + b"\n"
        size = sum(map(len, files.values()))
        self._newest[place.camera] = place, size
        self._pruner.make_room(size)
        try:
            evidence_files.write_set(self._folder, place, files)
        except OSError as error:
            if error.errno not in (errno.ENOSPC, errno.EDQUOT):  # a quota or no inodes: free bytes do not show it
                raise
            self._pruner.replace_oldest(2 * size)
            evidence_files.write_set(self._folder, place, files)
        self._pruner.ledger.add(place.date, size)
        self._pruner.replaced()

    def _attempt(self, camera: str, action: Callable[[], object]) -> bool:
        """Runs the action. False if it failed, or failed less than `RETRY_S` ago and was not tried."""
        before = self._faults.get(camera)
        if before is not None and time.monotonic() < before[1]:
            return False
        try:
            action()
        except Exception as error:  # any error: the next set must be tried, and the inspection continues
            if isinstance(error, OSError):
                words, pause_s = error.strerror or str(error), RETRY_S
            else:  # only this set is affected
                words, pause_s = f"{type(error).__name__}: {error}", 0.0
            why = f"evidence in {self._folder}: {words}"
            with self._condition:
                self._faults[camera] = (why, time.monotonic() + pause_s)
            if before is None:
                logger.error("evidence%s lost: %s", camera and f" of {camera}", why)
            return False
        if before is not None:
            with self._condition:
                del self._faults[camera]
            logger.warning("evidence%s back; left out so far: %d", camera and f" of {camera}", self._dropped)
        return True


def _as_jpeg(image_bgr: np.ndarray, quality: int) -> bytes:
    longest = max(image_bgr.shape[:2])
    if longest > MAX_JPEG_SIDE_PX:
        height, width = (max(1, side * MAX_JPEG_SIDE_PX // longest) for side in image_bgr.shape[:2])
        image_bgr = cv2.resize(image_bgr, (width, height), interpolation=cv2.INTER_AREA)
    done, encoded = cv2.imencode(".jpg", image_bgr, [cv2.IMWRITE_JPEG_QUALITY, quality])
    if not done:
        height, width = image_bgr.shape[:2]
        raise ValueError(f"a picture of {width} x {height} cannot be written as a JPEG")
    return bytes(encoded)
