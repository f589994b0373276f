"""The SQLite file of the spool: its lock, its checks for damage, and its transactions."""

import contextlib
import fcntl
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

from zsad_agent.spool import repair as spool_wal
from zsad_agent.spool import rows as spool_rows
from zsad_agent.spool.clock import SpoolClock
from zsad_agent.spool.rows import Entry, State
from zsad_core.errors import SpoolError

logger = logging.getLogger(__name__)

QUICK_CHECK_BYTES = 32_000_000  # a larger file is not checked at start; its damage is found when it is read
BUSY_S = 0.25  # longest wait for another program's lock on the file: `accept` waits for it too
WAL_PAGES = 4_000  # a commit does a checkpoint only in a burst that is too fast for `sync`
WAL_KEPT_BYTES = 4_000_000  # size of the log after such a burst
RESCUE_BATCH = 1000  # entries in memory at a time while a damaged file is read
MOST_RESCUES = 3  # starts that try to read one damaged file: the watchdog may end each before it is done
_RESCUE = "-rescue"  # suffix of a marker file beside a damaged file that is not completely read yet
KEPT_ASIDE = 5  # damaged files kept: a bad disk that damages every new file must not fill up with them
SHRINK_PAGES = 256  # pages returned to the disk at a time
SLACK_PAGES = 1024  # free pages kept for new results

ResultT = TypeVar("ResultT")


class SpoolHeldError(SpoolError):
    """Another agent uses this spool."""


class SpoolFile:
    """Opened at first use, and again after a failure. Any thread may call any method.

    Raises (every method that says so):
        SpoolError: the file cannot be used. It is unchanged.
    """

    def __init__(self, path: Path, clock: SpoolClock, *, fsync_each: bool, wal_pages: int) -> None:
        self.path = path
        self.lock = threading.RLock()
        self.state = State()  # as committed; replaced as a whole, so it can be read without the lock
        self._measured = (path, Path(f"{path}-wal"))
        self.bytes = 0  # size of the file and its write-ahead log; read without the lock
        self._clock = clock
        self._fsync_each = fsync_each
        self._wal_pages = wal_pages
        self._sync_lock = threading.Lock()  # taken after `lock`, never before it
        self._lock_fd: int | None = None
        self._in_use = False
        self._db: sqlite3.Connection | None = None
        self._sync_db: sqlite3.Connection | None = None
        self._unsynced = False
        self._clock_runs = False
        self._looked_for_rescue = False
        self._since_s: dict[int, float] = {}  # threads that wait for the disk -> since when, monotonic

    @property
    def silent_s(self) -> float:
        """Seconds that the slowest call in progress has waited for the disk; 0 when there is none."""
        return max((time.monotonic() - since_s for since_s in list(self._since_s.values())), default=0.0)

    def start(self) -> None:
        """Opens the file. If that fails, every use tries again.

        Raises:
            SpoolHeldError: another agent uses it.
        """
        self._in_use = True
        try:
            self.run("opened", lambda db, state: None, writes=False)
        except SpoolHeldError:
            self._in_use = False
            raise
        except SpoolError:  # the next use reports it
            pass

    def stop(self) -> None:
        with self._at_the_disk(), self.lock:
            self._close_connections()
            self._in_use = False
            if self._lock_fd is not None:
                os.close(self._lock_fd)
                self._lock_fd = None

    def run(
        self,
        done: str,
        work: Callable[[sqlite3.Connection, State], ResultT],
        *,
        writes: bool = True,
        durable: bool = False,
    ) -> ResultT:
        """Runs `work`, in one transaction if it writes. A damaged file is set aside and `work` runs on a new one.

        Args:
            done: past participle for the error's text, such as "read".
            work: gets the connection and the state, and updates the state together with the rows.
            durable: fsynced when this returns, if the fsync policy says so.

        Raises:
            SpoolError: its cause is the SQLite error, if there is one.
        """
        with self._at_the_disk(), self.lock:
            if self._db is None:
                done = "opened"
            try:
                try:
                    if not self._looked_for_rescue:
                        self._db = self._db or self._open()
                        self._looked_for_rescue = True
                        self._go_on_with_rescue()
                    return self._attempt(work, writes, durable)
                except sqlite3.DatabaseError as error:
                    if not spool_rows.is_damage(error):
                        raise
                    self._replace_damaged(" ".join(str(error).split()))
                    return self._attempt(work, writes, durable)
            except sqlite3.Error as error:
                if not (spool_rows.is_full(error) or spool_rows.is_busy(error)):
                    self._close_connections()  # a connection to a read-only file stays read-only
                raise SpoolError(f"{self.path}: the spool cannot be {done}: {error}") from error
            except OSError as error:
                self._close_connections()
                raise SpoolError(f"{self.path}: the spool cannot be {done}: {error.strerror}") from error

    def sync(self) -> None:
        """Makes what was committed safe against a power cut, and keeps the write-ahead log short.

        Does a passive checkpoint over a separate connection: commits continue meanwhile, even on a slow disk.

        Raises:
            SpoolError
        """
        with self._at_the_disk(), self._sync_lock:
            if self._sync_db is None or not self._unsynced:
                return
            self._unsynced = False
            try:
                self._sync_db.execute("PRAGMA wal_checkpoint(PASSIVE)").fetchone()
            except sqlite3.Error as error:
                self._unsynced = True
                raise SpoolError(f"{self.path}: the spool cannot be synced to disk: {error}") from error
            self._measure()

    def shrink(self, pages_wanted: int) -> None:
        """Returns some free pages to the disk if the file has more than `pages_wanted` pages or is half empty.

        Raises:
            SpoolError
        """
        with self.lock:
            pages, free = self.run("read", lambda db, state: page_counts(db), writes=False)
            if free and (pages > pages_wanted or free > max(SLACK_PAGES, pages // 2)):
                self.run("shrunk", _release_pages)

    def _attempt(self, work: Callable[[sqlite3.Connection, State], ResultT], writes: bool, durable: bool) -> ResultT:
        db = self._db or self._open()
        if not writes:
            return work(db, self.state)
        if self._fsync_each:
            db.execute(f"PRAGMA synchronous={'FULL' if durable else 'NORMAL'}")
        state = replace(self.state)
        try:
            db.execute("BEGIN IMMEDIATE")
            outcome = work(db, state)
            state.oldest_accepted_s = spool_rows.oldest_accepted_s(db)
            spool_rows.write_state(db, state, self._clock.stamp())
            db.execute("COMMIT")
        except BaseException:
            if db.in_transaction:
                with contextlib.suppress(sqlite3.Error):
                    db.execute("ROLLBACK")
            raise
        self.state = state
        self._unsynced = True
        self._measure()
        return outcome

    def _measure(self) -> None:
        sizes = 0
        for path in self._measured:
            with contextlib.suppress(OSError):
                sizes += path.stat().st_size
        self.bytes = sizes

    @contextlib.contextmanager
    def _at_the_disk(self) -> Iterator[None]:
        """Records since when this thread waits for the disk, or for a thread that waits for it."""
        thread_id = threading.get_ident()
        if thread_id in self._since_s:  # within another call
            yield
            return
        self._since_s[thread_id] = time.monotonic()
        try:
            yield
        finally:
            del self._since_s[thread_id]

    def _open(self) -> sqlite3.Connection:
        self._take_lock()
        wal = Path(f"{self.path}-wal")
        in_log = spool_wal.committed_frames(wal)
        kept_log = self._copy_of_bad_log(wal) if in_log is None else None
        db = self._connect()
        try:
            if not self.path.stat().st_size:
                db.execute("PRAGMA auto_vacuum=INCREMENTAL")  # effective only in a file without tables
            db.execute("PRAGMA journal_mode=WAL").fetchone()
            db.execute("PRAGMA synchronous=NORMAL")
            _, sound, _ = db.execute("PRAGMA wal_checkpoint(PASSIVE)").fetchone()
            if in_log and 0 <= sound < in_log:
                kept_log = self._copy_of_bad_log(wal)
            self._check_format(db)
            if self.path.stat().st_size <= QUICK_CHECK_BYTES:
                found = db.execute("PRAGMA quick_check(1)").fetchone()[0]
                if found != "ok":
                    raise spool_rows.damage(found)
            state, stamp = spool_rows.read_state(db)
            state.last_id = max(state.last_id, self.state.last_id)  # continues after the ids of a damaged file
            db.execute(f"PRAGMA wal_autocheckpoint={self._wal_pages}").fetchone()
            db.execute(
                f"PRAGMA journal_size_limit={min(self._wal_pages * spool_rows.PAGE_BYTES, WAL_KEPT_BYTES)}"
            ).fetchone()
            self._sync_db = self._connect()
        except BaseException:
            db.close()
            raise
        if kept_log is not None:
            logger.error(
                "spool %s: its write-ahead log is damaged: the latest results may be lost. It is kept as %s",
                self.path,
                kept_log.name,
            )
        if not self._clock_runs:
            self._clock.go_on_from(stamp)
            self._clock_runs = True
        self._db, self.state = db, state
        self._measure()
        return db

    def _take_lock(self) -> None:
        if not self._in_use:
            raise SpoolError(f"{self.path}: the spool is closed")
        if self._lock_fd is not None:
            return
        self.path.parent.mkdir(parents=True, exist_ok=True)
        lock_fd = os.open(f"{self.path}.lock", os.O_RDWR | os.O_CREAT, 0o640)
        try:
            fcntl.flock(lock_fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            os.close(lock_fd)
            raise SpoolHeldError(
                f"{self.path}: another agent uses this spool. Stop it, or give this agent its own state folder with "
                "STATE_DIRECTORY: commanded settings and bundles are there too."
            ) from error
        except OSError:
            os.close(lock_fd)
            raise
        self._lock_fd = lock_fd

    def _connect(self) -> sqlite3.Connection:
        return sqlite3.connect(self.path, timeout=BUSY_S, isolation_level=None, check_same_thread=False)

    def _check_format(self, db: sqlite3.Connection) -> None:
        application_id = db.execute("PRAGMA application_id").fetchone()[0]
        version = db.execute("PRAGMA user_version").fetchone()[0]
        ours = application_id == spool_rows.APPLICATION_ID
        if ours and version == spool_rows.FORMAT_VERSION:
            return
        if ours and version in spool_rows.NEWER_VERSIONS:
            raise SpoolError(
                f"{self.path}: spool format {version}, this agent reads {spool_rows.FORMAT_VERSION}. Use the agent "
                "that wrote it, or move the file away."
            )
        empty = not db.execute("SELECT count(*) FROM sqlite_master").fetchone()[0]
        if not empty and not (ours and version == 1):
            if spool_rows.looks_like_a_spool(db):
                raise spool_rows.damage(f"its header says application {application_id:#x}, format {version}")
            raise SpoolError(f"{self.path}: a SQLite file, but not a spool of this agent. Set another spool.path.")
        spool_rows.prepare(db)
        if not empty:
            if self.path.stat().st_size <= QUICK_CHECK_BYTES:  # a larger file reuses its pages and does not shrink
                with contextlib.suppress(sqlite3.Error):
                    db.execute("PRAGMA auto_vacuum=INCREMENTAL")
                    db.execute("VACUUM")  # makes the line above effective
            logger.info("spool %s: upgraded from format 1 to %d", self.path, spool_rows.FORMAT_VERSION)

    def _copy_of_bad_log(self, wal: Path) -> Path:
        """Copies the log: SQLite continues with its intact beginning and overwrites the rest."""
        aside = Path(f"{self._aside()}-wal")
        try:
            shutil.copyfile(wal, aside)
        except OSError:
            aside.unlink(missing_ok=True)
            raise
        return aside

    def _replace_damaged(self, damage: str) -> None:
        """Renames the file and its log, starts a new file, and copies the results that can still be read."""
        self._close_connections()
        aside = self._aside()
        try:
            for suffix in ("-wal", "-shm", ""):
                with contextlib.suppress(FileNotFoundError):
                    Path(f"{self.path}{suffix}").rename(f"{aside}{suffix}")
        except OSError as error:
            raise SpoolError(f"{self.path}: damaged ({damage}) and cannot be set aside: {error.strerror}") from error
        logger.error("spool %s is damaged (%s): set aside as %s, a new one is started", self.path, damage, aside.name)
        before = self.state.results
        with contextlib.suppress(OSError):  # without it an interrupted rescue is not continued
            Path(f"{aside}{_RESCUE}").touch()
        self._open()
        rescued, hindered = self._rescue(aside)
        with contextlib.suppress(OSError):
            Path(f"{aside}{_RESCUE}").unlink()
        logger.warning(
            "spool %s: %d results were read from the damaged file and are kept%s%s; its evidence pictures are not",
            self.path,
            rescued,
            f", of {before}" if before else "",
            f", the rest stays in {aside.name} ({hindered})" if hindered else "",
        )

    def _go_on_with_rescue(self) -> None:
        """Continues to read a damaged file if an earlier process ended before it was done."""
        for mark in sorted(self.path.parent.glob(f"{self.path.name}.corrupt-*{_RESCUE}")):
            aside = Path(str(mark).removesuffix(_RESCUE))
            tries = mark.stat().st_size
            if tries >= MOST_RESCUES:
                logger.error("spool %s: given up reading %s after %d tries", self.path, aside.name, tries)
                mark.unlink()
                continue
            with mark.open("a") as file:
                file.write("x")  # one byte per try, written first: reading the file may end the process
            rescued, hindered = self._rescue(aside)
            said = "spool %s: continued to read the damaged %s: %d results are rescued%s"
            logger.warning(said, self.path, aside.name, rescued, f"; the rest stays ({hindered})" if hindered else "")
            mark.unlink()

    def _rescue(self, aside: Path) -> tuple[int, str | None]:
        """Copies the readable results. Returns how many, and why the others could not be copied, or None."""
        rescued = 0
        entries = spool_rows.read_what_is_left(aside)
        try:
            while batch := [entry for entry, _ in zip(entries, range(RESCUE_BATCH), strict=False)]:
                self._attempt(partial(self._insert, batch), True, True)
                rescued += len(batch)
        except sqlite3.Error as error:
            return rescued, str(error)
        return rescued, None

    def _insert(self, entries: list[Entry], db: sqlite3.Connection, state: State) -> None:
        state.results += spool_rows.insert(db, entries, self._clock.now_s())
        state.last_id = max(state.last_id, *(entry.id for entry in entries))

    def _aside(self) -> Path:
        """A new name for a damaged file. Deletes the oldest damaged files if there are too many."""
        name = f"{self.path.name}.corrupt-"
        old = sorted(
            {
                str(file).removesuffix("-wal").removesuffix("-shm").removesuffix(_RESCUE)
                for file in self.path.parent.glob(f"{name}*")
            }
        )
        for file in old[: -KEPT_ASIDE + 1]:
            for suffix in ("", "-wal", "-shm", _RESCUE):
                Path(f"{file}{suffix}").unlink(missing_ok=True)
        return self.path.parent / f"{name}{time.strftime('%Y%m%dT%H%M%S')}-{time.monotonic_ns() % 1_000_000:06}"

    def _close_connections(self) -> None:
        with self._sync_lock:
            for db in (self._sync_db, self._db):
                if db is not None:
                    with contextlib.suppress(sqlite3.Error):
                        db.close()
            self._db = self._sync_db = None


def _release_pages(db: sqlite3.Connection, state: State) -> None:
    for _ in range(SHRINK_PAGES):  # one by one: the sqlite3 module runs only the first step of a pragma without rows
        db.execute("PRAGMA incremental_vacuum(1)")


def page_counts(db: sqlite3.Connection) -> tuple[int, int]:
    """Number of pages of the file, and of free pages."""
    pages = db.execute("PRAGMA page_count").fetchone()[0]
    return pages, db.execute("PRAGMA freelist_count").fetchone()[0]
