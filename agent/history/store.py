"""Keeps every result in the history's file, without delaying the inspection."""

import contextlib
import logging
import shutil
import sqlite3
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future
from concurrent.futures import TimeoutError as FutureTimeoutError
from functools import partial
from pathlib import Path
from typing import TypeVar

from pydantic import ValidationError

from zsad_agent.history import rows
from zsad_agent.history.file import is_damage, open_again, open_for_writing, set_aside
from zsad_agent.history.pruning import Pruner
from zsad_agent.messages import Result
from zsad_agent.system import Service, file_stamp, transaction
from zsad_core.errors import HistoryError

logger = logging.getLogger(__name__)
OutcomeT = TypeVar("OutcomeT")

MOST_WAITING = 2000  # results in memory that wait for the disk: about 10 MB
MOST_AT_ONCE = 200  # results with one commit
GROUP_S = 0.2  # a result waits so long for others, so that a fast line does not wear out the disk
RETRY_S = 1.0  # between two attempts after a fault
TIDY_S = 1.0  # longest time between two checks of the file's place and limits
SYNC_S = 5.0  # the most that a power cut can lose
HUNG_S = 5.0  # a disk call that takes longer is a stated fault
HOLD_S = 10.0  # acknowledged results stay in the spool for so long while the history cannot store them
COPY_S = 0.02  # longest wait of `is_copied`
ANSWER_S = 2.0  # longest wait for a mark, and for a query
INCIDENT_S = 60.0  # a damaged file that was set aside is stated for so long
READERS = 4  # connections that are kept for the next queries


class HistoryStore(Service):
    """One thread writes; any thread may read with `reading`.

    No method that the inspection calls raises or waits for the disk. A result that cannot be stored is left out and
    counted. The reason is the `fault`, which is logged once. A damaged file is set aside and a new one is started. A
    file of another program or of a newer agent is not changed.

    What a failure can lose. A killed process loses nothing that the broker has acknowledged: a result is given to the
    history before the spool, the spool deletes it only when `is_copied` says so, and after a restart `refill` gives
    what the spool still holds. A fault of the history that lasts longer than `HOLD_S` ends this, so that the spool does
    not grow. A power cut loses what was acknowledged in the last `SYNC_S`; the file stays consistent.
    """

    name = "history"
    stop_s = 0.5

    def __init__(
        self,
        path: Path,
        *,
        max_days: float = 365.0,
        max_bytes: int = 2_000_000_000,
        disk_free: Callable[[Path], int] = lambda folder: shutil.disk_usage(folder).free,
    ) -> None:
        """Does not access the disk yet."""
        self.path = path
        self.left_out = 0  # results that could not be stored since the start
        self._pruner = Pruner(path, max_days=max_days, max_bytes=max_bytes, disk_free=disk_free)
        self._condition = threading.Condition()
        self._queue: deque[Result] = deque()
        self._jobs: deque[Callable[[sqlite3.Connection], None]] = deque()
        self._given = self._done = 0  # results accepted, and those of them that are stored or left out
        self._behind_since_s: float | None = None  # since when `is_copied` has found results that are not stored
        self._closing = False
        self._give_up_s = float("inf")
        self._overflowing = self._urged = False
        self._fault: str | None = None
        self._incident: tuple[str, float] | None = None
        self._busy_since_s: float | None = None
        self._db: sqlite3.Connection | None = None
        self._stamp: tuple[int, ...] | None = None  # of the open file
        self._damage: str | None = None  # found by a reader
        self._readers: list[sqlite3.Connection] = []  # of the open file, unused
        self._generation = 0  # of the open file
        self._synced_s = time.monotonic()
        self._thread = threading.Thread(target=self._run, name="zsad-history", daemon=True)

    def stop(self, deadline_s: float) -> None:
        """Writes the queue until then. Does not wait for a thread that hangs in a disk call."""
        with self._condition:
            self._closing, self._give_up_s = True, deadline_s
            self._condition.notify_all()
        if not self._wait(deadline_s + 0.1) or self._queue:
            logger.warning("history: %d results were not stored before the stop", len(self._queue))

    @property
    def fault(self) -> str | None:
        """Why results are not in the history; None when there is no fault."""
        busy_since_s, incident = self._busy_since_s, self._incident
        hung = busy_since_s is not None and time.monotonic() - busy_since_s > HUNG_S
        found = [
            f"history {self.path}: the disk has not answered for more than {HUNG_S:g} s" if hung else None,
            self._fault,
            incident[0] if incident is not None and time.monotonic() - incident[1] < INCIDENT_S else None,
            self._pruner.low_disk,
            f"history {self.path}: results come faster than it can store them" if self._overflowing else None,
        ]
        text = "; ".join(filter(None, found))
        return f"{text}. {self.left_out} results were left out since the start" if text else None

    @property
    def waiting(self) -> int:
        """Results that are not stored yet."""
        return self._given - self._done

    def accept(self, result: Result, heatmap: bytes | None = None) -> None:
        """Queues a result. Never waits for the disk. Call it before the spool has the result."""
        with self._condition:
            if self._closing or len(self._queue) >= MOST_WAITING:
                self.left_out += 1
                if not self._closing and not self._overflowing:
                    self._overflowing = True
                    logger.warning("history: results are left out: %d wait for the disk", MOST_WAITING)
                return
            self._queue.append(result)
            self._given += 1
            if len(self._queue) in (1, MOST_AT_ONCE):
                self._condition.notify_all()

    def refill(self, bodies: Iterable[bytes]) -> None:
        """Queues results of earlier runs, oldest first. Call it before the first new result. Known ones are ignored."""
        for body in bodies:
            with contextlib.suppress(ValidationError), self._condition:  # a message of another version
                self._queue.append(Result.decode(body))
                self._given += 1

    def is_copied(self) -> bool:
        """Whether all results accepted before this call survive a kill of the process. Waits for 20 ms at most.

        Those that were left out do not count. Also true after `HOLD_S` without success.
        """
        with self._condition:
            given, since_s = self._given, self._behind_since_s
            self._urged = self._done < given
            self._condition.notify_all()
            too_long = since_s is not None and time.monotonic() - since_s > HOLD_S
            if self._condition.wait_for(lambda: self._done >= given, 0.0 if too_long else COPY_S):
                self._behind_since_s = None
                return True
            self._behind_since_s = since_s if since_s is not None else time.monotonic()
            return too_long

    def mark(self, result_id: str, *, good: bool, who: str) -> bool:
        """Stores what a person says about a result, in place of an earlier mark. False if there is no such result.

        Raises:
            HistoryError: it cannot be stored.
        """
        at_ms = int(time.time() * 1000)
        return self._call(partial(rows.mark, result_id=result_id, good=good, who=who, at_ms=at_ms))

    @contextlib.contextmanager
    def reading(self) -> Iterator[sqlite3.Connection]:
        """A connection for queries of one moment. Keep it for milliseconds: it holds up the log's checkpoints.

        Raises:
            HistoryError: the file cannot be read, or the queries took longer than `ANSWER_S`.
        """
        end_s = time.monotonic() + ANSWER_S
        with self._condition:
            opened = self._condition.wait_for(lambda: self._db is not None or self._fault is not None, ANSWER_S)
            if self._db is None:
                raise HistoryError(self._fault or f"history {self.path}: not opened{'' if opened else ' in time'}")
            generation = self._generation
            db = self._readers.pop() if self._readers else None
        try:
            if db is None:
                db = open_again(self.path)
                db.execute("PRAGMA query_only=1")
            db.set_progress_handler(lambda: time.monotonic() > end_s, 50_000)
            with transaction(db, "DEFERRED"):
                yield db
        except sqlite3.Error as error:
            if is_damage(error):
                with self._condition:
                    self._damage = str(error) if generation == self._generation else self._damage
                    self._condition.notify_all()
            interrupted = isinstance(error, sqlite3.OperationalError) and "interrupted" in str(error)
            why = f"the query took longer than {ANSWER_S:g} s. Ask for less" if interrupted else error
            raise HistoryError(f"history {self.path}: {why}") from error
        finally:
            if db is not None:
                self._put_back(db, generation)

    def _put_back(self, db: sqlite3.Connection, generation: int) -> None:
        with self._condition:
            if generation == self._generation and len(self._readers) < READERS and not self._closing:
                self._readers.append(db)
                return
        db.close()

    def _call(self, work: Callable[[sqlite3.Connection], OutcomeT]) -> OutcomeT:
        """Runs `work` in a transaction of the writer's thread."""
        future: Future[OutcomeT] = Future()

        def job(db: sqlite3.Connection) -> None:
            if not future.set_running_or_notify_cancel():  # the caller does not wait any more
                return
            try:
                with transaction(db):
                    outcome = work(db)
            except Exception as error:
                future.set_exception(error)
                raise
            future.set_result(outcome)

        with self._condition:
            if self._closing:
                raise HistoryError("the history is closed")
            self._jobs.append(job)
            self._condition.notify_all()
        try:
            return future.result(ANSWER_S)
        except FutureTimeoutError as error:
            future.cancel()
            raise HistoryError(self.fault or f"history {self.path}: no answer within {ANSWER_S:g} s") from error
        except sqlite3.Error as error:
            raise HistoryError(f"history {self.path}: {error}") from error

    def _run(self) -> None:
        more = True
        while not (self._closing and (not self._queue or time.monotonic() > self._give_up_s)):
            self._wait_for_work(0.0 if more else TIDY_S)
            self._busy_since_s = time.monotonic()
            more = self._attempt()
            self._busy_since_s = None
            if self._db is None or self._fault is not None:
                with self._condition:
                    self._condition.wait_for(lambda: self._closing, RETRY_S)
                    if self._closing:
                        break
        self._close()

    def _wait_for_work(self, pause_s: float) -> None:
        def is_urgent() -> bool:
            return bool(self._jobs or self._urged or self._closing or self._damage)

        with self._condition:
            self._condition.wait_for(lambda: self._queue or is_urgent(), pause_s)
            if self._queue:
                self._condition.wait_for(lambda: is_urgent() or len(self._queue) >= MOST_AT_ONCE, GROUP_S)
            self._urged = False

    def _attempt(self) -> bool:
        """Writes what waits, then tidies a little. Returns whether there may be more to delete."""
        try:
            if self._damage is not None:
                raise _damaged(self._damage)
            db = self._opened()
            stored = self._store(db)
            while self._jobs:
                self._jobs.popleft()(db)
            more = self._pruner.step(db, stored)
            if time.monotonic() - self._synced_s > SYNC_S:
                self._synced_s = time.monotonic()
                db.execute("PRAGMA wal_checkpoint(PASSIVE)").fetchone()
        except Exception as error:  # the thread must go on: the file may be usable again
            self._note_fault(error)
            return False
        if self._fault is not None:
            logger.warning("history back; left out so far: %d", self.left_out)
        self._fault = None
        return more

    def _store(self, db: sqlite3.Connection, most: int = MOST_AT_ONCE) -> int:
        """Stores the oldest waiting results with one commit. They stay in the queue until then."""
        with self._condition:
            batch = [self._queue[index] for index in range(min(len(self._queue), most))]
        if not batch:
            return 0
        try:
            with transaction(db):
                rows.insert(db, batch)
        except (ValueError, ArithmeticError, sqlite3.InterfaceError, sqlite3.DataError) as error:
            if len(batch) > 1:  # only one of them is at fault
                return sum(self._store(db, 1) for _ in batch)
            self.left_out += 1
            logger.error("history: a result is left out: %s", error)
        self._remove(len(batch))
        return len(batch)

    def _remove(self, count: int) -> None:
        with self._condition:
            for _ in range(count):
                self._queue.popleft()
            self._done += count
            if self._overflowing and len(self._queue) < MOST_WAITING // 2:
                self._overflowing = False
                logger.warning("history keeps up again; left out so far: %d", self.left_out)
            self._condition.notify_all()

    def _opened(self) -> sqlite3.Connection:
        if self._db is not None and self._is_replaced():
            self._state_incident(f"history {self.path} was removed or replaced while it was open; a new one is started")
            self._close()
        if self._db is None:
            db = open_for_writing(self.path)
            with self._condition:
                self._db, self._stamp = db, file_stamp(self.path)
                self._condition.notify_all()
        return self._db

    def _is_replaced(self) -> bool:
        stamp = file_stamp(self.path)
        return stamp is None or self._stamp is None or stamp[:2] != self._stamp[:2]

    def _close(self) -> None:
        with self._condition:
            connections, self._readers = [*self._readers, self._db], []
            self._db, self._generation = None, self._generation + 1
        for db in filter(None, connections):
            with contextlib.suppress(sqlite3.Error):
                db.close()

    def _note_fault(self, error: Exception) -> None:
        if is_damage(error):
            self._damage = None
            self._close()
            try:
                aside = set_aside(self.path)
            except OSError as failed:
                error = HistoryError(f"{self.path} is damaged ({error}) and cannot be set aside: {failed.strerror}")
            else:
                text = (
                    f"history {self.path} was damaged ({error}). It is set aside as {aside.name}, a new one is started"
                )
                self._state_incident(text)
                return
        why = (error.strerror if isinstance(error, OSError) else None) or str(error) or type(error).__name__
        fault = why if isinstance(error, HistoryError) else f"history {self.path}: {why}"
        if self._fault is None:
            logger.error(
                "history lost: %s", fault, exc_info=not isinstance(error, sqlite3.Error | OSError | HistoryError)
            )
        with self._condition:
            self._fault = fault
            self._condition.notify_all()

    def _state_incident(self, text: str) -> None:
        self._incident = (text, time.monotonic())
        logger.error("%s", text)


def _damaged(text: str) -> sqlite3.DatabaseError:
    error = sqlite3.DatabaseError(text)
    error.sqlite_errorcode = sqlite3.SQLITE_CORRUPT
    return error
