"""The SQLite file of the spool: its checks for damage and for other programs, and its transactions."""

import contextlib
import logging
import sqlite3
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TypeVar

from zsad_agent.spool import repair, rows
from zsad_agent.spool.clock import DiskCalls, SpoolClock
from zsad_agent.spool.given_up import Expected, Newest
from zsad_agent.spool.held_file import Change, HeldFile, SpoolHeldError
from zsad_agent.spool.rows import Entry, State
from zsad_agent.system import DAMAGE_CODES, open_sqlite, transaction
from zsad_core.errors import SpoolError

logger = logging.getLogger(__name__)

QUICK_CHECK_BYTES = 32_000_000  # a larger file is not checked at start; its damage is found when it is read
WAL_PAGES = 4_000  # a commit does a checkpoint only in a burst that is too fast for `sync`
WAL_KEPT_BYTES = 4_000_000  # size of the log after such a burst
INCIDENT_S = 10.0  # a file that was removed or replaced is stated for so long after its results were rescued,
LOSS_S = 60.0  # and for so long if some are lost

_SET_ASIDE = {**dict.fromkeys(DAMAGE_CODES, repair.CORRUPT), sqlite3.SQLITE_CONSTRAINT: repair.FOUND}
_UNREADABLE = (sqlite3.SQLITE_IOERR_READ, sqlite3.SQLITE_IOERR_SHORT_READ, *DAMAGE_CODES)

ResultT = TypeVar("ResultT")


class SpoolFile:
    """Opened at first use, and again after a failure. Any thread may call any method; they run one at a time.

    A call that waits for one that hangs fails when the disk has not answered for `MAX_WAIT_S`.

    Before and after every transaction the file at the path is compared with the open one. If it was removed, renamed or
    replaced, the content of the open file is copied to a new file at the path. Results of a file that was found there
    are added with new ids. In the transaction the state row must be the one that this object wrote last.
    `incident` says what happened.

    Raises (every method):
        SpoolError: the file cannot be used. It is unchanged. Its cause is the SQLite error, if there is one.
    """

    def __init__(
        self,
        path: Path,
        clock: SpoolClock,
        *,
        fsync_each: bool,
        wal_pages: int,
        reserve: Callable[[int, State], int],
        on_lost: Callable[[int], None],
    ) -> None:
        self.path = path
        self.imports = 0  # how often results were added that are older than the latest one, or of another file
        self.adrift = False  # the open file is not at the path, and its content could not be copied there
        self.state = State()  # as committed; replaced as a whole, so it can be read without the lock
        self.newest = Newest()
        self.bytes = 0  # size of the file and its write-ahead log; read without the lock
        self._wal = Path(f"{path}-wal")
        self._clock = clock
        self._fsync_each = fsync_each
        self._wal_pages = wal_pages
        self._lock = threading.Lock()
        self._sync_lock = threading.Lock()  # taken after `_lock`, never before it
        self.calls = DiskCalls(path)
        self._reserve = reserve  # returns the first of so many unused row ids
        self._on_lost = on_lost  # called with the number of results that can no longer be read
        self._held: HeldFile | None = None
        self._written: rows.StateRow | None = None  # by the latest commit; None: a new file, or not opened yet
        self._trying: rows.StateRow | None = None  # by the latest transaction, which may have failed after its commit
        self._expected: Expected | None = None
        self._when_committed: list[Callable[[], None]] = []
        self._incident: tuple[str, float] | None = None  # what was found, and until when it is stated
        self._in_use = False
        self._db: sqlite3.Connection | None = None
        self._sync_db: sqlite3.Connection | None = None
        self._unsynced = False
        self._clock_runs = False
        self._rescue_begun = False
        self._rescue_waits = False  # a full disk hinders it
        self._read_aside: dict[Path, int] = {}  # results that were read from files of which the others wait

    @property
    def incident(self) -> str | None:
        """What another program did to the file, for `INCIDENT_S` or `LOSS_S`."""
        text, until_s = self._incident or ("", 0.0)
        return text if text and time.monotonic() < until_s else None

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
        with self.calls.holding(self._lock):
            self._close_connections()
            self._in_use = False
            self._release()

    def check_place(self) -> None:
        """Raises SpoolError unless the file at the path is, or becomes, the one with all results."""
        self.run(lambda db, state: None, writes=False, checks=True)

    def check(self) -> None:
        """As `check_place`, and reads files set aside that a full disk hindered."""

        def rescue_next_time(db: sqlite3.Connection, state: State) -> None:
            self._rescue_begun = not self._rescue_waits

        self.run(rescue_next_time, writes=False, checks=True)

    def run(
        self,
        work: Callable[[sqlite3.Connection, State], ResultT],
        *,
        writes: bool = True,
        durable: bool = False,
        checks: bool = False,
    ) -> ResultT:
        """Runs `work`, in one transaction if it writes. A damaged file is set aside and `work` runs on a new one.

        Args:
            work: gets the connection and the state, and updates the state together with the rows.
            durable: fsynced when this returns, if the fsync policy says so.
            checks: the open file must be the one at the path, as for `writes`.
        """
        with self.calls.holding(self._lock):
            done = "opened" if self._db is None else "written" if writes else "read"
            try:
                return self._with_repairs(partial(self._attempt, work, writes, durable), checks or writes)
            except (sqlite3.Error, OSError) as error:
                passing = isinstance(error, OSError) or rows.error_code(error) in rows.PASSING_CODES
                if not passing and self._change() is None:  # a file that is not at the path cannot be opened again
                    self._close_connections()  # a connection to a read-only file stays read-only
                why = error.strerror if isinstance(error, OSError) else error
                if rows.error_code(error) == sqlite3.SQLITE_BUSY:
                    why = f"{error}: another program has opened it. Close that program"
                raise SpoolError(f"{self.path}: the spool cannot be {done}: {why}") from error

    def sync(self) -> None:
        """Makes what was committed safe against a power cut, and keeps the write-ahead log short.

        Does a passive checkpoint over a separate connection: commits continue meanwhile, even on a slow disk.
        """
        with self.calls.holding(self._sync_lock):
            if self._sync_db is None or self._held is None or not self._unsynced or self._held.main_change():
                return
            self._unsynced = False
            try:
                self._sync_db.execute("PRAGMA wal_checkpoint(PASSIVE)").fetchone()
            except sqlite3.Error as error:
                self._unsynced = True
                raise SpoolError(f"{self.path}: the spool cannot be synced to disk: {error}") from error
            finally:
                self._held.note_main()
            self.bytes = self._held.bytes

    def _with_repairs(self, attempt: Callable[[], ResultT], checks: bool, repairs: int = 2) -> ResultT:
        try:
            if checks:
                self.adrift = False
                if (change := self._change()) is not None:
                    self._return_to_path(change)
            outcome = attempt()
            if checks and (change := self._change()) is not None and self._shows_latest_commit():
                with contextlib.suppress(SpoolError):  # the next call states it
                    self._return_to_path(change)
            return outcome
        except sqlite3.DatabaseError as error:
            kind = _SET_ASIDE.get(rows.error_code(error))
            if kind is None or not repairs:
                raise
            change = self._change()
            if change is not None and self._shows_latest_commit():
                self._return_to_path(change)
            else:
                self._set_aside(kind, " ".join(str(error).split()))
        return self._with_repairs(attempt, checks, repairs - 1)

    def _attempt(self, work: Callable[[sqlite3.Connection, State], ResultT], writes: bool, durable: bool) -> ResultT:
        db = self._db or self._open()
        if not self._rescue_begun:
            self._rescue_begun = True  # also for the transactions of the rescue itself
            try:
                self._rescue()
                self._count_lost(db)
            except BaseException:
                self._rescue_begun = False
                raise
        if not writes:
            return work(db, self.state)
        if self._fsync_each:
            db.execute(f"PRAGMA synchronous={'FULL' if durable else 'NORMAL'}")
        state = replace(self.state)
        self._when_committed = []
        try:
            with transaction(db):
                if self._written is not None and rows.state_row(db) != self._written:
                    raise rows.conflict("another program has changed its content")
                outcome = work(db, state)
                oldest_id, state.oldest_accepted_s = rows.oldest(db)
                self._trying = rows.write_state(db, state, self._clock.stamp())
        finally:
            if self._held is not None:
                self._held.note_log()
        self.state, self._written = state, self._trying
        for note in self._when_committed:
            note()
        self.newest.forget_before(oldest_id)
        self._unsynced = True
        self._shorten_log(db)
        return outcome

    def _shorten_log(self, db: sqlite3.Connection) -> None:
        """Does a checkpoint in a burst that is too fast for `sync`. SQLite must not do it: see `HeldFile.note_main`."""
        if self._held is None:
            return
        if self._held.log_bytes > self._wal_pages * rows.PAGE_BYTES and self._sync_lock.acquire(blocking=False):
            try:
                with contextlib.suppress(sqlite3.Error):  # `sync` reports it
                    db.execute("PRAGMA wal_checkpoint(PASSIVE)").fetchone()
                self._held.note_main()
            finally:
                self._sync_lock.release()
        self.bytes = self._held.bytes

    def _open(self) -> sqlite3.Connection:
        held = self._hold()
        in_log = repair.committed_frames(self._wal)
        if in_log is None:
            repair.keep_damaged_log(self.path)
        db = open_sqlite(self.path)
        try:
            if not self.path.stat().st_size:
                db.execute("PRAGMA auto_vacuum=INCREMENTAL")  # effective only in a file without tables
            db.execute("PRAGMA journal_mode=WAL").fetchone()
            db.execute("PRAGMA synchronous=NORMAL")
            _, sound, _ = db.execute("PRAGMA wal_checkpoint(PASSIVE)").fetchone()
            if in_log and 0 <= sound < in_log:
                repair.keep_damaged_log(self.path)
            rows.check_format(db, self.path)
            if self.path.stat().st_size <= QUICK_CHECK_BYTES:
                found = db.execute("PRAGMA quick_check(1)").fetchone()[0]
                if found != "ok":
                    raise rows.damage(found)
            state, stamp = rows.read_state(db)
            row = rows.state_row(db)
            if self._clock_runs and row not in (self._written, self._trying):
                if state.last_id:
                    raise rows.conflict("it is not the file that this agent wrote")
                self._expect_results()
            state.last_id = max(state.last_id, self.state.last_id)  # continues after the ids of a damaged file
            db.execute("PRAGMA wal_autocheckpoint=0").fetchone()
            log_bytes = min(self._wal_pages * rows.PAGE_BYTES, WAL_KEPT_BYTES)
            db.execute(f"PRAGMA journal_size_limit={log_bytes}").fetchone()
            sync_db = open_sqlite(self.path)
            rows.state_row(sync_db)  # opens the log now: another one may lie at its path later
        except BaseException:
            db.close()
            raise
        held.note_opened()
        if not self._clock_runs:
            self._clock.go_on_from(stamp)
            self._clock_runs = True
        self._db, self._sync_db, self.state, self._written = db, sync_db, state, row
        self.bytes = held.bytes
        return db

    def _hold(self) -> HeldFile:
        if not self._in_use:
            raise SpoolError(f"{self.path}: the spool is closed")
        if self._held is not None and not self._held.is_at_path:
            copy = repair.copy_to_path(self._held, foreign=False) if self._clock_runs else None
            self._release()
            self._held = copy
        if self._held is None:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            self._held = HeldFile(self.path)
        return self._held

    def _release(self) -> None:
        """Ends the lock. Call it when the connections are closed."""
        if self._held is not None:
            self._held.close()
            self._held = None

    def _change(self) -> Change | None:
        """What another program did to the open file; None: nothing."""
        if self._db is None or self._held is None:
            return None
        quiet = self._sync_lock.acquire(blocking=False)
        try:
            return self._held.change(during_checkpoint=not quiet)
        finally:
            if quiet:
                self._sync_lock.release()

    def _shows_latest_commit(self) -> bool:
        """False: even the open connection reads something else."""
        with contextlib.suppress(sqlite3.Error):
            return self._db is not None and rows.state_row(self._db) == self._written
        return False

    def _return_to_path(self, change: Change) -> None:
        """Copies the content of the open file to a new file at its path.

        Raises:
            SpoolError: this is not possible now. The open file can be read as before.
            sqlite3.IntegrityError: the open file does not have its content any more.
        """
        if self._db is None or self._held is None:
            return
        if not self._shows_latest_commit():
            raise rows.conflict(change.text)
        with self._sync_lock:
            change = self._held.change(during_checkpoint=False) or change
        written, what = self._written, f"{self.path} was changed while it was open: {change.text}"
        held, rescued = None, "It cannot be read any more"
        try:
            held = repair.copy_to_path(self._held, foreign=change.foreign, db=self._db)
            rescued = f"Its {self.state.results} results were rescued into a new file"
        except (sqlite3.Error, OSError, SpoolHeldError) as error:
            if getattr(error, "sqlite_errorcode", None) not in _UNREADABLE:
                self.adrift = True
                why = error.strerror if isinstance(error, OSError) else error
                raise SpoolError(
                    f"{what}. Its {self.state.results} results cannot be rescued into a new file ({why}), so what this "
                    "agent cannot send before it ends is lost"
                ) from error
        self._expect_results()
        self._written = written
        self._close_connections()
        self._release()
        self._held, self._rescue_begun = held, False
        self._incident = (f"{what}. {rescued}", time.monotonic() + INCIDENT_S)
        logger.error("spool %s", self._incident[0])

    def _set_aside(self, kind: str, why: str) -> None:
        """Renames the file and its log. The next attempt starts a new file and reads the results of this one."""
        self._close_connections()
        self._expect_results(keeps_ids=kind == repair.CORRUPT)
        if self._held is not None and not self._held.is_at_path:
            return  # `_hold` continues
        try:
            aside = repair.move_aside(self.path, kind)
        except OSError as error:
            raise SpoolError(f"{self.path}: {kind} ({why}) and cannot be set aside: {error.strerror}") from error
        self._release()
        what = f"is damaged ({why})" if kind == repair.CORRUPT else f"was changed while it was open: {why}"
        text = f"{self.path} {what}. It is set aside as {aside.name}, and a new one is started"
        if kind == repair.FOUND:
            self._incident = (text, time.monotonic() + INCIDENT_S)
        logger.error("spool %s", text)

    def _expect_results(self, *, keeps_ids: bool = True) -> None:
        """The next file may lack results of the present one until they are rescued."""
        if self._written is not None:
            self._expected, self._written = self.newest.expect(self.state.results, self._expected), None
            self._expected.keeps_ids &= keeps_ids
        self._read_aside.clear()
        self._rescue_begun = False

    def _count_lost(self, db: sqlite3.Connection) -> None:
        """After the rescue: adds what is missing and still in memory, and counts the rest."""
        expected = self._expected
        if expected is None:
            return
        if self._rescue_waits:
            expected.results = 0
            return
        self._attempt(partial(self._complete, expected), True, True)
        self._expected, (lost, text) = None, expected.lost(self.state.results)
        if text:
            self._incident = (f"{self.incident or self.path}: {text}", time.monotonic() + LOSS_S)
            logger.error("spool %s: %s", self.path, text)
            self._on_lost(lost)

    def _rescue(self) -> None:
        """Copies the results of files set aside that can be read. Continues what an earlier process has begun."""
        self._rescue_waits = repair.rescue(self.path, self._bring_back, self._read_aside)

    def _complete(self, expected: Expected, db: sqlite3.Connection, state: State) -> None:
        """Adds what is missing, with its ids where they are free: it may be in flight. Counts the rows."""
        left = rows.missing(db, expected.newest)
        state.results, state.pictures = rows.counts(db)
        if expected.keeps_ids:
            self.insert([entry for entry in left if rows.is_free(db, entry.id)], db, state)
        self._add_anew([entry for entry in left if not rows.holds(db, entry)], db, state)
        self.imports += bool(left)

    def _bring_back(self, batch: list[Entry], found: bool) -> int:
        with contextlib.suppress(sqlite3.IntegrityError):  # other results have these ids
            if not found:
                self.imports += 1  # the reader may have passed their ids
                return self._attempt(partial(self.insert, batch), True, True)
        return self._attempt(partial(self._add, batch), True, True)

    def when_committed(self, note: Callable[[], None]) -> None:
        """`note` is called after the commit of the present transaction. If that fails, it is not."""
        self._when_committed.append(note)

    def insert(self, entries: Sequence[Entry], db: sqlite3.Connection, state: State) -> int:
        """Adds results with their ids."""
        state.results += rows.insert(db, entries, self._clock.now_s())
        state.last_id = max([state.last_id, *(entry.id for entry in entries)])
        self.when_committed(partial(self.newest.add, entries))
        return len(entries)

    def _add(self, entries: list[Entry], db: sqlite3.Connection, state: State) -> int:
        """Adds results of a file of unknown origin, unless they are in this file too."""
        known = self.newest.bodies
        others = [entry for entry in entries if entry.body not in known and not rows.holds(db, entry)]
        if self._expected is not None:
            self._expected.note_found(others)
        return self._add_anew(others, db, state)

    def _add_anew(self, entries: list[Entry], db: sqlite3.Connection, state: State) -> int:
        """Adds results with new ids."""
        first = self._reserve(len(entries), state)
        self.imports += bool(entries)
        return self.insert([replace(entry, id=first + number) for number, entry in enumerate(entries)], db, state)

    def _close_connections(self) -> None:
        with self._sync_lock:
            for db in (self._sync_db, self._db):
                if db is not None:
                    with contextlib.suppress(sqlite3.Error):
                        db.close()
            self._db = self._sync_db = None
