"""Results on disk until the broker has acknowledged them."""

import contextlib
import fcntl
import logging
import os
import sqlite3
import threading
import time
from collections.abc import Callable, Collection, Sequence
from pathlib import Path
from types import TracebackType
from typing import Self, TypeVar

from zsad_agent import spool_rows
from zsad_agent.spool_rows import Entry
from zsad_core.errors import SpoolError

logger = logging.getLogger(__name__)

QUICK_CHECK_BYTES = 32_000_000  # a larger file is not read through at start; damage in it shows when it is read
WAL_BACKSTOP_PAGES = 4_000  # of 4 KiB: a commit checkpoints by itself only in a burst that `sync` does not keep up with
WAL_KEPT_BYTES = 4_000_000  # what the log shrinks to afterwards
RESCUE_BATCH = 1000  # entries in memory at a time while a damaged file is read

ResultT = TypeVar("ResultT")


class Spool:
    """A queue in a SQLite file, for one agent at a time. Any thread may call any method.

    What a failure can take: a killed process nothing, since `append` returns after the commit has reached the kernel.
    A power cut what was appended since the last `sync` (WAL with synchronous=NORMAL: commits are not fsynced, so that
    a slow disk does not hold up the line), but never the file's consistency. The publisher syncs every 2 s.

    Entries that were acknowledged and not yet deleted when the process died are sent once more, with the same ids.

    Raises (every method, and `with`):
        SpoolError: the file cannot be used: another agent holds it, it is no spool or of a newer agent, the disk is
            full or gives errors. The queue is as it was before the call.
    """

    def __init__(self, path: Path, *, max_results: int) -> None:
        self.path = path
        self._max_results = max_results
        self._lock = threading.RLock()
        self._sync_lock = threading.Lock()  # taken after `_lock`, never before it
        self._lock_fd: int | None = None
        self._db: sqlite3.Connection | None = None
        self._sync_db: sqlite3.Connection | None = None
        self._unsynced = False
        self._count = 0
        self._last_id = 0
        self._dropped = 0
        self._dropping = False

    def __enter__(self) -> Self:
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            self._lock_fd = os.open(f"{self.path}.lock", os.O_RDWR | os.O_CREAT, 0o640)
            fcntl.flock(self._lock_fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            self._release()
            if isinstance(error, BlockingIOError):
                raise SpoolError(
                    f"{self.path}: another agent uses this spool. Stop it, or give this one a spool.path of its own."
                ) from error
            raise SpoolError(f"{self.path}: the spool cannot be opened: {error.strerror}") from error
        try:
            self._run("opened", lambda db: None, writes=False)
        except BaseException:
            self._release()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        with contextlib.suppress(SpoolError):
            self.sync()
        self._release()

    @property
    def count(self) -> int:
        """Entries in the spool."""
        return self._count

    @property
    def last_id(self) -> int:
        """The id given out last; 0 before the first."""
        return self._last_id

    @property
    def dropped(self) -> int:
        """Entries given up since the start because the spool held `max_results`."""
        return self._dropped

    def new_id(self) -> int:
        with self._lock:
            self._last_id += 1
            return self._last_id

    def append(self, entries: Sequence[Entry]) -> None:
        """Stores all of `entries` or none; they are committed when this returns. The oldest go above `max_results`."""

        def work(db: sqlite3.Connection) -> int:
            spool_rows.insert(db, entries)
            excess = self._count + len(entries) - self._max_results
            return spool_rows.delete_oldest(db, excess) if excess > 0 else 0

        with self._lock:
            dropped = self._run("written", work)
            self._count += len(entries) - dropped
            self._dropped += dropped
            self._note_limit(dropped)

    def read_after(self, entry_id: int, limit: int) -> list[Entry]:
        """The `limit` oldest entries with an id above `entry_id`, in order."""
        return self._run("read", lambda db: spool_rows.select(db, entry_id, limit), writes=False)

    def delete(self, ids: Collection[int]) -> None:
        """Forgets entries; ids that are not there are passed over. One commit for all: call it with many."""
        with self._lock:
            deleted = self._run("written", lambda db: spool_rows.delete(db, ids))
            self._count -= deleted
            self._note_limit(0)

    def sync(self) -> None:
        """Makes what was appended safe against a power cut, and keeps the write-ahead log short.

        A passive checkpoint over a connection of its own: `append` goes on meanwhile, however slow the disk.
        """
        with self._sync_lock:
            if self._sync_db is None or not self._unsynced:
                return
            self._unsynced = False
            try:
                self._sync_db.execute("PRAGMA wal_checkpoint(PASSIVE)").fetchone()
            except sqlite3.Error as error:
                self._unsynced = True
                raise SpoolError(f"{self.path}: the spool cannot be synced to disk: {error}") from error

    def _run(self, done: str, work: Callable[[sqlite3.Connection], ResultT], *, writes: bool = True) -> ResultT:
        """`work`, in one transaction if it writes; a damaged file is set aside and `work` done on a new one."""
        with self._lock:
            try:
                try:
                    return self._attempt(work, writes)
                except sqlite3.DatabaseError as error:
                    if not spool_rows.is_damage(error):
                        raise
                    self._replace_damaged(" ".join(str(error).split()))
                    return self._attempt(work, writes)
            except sqlite3.Error as error:
                raise SpoolError(f"{self.path}: the spool cannot be {done}: {error}") from error

    def _attempt(self, work: Callable[[sqlite3.Connection], ResultT], writes: bool) -> ResultT:
        db = self._db or self._open()
        if not writes:
            return work(db)
        try:
            db.execute("BEGIN IMMEDIATE")
            outcome = work(db)
            db.execute("COMMIT")
        except BaseException:
            if db.in_transaction:
                with contextlib.suppress(sqlite3.Error):
                    db.execute("ROLLBACK")
            raise
        self._unsynced = True
        return outcome

    def _open(self) -> sqlite3.Connection:
        if self._lock_fd is None:
            raise SpoolError(f"{self.path}: the spool is closed")
        db = self._connect()
        try:
            db.execute("PRAGMA journal_mode=WAL").fetchone()
            db.execute("PRAGMA synchronous=NORMAL")
            db.execute(f"PRAGMA wal_autocheckpoint={WAL_BACKSTOP_PAGES}").fetchone()
            db.execute(f"PRAGMA journal_size_limit={WAL_KEPT_BYTES}").fetchone()
            self._check_format(db)
            if self.path.stat().st_size <= QUICK_CHECK_BYTES:
                found = db.execute("PRAGMA quick_check(1)").fetchone()[0]
                if found != "ok":
                    raise spool_rows.damage(found)
            count, last_id = db.execute("SELECT count(*), max(id) FROM results").fetchone()
            self._sync_db = self._connect()
        except BaseException:
            db.close()
            raise
        self._db, self._count = db, count
        self._last_id = max(self._last_id, last_id or 0)  # a new file goes on counting where a damaged one ended
        return db

    def _connect(self) -> sqlite3.Connection:
        return sqlite3.connect(self.path, timeout=5, isolation_level=None, check_same_thread=False)

    def _check_format(self, db: sqlite3.Connection) -> None:
        application_id = db.execute("PRAGMA application_id").fetchone()[0]
        version = db.execute("PRAGMA user_version").fetchone()[0]
        ours = application_id == spool_rows.APPLICATION_ID
        if ours and version == spool_rows.FORMAT_VERSION:
            return
        if ours:
            raise SpoolError(
                f"{self.path}: spool format {version}, this agent reads {spool_rows.FORMAT_VERSION}. Use the agent "
                "that wrote it, or move the file away."
            )
        if db.execute("SELECT count(*) FROM sqlite_master").fetchone()[0]:
            raise SpoolError(f"{self.path}: a SQLite file, but no spool of this agent. Name another spool.path.")
        db.execute("BEGIN IMMEDIATE")
        db.execute(spool_rows.CREATE)
        db.execute(f"PRAGMA application_id={spool_rows.APPLICATION_ID}")
        db.execute(f"PRAGMA user_version={spool_rows.FORMAT_VERSION}")
        db.execute("COMMIT")

    def _replace_damaged(self, damage: str) -> None:
        """Renames the file and its log, starts a new one, and brings over the entries that can still be read."""
        self._close_connections()
        aside = Path(f"{self.path}.corrupt-{time.strftime('%Y%m%dT%H%M%S')}-{time.monotonic_ns() % 1_000_000:06}")
        try:
            for suffix in ("-wal", "-shm", ""):
                with contextlib.suppress(FileNotFoundError):
                    Path(f"{self.path}{suffix}").rename(f"{aside}{suffix}")
        except OSError as error:
            raise SpoolError(f"{self.path}: damaged ({damage}) and cannot be set aside: {error.strerror}") from error
        self._count = 0
        logger.error("spool %s is damaged (%s): set aside as %s, a new one is started", self.path, damage, aside.name)
        self._open()
        rescued = 0
        batch: list[Entry] = []
        for entry in spool_rows.read_what_is_left(aside):
            self._last_id = max(self._last_id, entry.id)
            batch.append(entry)
            if len(batch) == RESCUE_BATCH:
                self.append(batch)
                rescued, batch = rescued + len(batch), []
        self.append(batch)
        rescued += len(batch)
        logger.warning("spool %s: %d results were read out of the damaged file and are kept", self.path, rescued)

    def _note_limit(self, dropped: int) -> None:
        if dropped and not self._dropping:
            self._dropping = True
            logger.error(
                "spool %s is full (spool.max_results = %d): the oldest results are given up",
                self.path,
                self._max_results,
            )
        elif self._dropping and self._count <= self._max_results * 0.9:
            self._dropping = False
            logger.warning("spool %s has room again; given up so far: %d results", self.path, self._dropped)

    def _close_connections(self) -> None:
        with self._sync_lock:
            for db in (self._sync_db, self._db):
                if db is not None:
                    with contextlib.suppress(sqlite3.Error):
                        db.close()
            self._db = self._sync_db = None

    def _release(self) -> None:
        with self._lock:
            self._close_connections()
            if self._lock_fd is not None:
                os.close(self._lock_fd)
                self._lock_fd = None
