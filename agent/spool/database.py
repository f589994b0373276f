"""The SQLite file of the spool: its lock, its checks for damage, and its transactions."""

import contextlib
import fcntl
import itertools
import logging
import os
import shutil
import sqlite3
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TypeVar

from zsad_agent.spool import rows
from zsad_agent.spool.clock import SpoolClock
from zsad_agent.spool.repair import committed_frames
from zsad_agent.spool.rows import Entry, State
from zsad_core.errors import SpoolError

logger = logging.getLogger(__name__)

QUICK_CHECK_BYTES = 32_000_000  # a larger file is not checked at start; its damage is found when it is read
BUSY_S = 0.25  # longest wait for another program's lock on the file: `accept` waits for it too
MAX_WAIT_S = 5.0  # a disk call that takes longer is a stated fault, and the calls that wait for it fail
WAL_PAGES = 4_000  # a commit does a checkpoint only in a burst that is too fast for `sync`
WAL_KEPT_BYTES = 4_000_000  # size of the log after such a burst
RESCUE_BATCH = 1000  # entries in memory at a time while a damaged file is read
MOST_RESCUES = 4  # attempts to read one damaged file: the watchdog may end the process during each of them
_RESCUE = "-rescue"  # suffix of a marker file beside a damaged file that is not completely read yet
_SUFFIXES = ("-wal", "-shm", "", _RESCUE)  # of the files that belong to one damaged file
KEPT_ASIDE = 5  # damaged files kept: a bad disk that damages every new file must not fill up with them
SHRINK_PAGES = 256  # pages returned to the disk at a time
_PASSING_CODES = (sqlite3.SQLITE_FULL, sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED)  # the connection stays usable

ResultT = TypeVar("ResultT")


class SpoolHeldError(SpoolError):
    """Another agent uses this spool."""


class SpoolFile:
    """Opened at first use, and again after a failure. Any thread may call any method; they run one at a time.

    A call that waits for one that hangs fails when the disk has not answered for `MAX_WAIT_S`.

    Raises (every method):
        SpoolError: the file cannot be used. It is unchanged. Its cause is the SQLite error, if there is one.
    """

    def __init__(self, path: Path, clock: SpoolClock, *, fsync_each: bool, wal_pages: int) -> None:
        self.path = path
        self.state = State()  # as committed; replaced as a whole, so it can be read without the lock
        self.bytes = 0  # size of the file and its write-ahead log; read without the lock
        self._wal = Path(f"{path}-wal")
        self._clock = clock
        self._fsync_each = fsync_each
        self._wal_pages = wal_pages
        self._lock = threading.Lock()
        self._sync_lock = threading.Lock()  # taken after `_lock`, never before it
        self._since_s: dict[threading.Lock, float] = {}  # locks that are held for a disk call -> since when, monotonic
        self._lock_fd: int | None = None
        self._in_use = False
        self._db: sqlite3.Connection | None = None
        self._sync_db: sqlite3.Connection | None = None
        self._unsynced = False
        self._clock_runs = False
        self._rescue_begun = False

    @property
    def waiting_s(self) -> float:
        """Seconds that the slowest call in progress has waited for the disk; 0 when there is none."""
        return max((time.monotonic() - since_s for since_s in list(self._since_s.values())), default=0.0)

    @property
    def hang_fault(self) -> str | None:
        """The fault of a disk that hangs; None when there is none."""
        return self._hang_text() if self.waiting_s > MAX_WAIT_S else None

    def start(self) -> None:
        """Opens the file. If that fails, every use tries again. Raises only `SpoolHeldError`."""
        self._in_use = True
        try:
            self.run(lambda db, state: None, writes=False)
        except SpoolHeldError:
            raise
        except SpoolError:  # the next use reports it
            pass

    def stop(self) -> None:
        with self._disk_call(self._lock):
            self._close_connections()
            self._in_use = False
            if self._lock_fd is not None:
                os.close(self._lock_fd)
                self._lock_fd = None

    def run(
        self, work: Callable[[sqlite3.Connection, State], ResultT], *, writes: bool = True, durable: bool = False
    ) -> ResultT:
        """Runs `work`, in one transaction if it writes. A damaged file is set aside and `work` runs on a new one.

        Args:
            work: gets the connection and the state, and updates the state together with the rows.
            durable: fsynced when this returns, if the fsync policy says so.
        """
        with self._disk_call(self._lock):
            done = "opened" if self._db is None else "written" if writes else "read"
            try:
                try:
                    return self._attempt(work, writes, durable)
                except sqlite3.DatabaseError as error:
                    if rows.error_code(error) not in rows.DAMAGE_CODES:
                        raise
                    self._set_aside(" ".join(str(error).split()))
                    return self._attempt(work, writes, durable)
            except (sqlite3.Error, OSError) as error:
                if rows.error_code(error) not in _PASSING_CODES:
                    self._close_connections()  # a connection to a read-only file stays read-only
                why = error.strerror if isinstance(error, OSError) else error
                raise SpoolError(f"{self.path}: the spool cannot be {done}: {why}") from error

    def sync(self) -> None:
        """Makes what was committed safe against a power cut, and keeps the write-ahead log short.

        Does a passive checkpoint over a separate connection: commits continue meanwhile, even on a slow disk.
        """
        with self._disk_call(self._sync_lock):
            if self._sync_db is None or not self._unsynced:
                return
            self._unsynced = False
            try:
                self._sync_db.execute("PRAGMA wal_checkpoint(PASSIVE)").fetchone()
            except sqlite3.Error as error:
                self._unsynced = True
                raise SpoolError(f"{self.path}: the spool cannot be synced to disk: {error}") from error
            self._measure()

    def _attempt(self, work: Callable[[sqlite3.Connection, State], ResultT], writes: bool, durable: bool) -> ResultT:
        db = self._db or self._open()
        if not self._rescue_begun:
            self._rescue_begun = True
            self._rescue()
        if not writes:
            return work(db, self.state)
        if self._fsync_each:
            db.execute(f"PRAGMA synchronous={'FULL' if durable else 'NORMAL'}")
        state = replace(self.state)
        with rows.transaction(db):
            outcome = work(db, state)
            state.oldest_accepted_s = rows.oldest_accepted_s(db)
            rows.write_state(db, state, self._clock.stamp())
        self.state = state
        self._unsynced = True
        self._measure()
        return outcome

    def _measure(self) -> None:
        sizes = 0
        for path in (self.path, self._wal):
            with contextlib.suppress(OSError):
                sizes += path.stat().st_size
        self.bytes = sizes

    @contextlib.contextmanager
    def _disk_call(self, lock: threading.Lock) -> Iterator[None]:
        """Holds the lock and records since when."""
        now_s = time.monotonic()
        if not lock.acquire(timeout=max(0.0, self._since_s.get(lock, now_s) + MAX_WAIT_S - now_s)):
            raise SpoolError(self._hang_text())
        self._since_s[lock] = time.monotonic()
        try:
            yield
        finally:
            del self._since_s[lock]
            lock.release()

    def _hang_text(self) -> str:
        return f"{self.path}: the disk has not answered for more than {MAX_WAIT_S:g} s"

    def _open(self) -> sqlite3.Connection:
        self._take_lock()
        in_log = committed_frames(self._wal)
        if in_log is None:
            self._keep_damaged_log()
        db = self._connect()
        try:
            if not self.path.stat().st_size:
                db.execute("PRAGMA auto_vacuum=INCREMENTAL")  # effective only in a file without tables
            db.execute("PRAGMA journal_mode=WAL").fetchone()
            db.execute("PRAGMA synchronous=NORMAL")
            _, sound, _ = db.execute("PRAGMA wal_checkpoint(PASSIVE)").fetchone()
            if in_log and 0 <= sound < in_log:
                self._keep_damaged_log()
            self._check_format(db)
            if self.path.stat().st_size <= QUICK_CHECK_BYTES:
                found = db.execute("PRAGMA quick_check(1)").fetchone()[0]
                if found != "ok":
                    raise rows.damage(found)
            state, stamp = rows.read_state(db)
            state.last_id = max(state.last_id, self.state.last_id)  # continues after the ids of a damaged file
            db.execute(f"PRAGMA wal_autocheckpoint={self._wal_pages}").fetchone()
            log_bytes = min(self._wal_pages * rows.PAGE_BYTES, WAL_KEPT_BYTES)
            db.execute(f"PRAGMA journal_size_limit={log_bytes}").fetchone()
            self._sync_db = self._connect()
        except BaseException:
            db.close()
            raise
        if not self._clock_runs:
            self._clock.go_on_from(stamp)
            self._clock_runs = True
        self._db, self.state = db, state
        self._measure()
        return db

    def _take_lock(self) -> None:
        if not self._in_use:
            raise SpoolError(f"{self.path}: the spool is closed")
        if self._lock_fd is None:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            self._lock_fd = os.open(f"{self.path}.lock", os.O_RDWR | os.O_CREAT, 0o640)
        try:
            fcntl.flock(self._lock_fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise SpoolHeldError(
                f"{self.path}: another agent uses this spool. Stop it, or give this agent its own state folder with "
                "STATE_DIRECTORY: commanded settings and bundles are there too."
            ) from error

    def _connect(self) -> sqlite3.Connection:
        return sqlite3.connect(self.path, timeout=BUSY_S, isolation_level=None, check_same_thread=False)

    def _check_format(self, db: sqlite3.Connection) -> None:
        application_id = db.execute("PRAGMA application_id").fetchone()[0]
        version = db.execute("PRAGMA user_version").fetchone()[0]
        ours = application_id == rows.APPLICATION_ID
        if ours and version == rows.FORMAT_VERSION:
            return
        if ours and version in rows.NEWER_VERSIONS:
            raise SpoolError(
                f"{self.path}: spool format {version}, this agent reads {rows.FORMAT_VERSION}. Use the agent "
                "that wrote it, or move the file away."
            )
        empty = not db.execute("SELECT count(*) FROM sqlite_master").fetchone()[0]
        if not empty and not (ours and version == 1):
            if {"id", "camera", "body", "crc32"} <= set(rows.columns(db, "results")):  # whatever its header says
                raise rows.damage(f"its header says application {application_id:#x}, format {version}")
            raise SpoolError(f"{self.path}: a SQLite file, but not a spool of this agent. Set another spool.path.")
        rows.prepare(db)
        if not empty:
            if self.path.stat().st_size <= QUICK_CHECK_BYTES:  # a larger file reuses its pages and does not shrink
                with contextlib.suppress(sqlite3.Error):
                    db.execute("PRAGMA auto_vacuum=INCREMENTAL")
                    db.execute("VACUUM")  # makes the line above effective
            logger.info("spool %s: upgraded from format 1 to %d", self.path, rows.FORMAT_VERSION)

    def _keep_damaged_log(self) -> None:
        """Copies the log: SQLite continues with its intact beginning and overwrites the rest."""
        aside = Path(f"{self._aside()}-wal")
        try:
            shutil.copyfile(self._wal, aside)
        except OSError:
            aside.unlink(missing_ok=True)
            raise
        said = "spool %s: its write-ahead log is damaged: the latest results may be lost. It is kept as %s"
        logger.error(said, self.path, aside.name)

    def _set_aside(self, damage: str) -> None:
        """Renames the damaged file and its log. The next attempt starts a new file and rescues the results."""
        self._close_connections()
        aside = self._aside()
        try:
            Path(f"{aside}{_RESCUE}").touch()
            for suffix in _SUFFIXES[:-1]:
                with contextlib.suppress(FileNotFoundError):
                    Path(f"{self.path}{suffix}").rename(f"{aside}{suffix}")
        except OSError as error:
            raise SpoolError(f"{self.path}: damaged ({damage}) and cannot be set aside: {error.strerror}") from error
        logger.error("spool %s is damaged (%s): set aside as %s, a new one is started", self.path, damage, aside.name)
        self._rescue_begun = False

    def _rescue(self) -> None:
        """Copies the results of damaged files that can still be read. Continues what an earlier process has begun."""
        for mark in sorted(self.path.parent.glob(f"{self.path.name}.corrupt-*{_RESCUE}")):
            aside = Path(str(mark).removesuffix(_RESCUE))
            tries = mark.stat().st_size
            if tries >= MOST_RESCUES:
                logger.error("spool %s: %s is not read again after %d attempts", self.path, aside.name, tries)
                mark.unlink()
                continue
            with mark.open("a") as file:
                file.write("x")  # one byte per attempt, written first: reading the file may end the process
            rescued, hindered = 0, ""
            entries = rows.read_what_is_left(aside)
            try:
                while batch := list(itertools.islice(entries, RESCUE_BATCH)):
                    self._attempt(partial(self._insert, batch), True, True)
                    rescued += len(batch)
            except sqlite3.Error as error:
                hindered = f"; the others stay there ({error})"
            said = "spool %s: %d results were read from the damaged file %s%s; its evidence pictures are not sent"
            logger.warning(said, self.path, rescued, aside.name, hindered)
            mark.unlink()

    def _insert(self, entries: list[Entry], db: sqlite3.Connection, state: State) -> None:
        state.results += rows.insert(db, entries, self._clock.now_s())
        state.last_id = max(state.last_id, *(entry.id for entry in entries))

    def _aside(self) -> Path:
        """A new name for a damaged file. Deletes the oldest damaged files if there are too many."""
        name = f"{self.path.name}.corrupt-"
        endings = (file.name.removeprefix(name).split("-") for file in self.path.parent.glob(f"{name}*-*"))
        for stamp in sorted({(day, number) for day, number, *_ in endings})[: -KEPT_ASIDE + 1]:
            for suffix in _SUFFIXES:
                self.path.with_name(f"{name}{'-'.join(stamp)}{suffix}").unlink(missing_ok=True)
        return self.path.with_name(f"{name}{time.strftime('%Y%m%dT%H%M%S')}-{time.monotonic_ns() % 1_000_000:06}")

    def _close_connections(self) -> None:
        with self._sync_lock:
            for db in (self._sync_db, self._db):
                if db is not None:
                    with contextlib.suppress(sqlite3.Error):
                        db.close()
            self._db = self._sync_db = None


def release_pages(db: sqlite3.Connection, state: State) -> None:
    """Returns `SHRINK_PAGES` free pages to the disk."""
    for _ in range(SHRINK_PAGES):  # one by one: the sqlite3 module runs only the first step of a pragma without rows
        db.execute("PRAGMA incremental_vacuum(1)")


def page_counts(db: sqlite3.Connection) -> tuple[int, int]:
    """Number of pages of the file, and of free pages."""
    pages = db.execute("PRAGMA page_count").fetchone()[0]
    return pages, db.execute("PRAGMA freelist_count").fetchone()[0]
