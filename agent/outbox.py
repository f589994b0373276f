"""The queue between accepting a result and the broker's acknowledgement. Knows no network."""

import logging
import threading
import time
from collections import deque
from collections.abc import Callable

from zsad_agent.spool import Spool
from zsad_agent.spool_rows import Entry
from zsad_core.errors import SpoolError

logger = logging.getLogger(__name__)

MAX_IN_MEMORY = 1000  # results, while the disk takes none: about 1 MB
RETRY_S = 1.0  # between attempts on a disk that takes nothing
SYNC_S = 2.0  # what a power cut can take, at most
DELETE_BATCH = 100  # acknowledged results per commit
DELETE_AFTER_S = 0.2  # longest time that an acknowledged result stays in the spool


class Outbox:
    """Results in the order in which they were accepted, each until it is acknowledged.

    The policy when the disk is full or broken: a result is never refused and never goes silently. It waits in memory
    and is sent as usual, after those in the spool; the fault is stated (`fault`, one log line). As soon as the disk
    takes results again they are moved there. Of more than `max_in_memory` the oldest are given up, counted and logged.

    `add` may be called by any thread; all else by one sending thread.
    """

    def __init__(
        self, spool: Spool, *, max_in_memory: int = MAX_IN_MEMORY, clock_s: Callable[[], float] = time.monotonic
    ) -> None:
        self._spool = spool
        self._max_in_memory = max_in_memory
        self._clock_s = clock_s
        self._lock = threading.RLock()
        self._memory: deque[Entry] = deque()  # newer than everything in the spool
        self._cursor = 0  # everything in the spool up to this id was taken
        self._taken: set[int] = set()  # on their way, not acknowledged
        self._acknowledged: set[int] = set()  # not yet deleted
        self._acknowledged_at_s = 0.0  # when the oldest of these was
        self._synced_at_s = clock_s()
        self._faults: dict[str, tuple[str, float]] = {}  # what the disk does not do -> (why, when to try again)
        self._lost = 0
        self._refused = 0

    @property
    def fault(self) -> str | None:
        """What is wrong with the spool at present; None when all is well."""
        with self._lock:
            return "; ".join(why for why, _ in self._faults.values()) or None

    @property
    def unsent(self) -> int:
        """Results accepted, in this run or an earlier one, and not acknowledged."""
        with self._lock:
            return max(0, self._spool.count + len(self._memory) - len(self._acknowledged))

    @property
    def untidy(self) -> bool:
        """Whether `tidy` has something left to delete."""
        return bool(self._acknowledged)

    @property
    def given_up(self) -> int:
        """Results lost since the start to `spool.max_results`, to a disk that took none, or refused by the broker."""
        return self._spool.dropped + self._lost + self._refused

    @property
    def last_id(self) -> int:
        return self._spool.last_id

    def add(self, camera: str, body: bytes) -> int:
        """Takes a result in and returns its id; it is durable now unless `fault` says otherwise."""
        with self._lock:
            entry = Entry(self._spool.new_id(), camera, body)
            self._memory.append(entry)
            self._move_to_disk()
            if len(self._memory) > self._max_in_memory:
                self._give_up_oldest()
            return entry.id

    def take(self, limit: int) -> list[Entry]:
        """The next entries to send, at most `limit`, oldest first; none twice before `rewind`."""
        with self._lock:
            if limit <= 0 or self._cursor >= self._spool.last_id:
                return []
            taken: list[Entry] = []
            could_read = self._attempt("read", lambda: taken.extend(self._read_spool(limit)))
            waiting = [entry for entry in self._memory if self._is_fresh(entry)]
            taken += waiting[: limit - len(taken)]
            self._taken.update(entry.id for entry in taken)
            if could_read:  # else the spool's own, older ones are still to come
                self._cursor = taken[-1].id if len(taken) == limit else self._spool.last_id
            return taken

    def acknowledge(self, entry_id: int) -> None:
        """The broker has the entry; `tidy` deletes it."""
        with self._lock:
            self._taken.discard(entry_id)
            if not self._acknowledged:
                self._acknowledged_at_s = self._clock_s()
            self._acknowledged.add(entry_id)

    def refuse(self, entry_id: int) -> None:
        """The broker will never take the entry: it is given up, counted, and deleted like one that has arrived."""
        with self._lock:
            self._refused += 1
            self.acknowledge(entry_id)

    def rewind(self) -> None:
        """The connection is gone: what was taken and not acknowledged is to be sent again."""
        with self._lock:
            self._taken.clear()
            self._cursor = 0

    def tidy(self, *, everything: bool = False) -> None:
        """Deletes what was acknowledged (in batches, or all of it now), syncs the disk, retries a disk at fault."""
        now_s = self._clock_s()
        with self._lock:
            due = len(self._acknowledged) >= DELETE_BATCH or now_s - self._acknowledged_at_s >= DELETE_AFTER_S
            if self._acknowledged and (due or everything):
                self._delete_acknowledged()
            if self._memory:
                self._move_to_disk()
        if now_s - self._synced_at_s >= SYNC_S:
            self._synced_at_s = now_s
            self._attempt("sync", self._spool.sync)

    def _read_spool(self, limit: int) -> list[Entry]:
        entries: list[Entry] = []
        after = self._cursor
        while len(entries) < limit:
            read = self._spool.read_after(after, limit)
            entries += [entry for entry in read if self._is_fresh(entry)]
            if len(read) < limit:
                break
            after = read[-1].id
        return entries[:limit]

    def _is_fresh(self, entry: Entry) -> bool:
        return entry.id not in self._taken and entry.id not in self._acknowledged

    def _move_to_disk(self) -> None:
        entries = list(self._memory)
        if self._attempt("append", lambda: self._spool.append(entries)):
            self._memory.clear()

    def _delete_acknowledged(self) -> None:
        for entry in [entry for entry in self._memory if entry.id in self._acknowledged]:
            self._memory.remove(entry)
            self._acknowledged.discard(entry.id)
        if self._acknowledged and self._attempt("delete", lambda: self._spool.delete(self._acknowledged)):
            self._acknowledged.clear()

    def _give_up_oldest(self) -> None:
        oldest = next((entry for entry in self._memory if self._is_fresh(entry)), None)
        if oldest is None:  # all of them are on their way
            return
        self._memory.remove(oldest)
        if self._lost == 0:
            logger.error("results are given up: the disk takes none and %d wait in memory", self._max_in_memory)
        self._lost += 1

    def _attempt(self, what: str, action: Callable[[], None]) -> bool:
        """Whether the action was done; not when the disk fails it, or failed it less than `RETRY_S` ago."""
        fault = self._faults.get(what)
        if fault is not None and self._clock_s() < fault[1]:
            return False
        try:
            action()
        except SpoolError as error:
            with self._lock:
                self._faults[what] = (str(error), self._clock_s() + RETRY_S)
            if fault is None:
                logger.error("spool lost (%s): %s", what, error)
            return False
        if fault is not None:
            with self._lock:
                del self._faults[what]
            logger.warning("spool back (%s); results given up so far: %d", what, self.given_up)
        return True
