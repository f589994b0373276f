"""Results, and their evidence pictures, on disk until the broker has acknowledged them."""

import contextlib
import shutil
import sqlite3
import threading
from collections.abc import Callable, Collection, Sequence
from concurrent.futures import wait
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Literal, Self, TypeVar

from zsad_agent.spool import rows
from zsad_agent.spool.clock import MAX_WAIT_S, SpoolClock
from zsad_agent.spool.database import WAL_PAGES, SpoolFile
from zsad_agent.spool.given_up import Cause, GivenUp
from zsad_agent.spool.rows import PAGE_BYTES, AttachedImage, Entry, State, page_counts, release_pages
from zsad_agent.system import in_thread
from zsad_core.errors import SpoolError

THIS_RUN = 1 << 40  # ids of this run of the agent are above it, ids of earlier runs below
ROW_BYTES = 64  # size of a row without its body, at most
LEAST_WAL_PAGES = 4
SLACK_PAGES = 1024  # free pages kept for new results
LOW_DISK_BYTES = 4_000_000  # the write-ahead log may need as much for results
HUNG_S = 0.9  # longest wait for a disk call during a stop, which has 2 s in all
CHECK_S = 0.02  # between two checks whether a call has ended
EXPIRY_BATCH = 1000  # rows checked at a time
EXPIRY_BATCHES = 10

OutcomeT = TypeVar("OutcomeT")
_Dropped = list[tuple[Cause, int, int]]  # cause, results, pictures


class Spool:
    """A queue in a SQLite file, for one agent at a time. Any thread may call any method.

    A property never waits for the disk or for another thread: it gives the state of the latest commit. The file is
    opened in a thread of its own; after `MAX_WAIT_S` the agent starts without it, as with a disk that fails.

    What a failure can lose. A killed process loses nothing, because `append` returns after the commit has reached the
    kernel. A power cut loses nothing with `fsync="each"`: `append` returns after an fsync. With `"periodic"` it loses
    what was appended since the last `sync` (every 2 s), and a slow disk does not delay the line. The file stays
    consistent in both cases.

    What is given up at a limit: the oldest entries, pictures before results, counted by cause in `losses`. Above
    `max_results`: results with their pictures. Above `max_bytes` of file and write-ahead log: pictures, then results.
    Older than `max_age_h`, on a clock that does not jump (`SpoolClock`): both. On a nearly full disk: pictures.

    Entries that were acknowledged but not deleted when the process died are sent again with the same ids.
    Ids of entries differ from run to run (`THIS_RUN`); their order does not. So an agent can start and number its
    results before it has opened the file.

    Raises (every method):
        SpoolError: the file cannot be used: it is not a spool or was written by a newer agent, the disk is full or
            gives errors. The queue is unchanged. `with` raises it only when another agent uses the file: other faults
            may be temporary, so every call tries to open the file again.
    """

    def __init__(
        self,
        path: Path,
        *,
        max_results: int,
        max_bytes: int = 2_000_000_000,
        max_age_h: float = 24.0 * 30,
        fsync: Literal["each", "periodic"] = "each",
        clock: SpoolClock | None = None,
        disk_free: Callable[[Path], int] = lambda folder: shutil.disk_usage(folder).free,
        stop: threading.Event | None = None,
    ) -> None:
        """`stop` is set when the agent has to end: the start then waits for the disk no longer than the end does."""
        self.path = path
        self.losses = GivenUp(str(path))
        self._max_results = max_results
        self._max_bytes = max_bytes
        self._max_age_s = max_age_h * 3600
        self._clock = clock or SpoolClock()
        self._disk_free = disk_free
        wal_pages = max(LEAST_WAL_PAGES, min(WAL_PAGES, max_bytes // PAGE_BYTES // 8))
        self._max_pages = max_bytes // PAGE_BYTES - 2 * wal_pages  # the log may briefly be twice as long
        self._file = SpoolFile(
            path,
            self._clock,
            fsync_each=fsync == "each",
            wal_pages=wal_pages,
            reserve=self._reserve,
            on_lost=lambda lost: self.losses.note(Cause.DAMAGE, "its file was damaged or replaced", results=lost),
        )
        self._stop = stop or threading.Event()
        self.last_id = THIS_RUN  # the latest id that was assigned
        self._id_lock = threading.Lock()
        self._before: int | None = None  # the last row id of earlier runs, set when the file is first opened

    def __enter__(self) -> Self:
        self.wait_for(self._file.start, MAX_WAIT_S)
        return self

    def __exit__(self, *_: object) -> None:
        """Syncs and closes the file. If the disk hangs, the end of the process closes it."""
        self.wait_for(self._close)

    def _close(self) -> None:
        for step in (self._file.check, self._file.sync, self._file.stop):
            with contextlib.suppress(SpoolError):
                step()

    def wait_for(self, action: Callable[[], OutcomeT], patience_s: float = HUNG_S) -> OutcomeT | None:
        """Runs `action`, which may wait for the disk, in its own thread.

        None: the disk hangs for longer than `patience_s` (`HUNG_S` after a stop request); the action still runs.
        """
        outcome = in_thread("zsad-spool", action)
        wait({outcome}, CHECK_S)  # a call that fails at once has an outcome
        while not outcome.done() and self._file.calls.waiting_s <= (HUNG_S if self._stop.is_set() else patience_s):
            wait({outcome}, CHECK_S)
        return outcome.result() if outcome.done() else None

    @property
    def hangs(self) -> bool:
        """Whether the disk has hung for so long that a stop should not wait for it."""
        return self._file.calls.waiting_s > HUNG_S

    @property
    def hang_fault(self) -> str | None:
        """That the disk hangs."""
        return self._file.calls.fault

    @property
    def incident(self) -> str | None:
        """That another program removed or replaced the file a moment ago, and what became of its results."""
        return self._file.incident

    @property
    def adrift(self) -> bool:
        """Whether the results in the spool are lost when the process ends: its open file is not at its path."""
        return self._file.adrift

    @property
    def imports(self) -> int:
        """How often results were added that are older than the latest one, or of another program's file."""
        return self._file.imports

    @property
    def count(self) -> int:
        """Results in the spool."""
        return self._file.state.results

    @property
    def picture_count(self) -> int:
        """Evidence pictures in the spool."""
        return self._file.state.pictures

    @property
    def bytes(self) -> int:
        """Size of the file and its write-ahead log on disk."""
        return self._file.bytes

    @property
    def oldest_age_s(self) -> float | None:
        """How long the oldest result has waited; None when none waits, or the file was never read."""
        accepted_s = self._file.state.oldest_accepted_s
        return None if accepted_s is None else max(0.0, self._clock.now_s() - accepted_s)

    def new_id(self) -> int:
        """The next id. Never waits for the disk."""
        with self._id_lock:
            self.last_id += 1
            return self.last_id

    def is_kept(self) -> bool:
        """Whether the file at the path is, or becomes, the one with all results."""
        with contextlib.suppress(SpoolError):
            self._file.check()
            return True
        return False

    def check_place(self) -> None:
        """Copies all results to a new file if another program removed or replaced the one at the path. Fast."""
        self._file.check_place()

    def append(self, entries: Sequence[Entry], pictures: Sequence[AttachedImage] = ()) -> None:
        """Stores all or nothing, committed when this returns. Entries above a limit are deleted in the same commit.

        If there is no room for the pictures, they are given up and the results are stored.
        """

        def work(db: sqlite3.Connection, state: State) -> _Dropped:
            new = [replace(entry, id=self._row(entry.id, state)) for entry in entries]
            kept = [replace(each, id=self._row(each.id, state)) for each in pictures]
            excess = state.results + len(new) - self._max_results
            dropped = self._yield_to_results(db, state, new, kept)
            if excess > 0:
                dropped.append((Cause.COUNT, *_drop_results(db, state, excess)))
            dropped += self._make_room(db, state, new, kept)
            self._file.insert(new, db, state)
            state.pictures += rows.insert_attached_images(db, kept, self._clock.now_s())
            return dropped

        self._note(self._file.run(work, durable=True))

    def read(self, after_id: int, up_to_id: int, limit: int) -> list[Entry]:
        """The `limit` oldest entries with an id above `after_id` and up to `up_to_id`, in order."""

        def work(db: sqlite3.Connection, state: State) -> list[Entry]:
            found = rows.select(db, self._row(after_id, state), self._row(up_to_id, state), limit)
            return [replace(entry, id=self._id(entry.id, state)) for entry in found]

        return self._file.run(work, writes=False)

    def newest(self, limit: int) -> list[Entry]:
        """The `limit` entries that were added last, oldest first. Their ids are those of rows."""
        return self._file.run(lambda db, state: rows.newest(db, limit), writes=False)

    def read_picture(self, after_id: int, up_to_id: int) -> AttachedImage | None:
        """The oldest picture with an id above `after_id` and up to `up_to_id`."""

        def work(db: sqlite3.Connection, state: State) -> AttachedImage | None:
            found = rows.select_attached_image(db, self._row(after_id, state), self._row(up_to_id, state))
            return replace(found, id=self._id(found.id, state)) if found is not None else None

        return self._file.run(work, writes=False)

    def delete(self, results: Collection[tuple[int, int]], pictures: Collection[tuple[int, int]] = ()) -> None:
        """Deletes runs of ids (first, last) in one commit. Ids that do not exist are ignored."""

        def work(db: sqlite3.Connection, state: State) -> None:
            result_rows, picture_rows = (
                [(self._row(first, state), self._row(last, state)) for first, last in runs]
                for runs in (results, pictures)
            )
            state.results -= rows.delete(db, "results", result_rows)
            self._file.when_committed(partial(self._file.newest.forget, result_rows))
            state.pictures -= rows.delete(db, "pictures", picture_rows)

        self._file.run(work)

    def sync(self) -> None:
        """Makes what was appended safe against a power cut, and keeps the write-ahead log short."""
        self._file.sync()

    def upkeep(self) -> None:
        """Checks the file, gives up entries that are too old, returns unused space, logs when there is room again."""
        self._file.check()
        for _ in range(EXPIRY_BATCHES):
            too_old = self._file.run(partial(self._older_than, self._max_age_s), writes=False)
            if not any(too_old):
                break
            dropped = self._file.run(partial(_delete_up_to, *too_old))
            self._note([(Cause.AGE, *dropped)])
        pages, free = self._file.run(lambda db, state: page_counts(db), writes=False)
        if free and (pages > self._max_pages or free > max(SLACK_PAGES, pages // 2)):
            self._file.run(release_pages)
        if self.count <= self._max_results * 0.9:
            self.losses.over(Cause.COUNT)
        if pages - free <= self._max_pages * 0.8:
            self.losses.over(Cause.BYTES)
        if not any(self._file.run(partial(self._older_than, self._max_age_s * 0.8), writes=False)):
            self.losses.over(Cause.AGE)

    def _yield_to_results(
        self, db: sqlite3.Connection, state: State, new: list[Entry], kept: list[AttachedImage]
    ) -> _Dropped:
        """On a nearly full disk no picture is stored, and stored ones are deleted to make room for results.

        This begins before the disk is full, because a delete needs some space itself.
        """
        if not (kept or state.pictures) or self._disk_free(self.path.parent) >= LOW_DISK_BYTES:
            return []
        offered = len(kept)
        kept.clear()
        gone = _drop_pictures(db, state, _pages(new) - page_counts(db)[1])
        return [(Cause.DISK, 0, gone + offered)]

    def _make_room(self, db: sqlite3.Connection, state: State, new: list[Entry], kept: list[AttachedImage]) -> _Dropped:
        """Deletes what exceeds `max_bytes`. Removes from `kept`, the pictures to store, those without room."""
        pictures_before, offered = state.pictures, len(kept)
        while (missing := self._missing_pages(db, new, kept)) > 0 and (kept or state.pictures):
            if _drop_pictures(db, state, missing):
                continue
            if not kept:  # the table is empty, whatever the count says
                break
            kept.pop(0)
        results = 0  # their pictures were deleted before
        while state.results and self._missing_pages(db, new, kept) > 0:
            dropped = _drop_results(db, state, max(1, min(64, state.results // 50)))[0]
            if not dropped:  # likewise
                break
            results += dropped
        return [(Cause.BYTES, results, pictures_before - state.pictures + offered - len(kept))]

    def _missing_pages(self, db: sqlite3.Connection, new: list[Entry], kept: list[AttachedImage]) -> int:
        pages, free = page_counts(db)
        return pages - free + _pages(new) + sum(_picture_pages(each) for each in kept) - self._max_pages

    def _older_than(self, age_s: float, db: sqlite3.Connection, state: State) -> tuple[int, int]:
        """The ids up to which results and pictures are older than `age_s`; 0: none is."""
        before_s = self._clock.now_s() - age_s
        result = rows.last_of_oldest(db, "results", EXPIRY_BATCH, before_s)
        return result, max(result, rows.last_of_oldest(db, "pictures", EXPIRY_BATCH, before_s))

    @property
    def disk_is_low(self) -> bool:
        """Whether pictures are given up to leave room for results, or soon would be. True if it cannot be measured."""
        with contextlib.suppress(OSError):
            return self._disk_free(self.path.parent) < 2 * LOW_DISK_BYTES
        return True

    def _note(self, dropped: _Dropped) -> None:
        """Counts and logs what was deleted, after the commit."""
        why = {
            Cause.COUNT: f"it is full (spool.max_results = {self._max_results})",
            Cause.BYTES: f"it is full (spool.max_bytes = {self._max_bytes})",
            Cause.AGE: f"they are too old (spool.max_age_h = {self._max_age_s / 3600:g})",
            Cause.DISK: f"the disk has less than {LOW_DISK_BYTES:,} bytes left",
        }
        for cause, results, pictures in dropped:
            self.losses.note(cause, why[cause], results=results, pictures=pictures)

    def _row(self, entry_id: int, state: State) -> int:
        """The row's id, which is unique over all runs."""
        if self._before is None:
            self._before = state.last_id
        return entry_id if entry_id < THIS_RUN else entry_id - THIS_RUN + self._before

    def _reserve(self, number: int, state: State) -> int:
        """The first of `number` row ids above all that are in use or belong to ids that `new_id` returned."""
        if self._before is None:
            return state.last_id + 1
        with self._id_lock:
            first = self.last_id + 1
            self.last_id += number
        return self._row(first, state)

    def _id(self, row_id: int, state: State) -> int:
        before = self._row(THIS_RUN, state)
        return row_id if row_id <= before else row_id - before + THIS_RUN


def _drop_results(db: sqlite3.Connection, state: State, number: int) -> tuple[int, int]:
    """Deletes the oldest `number` results and the pictures up to the last of them. Returns both counts."""
    last = rows.last_of_oldest(db, "results", number)
    return _delete_up_to(last, last, db, state)


def _drop_pictures(db: sqlite3.Connection, state: State, pages: int) -> int:
    """Deletes the oldest pictures until so many pages are free. Returns how many."""
    gone, aim = 0, page_counts(db)[1] + pages
    while page_counts(db)[1] < aim and (oldest := rows.last_of_oldest(db, "pictures", 1)):
        gone += _delete_up_to(0, oldest, db, state)[1]
    return gone


def _delete_up_to(result: int, picture: int, db: sqlite3.Connection, state: State) -> tuple[int, int]:
    """Deletes results and pictures with ids up to these. Returns both counts."""
    results = rows.delete(db, "results", [(0, result)])
    pictures = rows.delete(db, "pictures", [(0, picture)])
    state.results -= results
    state.pictures -= pictures
    return results, pictures


def _pages(entries: Sequence[Entry]) -> int:
    """The most pages that the entries need: a row that does not fit into the current page starts a new one."""
    return 2 + sum(len(entry.body) + ROW_BYTES for entry in entries) * 2 // PAGE_BYTES if entries else 0


def _picture_pages(picture: AttachedImage) -> int:
    return 2 + (len(picture.jpeg) + ROW_BYTES) // (PAGE_BYTES - 4)
