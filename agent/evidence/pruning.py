"""Keeps the folder of evidence within its limits of age, bytes and free disk, oldest first and by whole sets."""

import errno
import logging
import os
import time
from collections import deque
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

from zsad_agent.config import EvidenceConfig
from zsad_agent.evidence import files as evidence_files
from zsad_agent.evidence.files import EvidenceSet

logger = logging.getLogger(__name__)

DAY_S = 86_400.0
CLOCK_STEP_S = 600.0  # the clock that moves so far against the monotonic one was set
CLOCK_SETTLE_S = 3600.0  # a clock that was just set, or a process just started, deletes nothing for its age so long
DATE_EVERY_S = 3600.0  # longest rate at which whole dates go for their age
WALK_AGAIN_S = 6 * 3600.0  # people delete things too; the sum is made anew before a deletion when it is so old


class Ledger:
    """How many bytes of evidence there are of each date, and which sets come first. For one thread.

    The dates are in the order in which they were written: as the calendar has them at a walk, dates ahead of today
    first, since a wrong clock made them; what this process writes goes last whatever its clock says. One date's sets
    are in memory at a time.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._bytes_of: dict[str, int] = {}  # by date, oldest first
        self._loaded = ""
        self._sets: deque[EvidenceSet] = deque()  # of the date `_loaded`
        self._held: set[tuple[str, str]] = set()  # cameras and dates of which nothing can be deleted

    @property
    def bytes(self) -> int:
        """Any thread may ask."""
        return sum(list(self._bytes_of.values()))  # a copy first: the writer may add a date meanwhile

    @property
    def dates(self) -> list[str]:
        return list(self._bytes_of)

    def walk(self, today: str, stop: Callable[[], bool]) -> None:
        """Counts what is there; `stop` ends it early. Folders that cannot be read are said and not counted."""
        found: dict[str, int] = {}
        written = self._bytes_of
        for camera, day in self._camera_days():
            if stop():
                break
            try:
                sets = evidence_files.sets_of(self._folder, camera, day)
            except OSError as error:
                logger.warning("evidence %s/%s/%s is not counted: %s", self._folder, camera, day, error.strerror)
                continue
            found[day] = found.get(day, 0) + sum(found_set.size for found_set in sets)
        ahead = [day for day in found if day > today and day not in written]
        rest = [day for day in found if day <= today and day not in written]
        order = [*sorted(ahead), *sorted(rest), *(day for day in written if day in found)]
        self._bytes_of = {day: found[day] for day in order}
        self._loaded, self._sets = "", deque()

    def add(self, day: str, size: int) -> None:
        """A set was written. Its date is the newest from now on."""
        self._bytes_of[day] = self._bytes_of.pop(day, 0) + size

    def first(self, day: str) -> EvidenceSet | None:
        """The oldest set of a date, or None when it has none any more.

        Raises:
            OSError: the folder cannot be read.
        """
        if self._loaded != day or not self._sets:
            cameras = [name for name in evidence_files.cameras_in(self._folder) if (name, day) not in self._held]
            sets = [found for camera in cameras for found in evidence_files.sets_of(self._folder, camera, day)]
            self._loaded, self._sets = day, deque(sorted(sets, key=lambda found: found.place.stem))
            self._bytes_of[day] = sum(found.size for found in sets)
        if not self._sets:
            self._bytes_of.pop(day, None)
            evidence_files.delete_empty_day(self._folder, day)
            return None
        return self._sets[0]

    def delete_first(self, day: str) -> int | None:
        """Deletes the oldest set of a date and returns its bytes; None when there was none that may be deleted.

        Raises:
            OSError: the disk gives errors or is read-only.
        """
        try:
            while (found := self.first(day)) is not None:
                if self._deleted(found):
                    self._sets.popleft()
                    self._bytes_of[day] = max(0, self._bytes_of[day] - found.size)
                    return found.size
        except PermissionError as error:  # somebody took the date's folder into their own hands
            logger.warning("evidence of %s in %s cannot be deleted: %s", day, self._folder, error.strerror)
            self._bytes_of.pop(day, None)
        return None

    def _deleted(self, found: EvidenceSet) -> bool:
        """False where a camera's sets of that date may not be deleted: they count no more, the others must still go."""
        try:
            evidence_files.delete_set(self._folder, found)
        except PermissionError as error:
            camera, day = found.place.camera, found.place.date
            self._held.add((camera, day))
            self._loaded = ""
            said = "evidence %s/%s/%s cannot be deleted, and counts no more: %s"
            logger.warning(said, self._folder, camera, day, error.strerror)
            return False
        return True

    def _camera_days(self) -> list[tuple[str, str]]:
        pairs = []
        for camera in evidence_files.cameras_in(self._folder):
            try:
                pairs += [(camera, day) for day in evidence_files.days_in(self._folder, camera)]
            except OSError as error:
                logger.warning("evidence %s/%s is not counted: %s", self._folder, camera, error.strerror)
        return pairs


class SettledClock:
    """The wall clock, once it has gone evenly for `CLOCK_SETTLE_S`."""

    def __init__(self, wall_s: Callable[[], float], monotonic_s: Callable[[], float]) -> None:
        self._wall_s, self._monotonic_s = wall_s, monotonic_s
        self._since_s = monotonic_s()
        self._ahead_s = wall_s() - self._since_s

    def now_s(self) -> float | None:
        """Unix time, or None while it is not to be relied on. To be called at least every few minutes."""
        wall_s, monotonic_s = self._wall_s(), self._monotonic_s()
        step_s = wall_s - monotonic_s - self._ahead_s
        self._ahead_s += step_s
        if abs(step_s) > CLOCK_STEP_S:
            self._since_s = monotonic_s
            logger.warning("the clock was set by %+.0f s: no evidence is deleted for its age for an hour", step_s)
        return wall_s if monotonic_s - self._since_s >= CLOCK_SETTLE_S else None


class Pruner:
    """The limits. For the one thread that writes.

    Bytes and free disk are kept before each set is written, whatever the clock says. Age is judged by a clock that has
    gone evenly for an hour, and then at most one whole date goes in an hour, so that a clock that is set wrong costs as
    many dates as hours pass before somebody sees it.

    Evidence gives way to whatever else fills the disk, down to nothing; except where `min_free_bytes` asks for more
    than the disk has at all.
    """

    def __init__(
        self,
        config: EvidenceConfig,
        folder: Path,
        *,
        stop: Callable[[], bool] = lambda: False,
        wall_s: Callable[[], float] = time.time,
        monotonic_s: Callable[[], float] = time.monotonic,
    ) -> None:
        """Reads nothing yet.

        Args:
            config: the limits.
            folder: of all evidence; need not exist.
            stop: asked now and then; ends a long walk or deletion.
            wall_s: Unix time.
            monotonic_s: monotonic seconds.
        """
        self._config = config
        self._folder = folder
        self._stop = stop
        self._wall_s, self._monotonic_s = wall_s, monotonic_s
        self._ledger = Ledger(folder)
        self._clock = SettledClock(wall_s, monotonic_s)
        self._walked_s: float | None = None
        self._aged_date, self._next_date_s = "", monotonic_s()
        self.pruned = 0  # sets deleted since the start

    @property
    def bytes(self) -> int:
        return self._ledger.bytes

    def add(self, day: str, size: int) -> None:
        """A set was written."""
        self._ledger.add(day, size)

    def make_room(self, needed: int) -> None:
        """Deletes until `needed` bytes more keep every limit but age. The first time, counts what is there.

        Raises:
            OSError: they cannot; or the disk gives errors.
        """
        config = self._config
        if needed > config.max_bytes:
            raise OSError(
                errno.EFBIG, f"{needed} bytes for one result are more than evidence.max_bytes = {config.max_bytes}"
            )
        if self._walked_s is None or (self._ledger.bytes + needed > config.max_bytes and self._is_old(self._walked_s)):
            self._walk()
        free, size = self._disk()
        if config.min_free_bytes >= size:
            raise OSError(
                errno.ENOSPC, f"evidence.min_free_bytes = {config.min_free_bytes}, and the disk has {size}: lower it"
            )
        self.delete(max(self._ledger.bytes + needed - config.max_bytes, config.min_free_bytes + needed - free))
        free, _ = self._disk()
        if free - needed < config.min_free_bytes and self._ledger.bytes == 0:
            raise OSError(
                errno.ENOSPC, f"the disk has less than evidence.min_free_bytes = {config.min_free_bytes} free"
            )

    def delete(self, size: int) -> None:
        """Deletes the oldest sets until `size` bytes are free.

        Raises:
            OSError: the disk gives errors or is read-only.
        """
        for day in self._ledger.dates:
            while size > 0 and not self._stop():
                before = self._ledger.bytes
                deleted = self._ledger.delete_first(day)
                size -= before - self._ledger.bytes  # and not what was deleted alone: some may count no more
                if deleted is None:
                    break
                self.pruned += 1

    def delete_aged(self) -> None:
        """Deletes what is older than `max_days`, as far as the clock may be relied on. To be called every minute.

        Raises:
            OSError: the disk gives errors or is read-only.
        """
        now_s = self._clock.now_s()
        if now_s is None:
            return
        oldest_s = now_s - self._config.max_days * DAY_S
        last_date = datetime.fromtimestamp(oldest_s, UTC).date().isoformat()
        for day in self._ledger.dates:
            if day > last_date:
                continue
            if day != self._aged_date:
                if self._monotonic_s() < self._next_date_s:
                    return
                self._aged_date, self._next_date_s = day, self._monotonic_s() + DATE_EVERY_S
            while (found := self._ledger.first(day)) and found.place.captured_s < oldest_s and not self._stop():
                if self._ledger.delete_first(day) is None:
                    break
                self.pruned += 1

    def _walk(self) -> None:
        self._ledger.walk(datetime.fromtimestamp(self._wall_s(), UTC).date().isoformat(), self._stop)
        self._walked_s = self._monotonic_s()

    def _is_old(self, walked_s: float) -> bool:
        return self._monotonic_s() - walked_s > WALK_AGAIN_S

    def _disk(self) -> tuple[int, int]:
        """Bytes that are free for us, and in all, on the disk where the folder is or will be."""
        folder = self._folder.absolute()
        while not folder.exists() and folder != folder.parent:
            folder = folder.parent
        disk = os.statvfs(folder)
        return disk.f_bavail * disk.f_frsize, disk.f_blocks * disk.f_frsize
