"""Keeps the evidence folder within its limits of age, bytes and free disk. Deletes the oldest whole sets first."""

import errno
import logging
import math
import os
import time
from collections import Counter, deque
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import TypeVar

from zsad_agent.config import EvidenceConfig
from zsad_agent.evidence import files as evidence_files
from zsad_agent.evidence.files import EvidenceSet
from zsad_agent.system import Backoff

logger = logging.getLogger(__name__)
T = TypeVar("T")

DAY_S = 86_400.0
CLOCK_STEP_S = 600.0  # a larger step against the monotonic clock means that the clock was set
CLOCK_SETTLE_S = 3600.0  # no deletion by age for so long after the clock was set or the process started
DATE_EVERY_S = 3600.0  # shortest time between two deletions of a date by age
STARVED_SHARE = 0.1  # of `min_free_bytes`, which evidence may use after other programs have taken the rest
ROUNDING_BYTES = 16_384  # whole blocks of the files of a set
NO_HELP_S = 10.0, 3600.0  # pause after a deletion that did not help, at first and at most
WALK_AGAIN_S = 6 * 3600.0  # before a deletion an older count is made again, because people delete files too


class Ledger:
    """The bytes of evidence per date, and the order of deletion. For one thread.

    Dates are ordered by when they were written. A walk sorts them by calendar, with future dates first, because a wrong
    clock made them. Dates that this process writes come last, whatever its clock says. Only one date's sets are in
    memory at a time.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._bytes_of: dict[str, int] = {}  # by date, oldest first
        self._loaded = ""
        self._sets: deque[EvidenceSet] = deque()  # of the date `_loaded`
        self._held: set[tuple[str, str]] = set()  # cameras and dates that cannot be deleted

    @property
    def bytes(self) -> int:
        """Size of all evidence. Any thread may read it."""
        return sum(list(self._bytes_of.values()))  # a copy first: the writer may add a date meanwhile

    @property
    def dates(self) -> list[str]:
        return list(self._bytes_of)

    def walk(self, today: str, stop: Callable[[], bool]) -> None:
        """Counts the files on disk; `stop` ends it early. Unreadable folders are logged and not counted."""
        found: Counter[str] = Counter()
        for camera in evidence_files.cameras_in(self._folder):
            for day in self._readable(evidence_files.days_in, camera) or ():
                if not stop() and (sets := self._readable(evidence_files.sets_of, camera, day)) is not None:
                    found[day] += sum(found_set.size for found_set in sets)
        not_ours = sorted(found.keys() - self._bytes_of.keys(), key=lambda day: (day <= today, day))
        self._bytes_of = {day: found[day] for day in (*not_ours, *self._bytes_of) if day in found}
        self._loaded, self._sets = "", deque()

    def add(self, day: str, size: int) -> None:
        """Counts a set that was written. Its date becomes the newest."""
        self._bytes_of[day] = self._bytes_of.pop(day, 0) + size

    def first(self, day: str) -> EvidenceSet | None:
        """The oldest set of a date; None if it has none.

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

    def delete_first(self, day: str) -> bool:
        """Deletes the oldest set of a date. False if there is none that can be deleted.

        Raises:
            OSError: the disk gives errors or is read-only.
        """
        try:
            while (found := self.first(day)) is not None:
                if self._deleted(found):
                    self._sets.popleft()
                    self._bytes_of[day] = max(0, self._bytes_of[day] - found.size)
                    return True
        except PermissionError as error:  # a person changed the permissions of the date's folder
            logger.warning("evidence of %s in %s cannot be deleted: %s", day, self._folder, error.strerror)
            self._bytes_of.pop(day, None)
        return False

    def _deleted(self, found: EvidenceSet) -> bool:
        """False if a camera's sets of that date must not be deleted: they are no longer counted, others are deleted."""
        try:
            evidence_files.delete_set(self._folder, found)
        except PermissionError as error:
            camera, day = found.place.camera, found.place.date
            self._held.add((camera, day))
            self._loaded = ""
            said = "evidence %s/%s/%s cannot be deleted and is no longer counted: %s"
            logger.warning(said, self._folder, camera, day, error.strerror)
            return False
        return True

    def _readable(self, read: Callable[..., list[T]], *folder: str) -> list[T] | None:
        try:
            return read(self._folder, *folder)
        except OSError as error:
            logger.warning("evidence %s is not counted: %s", self._folder.joinpath(*folder), error.strerror)
            return None


class SettledClock:
    """The wall clock, valid when it had no step for `CLOCK_SETTLE_S`."""

    def __init__(self, wall_s: Callable[[], float], monotonic_s: Callable[[], float]) -> None:
        self._wall_s, self._monotonic_s = wall_s, monotonic_s
        self._since_s = monotonic_s()
        self._ahead_s = wall_s() - self._since_s

    def now_s(self) -> float | None:
        """Unix time, or None while it is not reliable. Call it at least every few minutes."""
        wall_s, monotonic_s = self._wall_s(), self._monotonic_s()
        step_s = wall_s - monotonic_s - self._ahead_s
        self._ahead_s += step_s
        if abs(step_s) > CLOCK_STEP_S:
            self._since_s = monotonic_s
            logger.warning("the clock was set by %+.0f s: nothing is deleted by age for an hour", step_s)
        return wall_s if monotonic_s - self._since_s >= CLOCK_SETTLE_S else None


class Pruner:
    """Deletes evidence above the limits. For the one thread that writes.

    The limits of bytes and free disk are checked before each set is written, whatever the clock says. The age limit
    needs a clock without a step for an hour, and deletes at most one whole date per hour: a wrong clock deletes only as
    many dates as hours pass until a person corrects it.

    If other programs fill the disk, evidence gives way until only its newest sets are left: `STARVED_SHARE` of
    `min_free_bytes`. From then on a new set replaces the oldest, and `starved` says so. If the other programs take the
    space of a deleted set at once, deletions become rare, so that the sets on disk stay.
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
        """Reads nothing yet; `folder` need not exist. `stop` is called regularly and ends a long walk or deletion."""
        self._config = config
        self._folder = folder
        self._stop = stop
        self._wall_s, self._monotonic_s = wall_s, monotonic_s
        self.ledger = Ledger(folder)
        self._clock = SettledClock(wall_s, monotonic_s)
        self._walked_s: float | None = None
        self._aged_date, self._next_date_s = "", monotonic_s()
        self._backoff, self._replace_again_s = Backoff(*NO_HELP_S), -math.inf
        self.starved: str | None = None  # that other programs have taken the disk; any thread may read it
        self.pruned = 0  # sets deleted since the start

    def make_room(self, needed: int) -> None:
        """Deletes until `needed` more bytes fit within all limits except age. The first call counts the files on disk.

        Raises:
            OSError: they cannot fit, or the disk gives errors.
        """
        config = self._config
        if needed > config.max_bytes:
            too_large = f"{needed} bytes for one result are more than evidence.max_bytes = {config.max_bytes}"
            raise OSError(errno.EFBIG, too_large)
        now_s = self._monotonic_s()
        is_full = self.ledger.bytes + needed > config.max_bytes
        if self._walked_s is None or (is_full and now_s - self._walked_s > WALK_AGAIN_S):
            self.ledger.walk(datetime.fromtimestamp(self._wall_s(), UTC).date().isoformat(), self._stop)
            self._walked_s = now_s
        _, size = self._disk()
        if config.min_free_bytes >= size:
            too_small = f"evidence.min_free_bytes = {config.min_free_bytes}, and the disk has {size}: lower it"
            raise OSError(errno.ENOSPC, too_small)
        self.delete(self.ledger.bytes + needed - config.max_bytes)
        share = int(STARVED_SHARE * config.min_free_bytes)
        self.delete(min(self._lacking(0), self.ledger.bytes - share))
        self._note_starved(self._lacking(0) > 0)
        if needed:
            excess = self._lacking(needed) if self.starved is None else self.ledger.bytes + needed - share
            excess = max(min(excess, self.ledger.bytes), needed + ROUNDING_BYTES - self._disk()[0])
            if excess > 0:
                self.replace_oldest(excess)

    def replace_oldest(self, size: int) -> None:
        """Deletes the oldest sets until `size` bytes are free for a newer one. Call `replaced` when that is written.

        Raises:
            OSError: the last deletion did not help, or the disk gives errors.
        """
        now_s = self._monotonic_s()
        if now_s < self._replace_again_s or not self.ledger.bytes:
            raise OSError(errno.ENOSPC, "the disk is full, and other programs take what evidence gives up")
        self._replace_again_s = now_s + self._backoff.next_s()
        self.delete(size)

    def replaced(self) -> None:
        """A set was written: deletions help."""
        self._backoff.reset()
        self._replace_again_s = -math.inf

    def _lacking(self, needed: int) -> int:
        """Bytes to delete, so that `min_free_bytes` are free beside `needed` more bytes; negative: none."""
        free, _ = self._disk()
        return self._config.min_free_bytes + needed - free

    def _note_starved(self, starved: bool) -> None:
        if starved == (self.starved is not None):
            return
        limit = self._config.min_free_bytes
        if starved:
            self.starved = (
                f"evidence in {self._folder}: other programs fill the disk: less than evidence.min_free_bytes = {limit}"
                " is free. Only the newest results are kept. Free some space"
            )
            logger.error("%s", self.starved)
        else:
            self.starved = None
            logger.warning("evidence in %s has space again", self._folder)

    def delete(self, size: int) -> None:
        """Deletes the oldest sets until `size` bytes are free.

        Raises:
            OSError: the disk gives errors or is read-only.
        """
        for day in self.ledger.dates:
            while size > 0 and not self._stop():
                before = self.ledger.bytes
                deleted = self.ledger.delete_first(day)
                size -= before - self.ledger.bytes  # includes sets that are no longer counted
                if not deleted:
                    break
                self.pruned += 1

    def delete_aged(self) -> None:
        """Deletes sets older than `max_days`, if the clock is reliable. Call it every minute.

        Raises:
            OSError: the disk gives errors or is read-only.
        """
        now_s = self._clock.now_s()
        if now_s is None:
            return
        oldest_s = now_s - self._config.max_days * DAY_S
        last_date = datetime.fromtimestamp(oldest_s, UTC).date().isoformat()
        for day in self.ledger.dates:
            if day > last_date:
                continue
            if day != self._aged_date:
                if self._monotonic_s() < self._next_date_s:
                    return
                self._aged_date, self._next_date_s = day, self._monotonic_s() + DATE_EVERY_S
            while (found := self.ledger.first(day)) and found.place.captured_s < oldest_s and not self._stop():
                if not self.ledger.delete_first(day):
                    break
                self.pruned += 1

    def _disk(self) -> tuple[int, int]:
        """Free bytes for this user, and all bytes, of the disk where the folder is or will be."""
        folder = self._folder.absolute()
        while not folder.exists() and folder != folder.parent:
            folder = folder.parent
        disk = os.statvfs(folder)
        return disk.f_bavail * disk.f_frsize, disk.f_blocks * disk.f_frsize
