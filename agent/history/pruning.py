"""Keeps the history within its limits of age and bytes. Deletes the oldest results in small steps."""

import logging
import shutil
import sqlite3
import time
from collections.abc import Callable
from pathlib import Path

from zsad_agent.evidence import SettledClock
from zsad_agent.history import rows
from zsad_agent.system import transaction

logger = logging.getLogger(__name__)

STEP_ROWS = 64  # deleted with one commit, which takes a few milliseconds
SHRINK_PAGES = 64  # returned to the disk with one step
SLACK_PAGES = 1024  # free pages kept for new results
LOW_DISK_BYTES = 50_000_000  # free on the disk: the file no longer grows, so that the spool has room
LOW_DISK_ROWS = 1000  # the newest results, a few MB, are kept even then
DAY_MS = 86_400_000
DAY_EVERY_S = 3600.0  # shortest time between two deletions of a day by age


class Pruner:
    """For the writer's thread. `step` does a little each time.

    Bytes: the results that were added first are deleted first, whatever their time says. Age: the clock must have had
    no step for an hour, and one day per hour is deleted at most, so a wrong clock deletes only as many days as hours
    pass until it is corrected. The counts for reports (`slots`) have the limit of age alone.
    """

    def __init__(
        self,
        path: Path,
        *,
        max_days: float,
        max_bytes: int,
        wall_s: Callable[[], float] = time.time,
        monotonic_s: Callable[[], float] = time.monotonic,
        disk_free: Callable[[Path], int] = lambda folder: shutil.disk_usage(folder).free,
    ) -> None:
        self._path = path
        self._max_ms, self._max_bytes = int(max_days * DAY_MS), max_bytes
        self._monotonic_s, self._disk_free = monotonic_s, disk_free
        self._clock = SettledClock(wall_s, monotonic_s)
        self._before_ms: int | None = None  # results that were captured earlier are too old
        self._next_day_s = monotonic_s()
        self.low_disk: str | None = None  # that the file may not grow; any thread may read it

    def step(self, db: sqlite3.Connection, added: int) -> bool:
        """Deletes a few results if a limit is exceeded.

        Args:
            db: without a transaction.
            added: number of results since the last step: more than these are deleted, so that the file cannot grow.

        Returns:
            Whether there may be more to delete.
        """
        page_bytes, pages, free = (
            db.execute(f"PRAGMA {name}").fetchone()[0] for name in ("page_size", "page_count", "freelist_count")
        )
        most, kept = self._max_bytes // page_bytes, 0
        if self._is_low():
            most, kept = min(most, pages - SLACK_PAGES // 8), LOW_DISK_ROWS
        if pages - free > most:
            query = "SELECT n FROM results WHERE n <= (SELECT max(n) FROM results) - ? ORDER BY n LIMIT ?"
            oldest = db.execute(query, (kept, max(STEP_ROWS, 2 * added))).fetchall()
            return bool(oldest) and self._delete(db, [n for (n,) in oldest])
        if free > SLACK_PAGES and (pages > most or free > pages // 2):
            for _ in range(SHRINK_PAGES):  # one by one: the module runs only the first step of a pragma without rows
                db.execute("PRAGMA incremental_vacuum(1)")
            return True
        return self._delete_aged(db)

    def _is_low(self) -> bool:
        low = self._disk_free(self._path.parent) < LOW_DISK_BYTES
        if low != (self.low_disk is not None):
            self.low_disk = (
                f"history {self._path}: the disk has less than {LOW_DISK_BYTES:,} bytes left, so new results "
                "replace the oldest. Free some space"
                if low
                else None
            )
            logger.warning("%s", self.low_disk or f"history {self._path} has space again")
        return low

    def _delete_aged(self, db: sqlite3.Connection) -> bool:
        """Deletes what is older than the limit of age, from the blocks that have such results."""
        now_s = self._clock.now_s()
        if now_s is None:
            return False
        self._advance(db, int(now_s * 1000) - self._max_ms)
        if self._before_ms is None:
            return False
        found = db.execute("SELECT min(block) FROM blocks WHERE min_ms < ?", (self._before_ms,)).fetchone()[0]
        if found is None:
            with transaction(db):
                slot = rows.slot_of(self._before_ms)
                db.execute("DELETE FROM slots WHERE slot < ?", (slot,))
            self._before_ms = None
            return False
        block = found << rows.BLOCK_BITS, ((found + 1) << rows.BLOCK_BITS) - 1
        query = "SELECT n FROM results WHERE n BETWEEN ? AND ? AND captured_ms < ? LIMIT ?"
        return self._delete(db, [n for (n,) in db.execute(query, (*block, self._before_ms, STEP_ROWS))])

    def _advance(self, db: sqlite3.Connection, limit_ms: int) -> None:
        """Sets `_before_ms` to the end of the oldest day that is too old, at most once in `DAY_EVERY_S`."""
        if self._before_ms is not None or self._monotonic_s() < self._next_day_s:
            return
        oldest = [
            db.execute("SELECT min(min_ms) FROM blocks").fetchone()[0],
            db.execute(f"SELECT min(slot) * {rows.SLOT_S * 1000} FROM slots").fetchone()[0],
        ]
        oldest_ms = min((ms for ms in oldest if ms is not None), default=limit_ms)
        if oldest_ms + rows.SLOT_S * 1000 <= limit_ms:
            self._before_ms = min(limit_ms, (oldest_ms // DAY_MS + 1) * DAY_MS)
            self._next_day_s = self._monotonic_s() + DAY_EVERY_S

    def _delete(self, db: sqlite3.Connection, numbers: list[int]) -> bool:
        with transaction(db):
            rows.delete(db, numbers)
            for block in {n >> rows.BLOCK_BITS for n in numbers}:
                first = block << rows.BLOCK_BITS
                left = db.execute(
                    "SELECT min(captured_ms), max(captured_ms) FROM results WHERE n BETWEEN ? AND ?",
                    (first, first + (1 << rows.BLOCK_BITS) - 1),
                ).fetchone()
                if left[0] is None:
                    db.execute("DELETE FROM blocks WHERE block = ?", (block,))
                else:
                    db.execute("UPDATE blocks SET min_ms = ?, max_ms = ? WHERE block = ?", (*left, block))
        return bool(numbers)
