"""The queue between accepting a result and the broker's acknowledgement. Does no network I/O."""

import contextlib
import logging
import math
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from zsad_agent.spool.clock import MAX_WAIT_S
from zsad_agent.spool.given_up import Cause
from zsad_agent.spool.id_ranges import IdRanges
from zsad_agent.spool.rows import AttachedImage, Entry
from zsad_agent.spool.spool import Spool
from zsad_core.errors import SpoolError

logger = logging.getLogger(__name__)

MAX_IN_MEMORY = 1000  # results while the disk cannot be written: about 1 MB
RETRY_S = 1.0  # between two attempts to write to a failed disk
CHECK_PLACE_S = 0.2  # longest time without a check that the file is at its path
UPKEEP_S = 2.0  # the most that a power cut can lose with spool.fsync = periodic
DELETE_BATCH = 100  # acknowledged results per commit
DELETE_AFTER_S = 0.2  # longest time that an acknowledged result stays in the spool
LAST_ASKS = 10  # whether acknowledged results may be deleted, when a connection ends
BACKLOG_EVERY = 4  # while both lanes have messages, every 4th message is from the backlog
PICTURE_TRIES = 5  # a picture is given up after so many connections ended at it


@dataclass(frozen=True, slots=True)
class Accepted:
    """A result to be stored."""

    camera: str
    body: bytes
    picture: tuple[str, bytes] | None = None  # the message's id, and the JPEG that is sent after it
    on_durable: Callable[[], None] | None = None  # called once the disk or the broker has it; never if it is lost


@dataclass(frozen=True, slots=True)
class _Published:
    """State that other threads read without the lock, which is held during disk calls."""

    unsent: int = 0
    unsent_pictures: int = 0
    in_memory: int = 0  # results that are not known to be on the disk


@dataclass(slots=True)
class _Lane:
    """A range of the queue, `(start, end]`, sent in order."""

    cursor: int  # every result in the lane up to this id was taken
    picture_cursor: int  # every picture in the lane up to this id was taken
    end: int | None = None  # None: new results are added to this lane


class Outbox:
    """Results and their evidence pictures, each until it is acknowledged.

    There are two lanes, each in the order in which results were accepted. The live lane has the results accepted since
    the present connection was made (`rewind`). The backlog has all earlier results that were not acknowledged. Live
    results go first, so that dashboards are up to date at once. Every `BACKLOG_EVERY`th message is from the backlog, so
    that it drains under any live load. A picture is sent after its result, one at a time.

    When the disk is full or broken, a result is never refused and never lost silently. It waits in memory and is sent
    as usual; the fault is stated (`fault`, one log line). When the disk works again, results are moved to it. Above
    `max_in_memory` the oldest results are given up. Pictures are given up at once: results may need their memory. Both
    are counted in `losses`.

    Any thread may call `add_all` and read a property, which never waits for the disk. All other methods are for one
    sending thread.
    """

    def __init__(
        self,
        spool: Spool,
        *,
        max_in_memory: int = MAX_IN_MEMORY,
        clock_s: Callable[[], float] = time.monotonic,
        may_delete: Callable[[], bool] = lambda: True,
    ) -> None:
        """`may_delete`: whether no other part needs the results that were acknowledged up to now."""
        self.losses = spool.losses
        self._spool = spool
        self._max_in_memory = max_in_memory
        self._clock_s = clock_s
        self._may_delete = may_delete
        self._lock = threading.RLock()
        self._published = _Published()
        self._arriving: dict[int, int] = {}  # threads that wait for the lock with results -> how many
        self._on_durable: dict[int, Callable[[], None]] = {}  # of results in memory
        self._durable: list[Callable[[], None]] = []  # called as soon as the lock is free
        self._memory: deque[Entry] = deque()  # newer than all entries in the spool
        self._taken: set[int] = set()  # results in flight, not acknowledged
        self._acknowledged = IdRanges()  # results not yet deleted
        self._acknowledged_pictures = IdRanges()
        self._deleted_at_s = clock_s()
        self._refused_at_s = -math.inf  # when `may_delete` said no last
        self._picture_on_its_way: int | None = None
        self._picture_tries = (0, 0)  # id of the picture at which the last connection ended, and how many ended there
        self._sent_results = self._sent_pictures = 0  # messages sent while both lanes had some; selects the lane
        self._kept_up_at_s = clock_s()
        self._fault_lock = threading.Lock()  # held while `_faults` changes, never during a disk call
        self._faults: dict[str, tuple[str, float]] = {}  # failed disk action -> (reason, time of the next attempt)
        self.rewind()
        spool.wait_for(lambda: self._attempt("upkeep", spool.upkeep), MAX_WAIT_S)  # states a fault before any result

    @property
    def fault(self) -> str | None:
        """The present faults of the spool; None when it works."""
        with self._fault_lock:
            whys = [why for why, _ in self._faults.values()]
        return "; ".join(dict.fromkeys(filter(None, [*whys, self._spool.hang_fault]))) or None

    @property
    def incident(self) -> str | None:
        """As `Spool.incident`."""
        return self._spool.incident

    @property
    def unsent(self) -> int:
        """Results accepted in this or an earlier run, and not acknowledged."""
        return self._published.unsent + sum(list(self._arriving.values()))

    def store_or_count_lost(self) -> int:
        """Tries the disk once more, unless it hangs. Returns how many results are not stored and will be lost.

        Those that were stored may be among them: see `Spool.adrift`.
        """
        lost = self._spool.wait_for(self._keep)
        return lost if lost is not None else self._published.in_memory + sum(list(self._arriving.values()))

    def _keep(self) -> int:
        with self._changing():
            self._move_to_disk(now=True)
            if self._spool.is_kept() or not self._spool.adrift:
                return len(self._memory)
        return self._published.unsent

    @property
    def unsent_pictures(self) -> int:
        return self._published.unsent_pictures

    @property
    def untidy(self) -> bool:
        """Whether `delete_acknowledged` has something to delete."""
        return bool(self._acknowledged or self._acknowledged_pictures)

    def add_all(self, results: Sequence[Accepted]) -> list[int]:
        """Stores results in this order with one commit and returns their ids. Durable on return unless `fault` is set.

        This thread or the sending thread calls `on_durable` of each result.
        """
        thread_id = threading.get_ident()
        self._arriving[thread_id] = len(results)
        with self._changing():
            entries = [Entry(self._spool.new_id(), result.camera, result.body) for result in results]
            pictures = []
            for entry, result in zip(entries, results, strict=True):
                if result.on_durable is not None:
                    self._on_durable[entry.id] = result.on_durable
                if result.picture is not None:
                    pictures.append(AttachedImage(entry.id, entry.camera, *result.picture))
            self._memory.extend(entries)
            self._publish()  # before the disk call, which may take long
            del self._arriving[thread_id]
            if not self._move_to_disk(pictures) and pictures:
                self.losses.note(Cause.DISK, "the disk cannot be written", pictures=len(pictures))
            excess = max(0, len(self._memory) - self._max_in_memory)
            for oldest in [entry for entry in self._memory if self._is_fresh(entry)][:excess]:
                self._memory.remove(oldest)
                self._on_durable.pop(oldest.id, None)
                why = f"the disk cannot be written, and {self._max_in_memory} results wait in memory"
                self.losses.note(Cause.DISK, why, results=1)
            return [entry.id for entry in entries]

    def take(self, limit: int) -> list[Entry]:
        """The next results to send from both lanes, at most `limit`. Before `rewind` no result is returned twice."""
        with self._changing():
            if limit <= 0:
                return []
            if self._spool.imports != self._imports:
                self._begin_lanes()
            live, backlog = (self._next_of(lane, limit) for lane in (self._live, self._backlog))
            taken: list[Entry] = []
            while len(taken) < limit and (live or backlog):
                if live and backlog:
                    self._sent_results += 1
                    lane = live if self._sent_results % BACKLOG_EVERY else backlog
                else:
                    lane = live or backlog
                taken.append(lane.popleft())
            self._taken.update(entry.id for entry in taken)
            if "read" not in self._faults:  # no cursor passes a result that could not be read
                for entry in taken:
                    self._lane_of(entry.id).cursor = entry.id
            return taken

    def take_picture(self) -> AttachedImage | None:
        """The next picture to send whose result was taken; None while a picture is in flight."""
        with self._changing():
            if self._picture_on_its_way is not None or self._spool.picture_count == 0:
                return None
            self._sent_pictures += 1
            lanes = (self._live, self._backlog)
            for lane in lanes if self._sent_pictures % BACKLOG_EVERY else reversed(lanes):
                if (picture := self._next_picture_of(lane)) is not None:
                    self._picture_on_its_way = picture.id
                    return picture
            return None

    def acknowledge(self, entry_id: int) -> None:
        """The broker has the result; `delete_acknowledged` deletes it."""
        with self._changing():
            self._note_durable(entry_id)
            self._settle(entry_id)

    def refuse(self, entry_id: int) -> None:
        """The broker will never accept the result: it is given up, and deleted like an acknowledged one."""
        with self._changing():
            self.losses.note(Cause.REFUSED, "the message is too large for the broker", results=1)
            self._on_durable.pop(entry_id, None)
            self._settle(entry_id)

    def acknowledge_picture(self, picture_id: int) -> None:
        """The broker has the picture of that result; `delete_acknowledged` deletes it."""
        with self._changing():
            self._settle_picture(picture_id)

    def return_picture(self, picture_id: int) -> None:
        """The broker does not accept the picture at present: it becomes the next of its lane again."""
        with self._lock:
            if self._picture_on_its_way == picture_id:
                self._picture_on_its_way = None
                lane = self._lane_of(picture_id)
                lane.picture_cursor = min(lane.picture_cursor, picture_id - 1)

    def refuse_picture(self, picture_id: int) -> None:
        """The broker will never accept the picture of that result: it is given up and deleted."""
        with self._changing():
            self.losses.note(Cause.REFUSED, "the message is too large for the broker", pictures=1)
            self._settle_picture(picture_id)

    def rewind(self) -> None:
        """A connection was made or lost: all unacknowledged results become backlog, new results are live."""
        with self._changing():
            self._taken.clear()
            self._begin_lanes()
            if self._picture_on_its_way is not None:
                self._note_break_at(self._picture_on_its_way)
                self._picture_on_its_way = None

    def delete_acknowledged(self, *, everything: bool = False) -> None:
        """Deletes acknowledged entries (in batches, or all now), maintains the file, and retries a failed disk.

        Call it every `CHECK_PLACE_S` at least: if the file was removed, its results are lost when the process is killed
        before the next check.
        """
        now_s = self._clock_s()
        self._attempt("check", self._spool.check_place)
        if now_s - self._kept_up_at_s >= UPKEEP_S:
            self._kept_up_at_s = now_s
            self._attempt("upkeep", self._spool.upkeep)
            self._attempt("sync", self._spool.sync)
            if "read" in self._faults:  # without results to send, no other read would show that the disk works again
                self._attempt("read", lambda: self._spool.read(0, 0, 1))
        waiting = len(self._acknowledged) + len(self._acknowledged_pictures)
        due = everything or waiting >= DELETE_BATCH or now_s - self._deleted_at_s >= DELETE_AFTER_S
        deletes = waiting and due and self._is_delete_allowed(now_s, everything=everything)
        with self._changing():
            if deletes:
                self._deleted_at_s = now_s
                runs, picture_runs = self._acknowledged.runs, self._acknowledged_pictures.runs
                if self._attempt("delete", lambda: self._spool.delete(runs, picture_runs)):
                    self._acknowledged, self._acknowledged_pictures = IdRanges(), IdRanges()
            self._move_to_disk()

    def _is_delete_allowed(self, now_s: float, *, everything: bool) -> bool:
        """Asks again after a refusal only when `DELETE_AFTER_S` have passed, because an answer takes milliseconds.

        `everything`: asks several times, since what is not deleted before the end of the process is sent again.
        """
        if not everything and now_s < self._refused_at_s + DELETE_AFTER_S:
            return False
        if any(self._may_delete() for _ in range(LAST_ASKS if everything else 1)):
            return True
        self._refused_at_s = now_s
        return False

    def _begin_lanes(self) -> None:
        """All results up to now become backlog. Those of a file that was found at the spool's path are among them."""
        self._imports = self._spool.imports
        self.live_after = self._spool.last_id  # results with ids up to this are backlog, those above are live
        self._backlog = _Lane(cursor=0, picture_cursor=0, end=self.live_after)
        self._live = _Lane(cursor=self.live_after, picture_cursor=self.live_after)

    @contextlib.contextmanager
    def _changing(self) -> Iterator[None]:
        """Holds the lock and publishes changes. Calls `on_durable` of durable results after releasing the lock."""
        with self._lock:
            try:
                yield
            finally:
                self._publish()
            durable, self._durable = self._durable, []
        for say in durable:
            say()

    def _publish(self) -> None:
        self._published = _Published(
            unsent=max(0, self._spool.count + len(self._memory) - len(self._acknowledged)),
            unsent_pictures=max(0, self._spool.picture_count - len(self._acknowledged_pictures)),
            in_memory=len(self._memory),
        )

    def _note_durable(self, entry_id: int) -> None:
        if (say := self._on_durable.pop(entry_id, None)) is not None:
            self._durable.append(say)

    def _settle(self, entry_id: int) -> None:
        """The result is not sent again."""
        self._taken.discard(entry_id)
        in_memory = next((entry for entry in self._memory if entry.id == entry_id), None)
        if in_memory is not None:
            self._memory.remove(in_memory)
        else:
            self._acknowledged.add(entry_id)

    def _settle_picture(self, picture_id: int) -> None:
        if self._picture_on_its_way == picture_id:
            self._picture_on_its_way = None
        self._acknowledged_pictures.add(picture_id)

    def _lane_of(self, entry_id: int) -> _Lane:
        return self._live if entry_id > self.live_after else self._backlog

    def _next_of(self, lane: _Lane, limit: int) -> deque[Entry]:
        """The lane's next results, without taking them."""
        end = lane.end if lane.end is not None else self._spool.last_id
        if lane.cursor >= end:
            return deque()
        found: list[Entry] = []

        def read() -> None:
            after = lane.cursor
            while len(found) < limit and (after := self._acknowledged.skip(after)) < end:
                batch = self._spool.read(after, end, limit)
                found.extend(entry for entry in batch if self._is_fresh(entry))
                after = batch[-1].id if len(batch) == limit else end

        could_read = self._attempt("read", read)
        found += [entry for entry in self._memory if lane.cursor < entry.id <= end and self._is_fresh(entry)]
        if could_read and not found:
            lane.cursor = end
        return deque(found[:limit])

    def _next_picture_of(self, lane: _Lane) -> AttachedImage | None:
        """Moves the lane's cursor past the picture. Returns None also when the disk cannot be read at present."""
        found: list[AttachedImage] = []

        def read() -> None:
            while not found and (after := self._acknowledged_pictures.skip(lane.picture_cursor)) < lane.cursor:
                picture = self._spool.read_picture(after, lane.cursor)
                lane.picture_cursor = picture.id if picture is not None else lane.cursor
                if picture is not None and picture.id not in self._acknowledged_pictures:
                    found.append(picture)

        self._attempt("read", read)
        return found[0] if found else None

    def _is_fresh(self, entry: Entry) -> bool:
        return entry.id not in self._taken and entry.id not in self._acknowledged

    def _move_to_disk(self, pictures: Sequence[AttachedImage] = (), *, now: bool = False) -> bool:
        entries = list(self._memory)
        is_idle = not entries and "append" not in self._faults  # else a commit shows whether the disk works again
        moved = is_idle or self._attempt("append", lambda: self._spool.append(entries, pictures), now=now)
        if moved:
            self._memory.clear()
            for entry in entries:
                self._note_durable(entry.id)
            if self.losses.is_going_on(Cause.DISK) and not self._spool.disk_is_low:
                self.losses.over(Cause.DISK)
        return moved

    def _note_break_at(self, picture_id: int) -> None:
        """Gives up a picture at which the connection ended `PICTURE_TRIES` times: it would block all messages."""
        last_id, tries = self._picture_tries
        tries = tries + 1 if picture_id == last_id else 1
        self._picture_tries = (picture_id, tries)
        if tries >= PICTURE_TRIES:
            self.losses.note(
                Cause.BROKER,
                f"the connection ended {tries} times at the same picture (is it too large for the broker? See "
                "heatmap.max_bytes)",
                pictures=1,
            )
            self._settle_picture(picture_id)

    def _attempt(self, what: str, action: Callable[[], object], *, now: bool = False) -> bool:
        """Runs the action. False if it failed, or failed less than `RETRY_S` ago and was not tried (unless `now`)."""
        fault = self._faults.get(what)
        if fault is not None and self._clock_s() < fault[1] and not now:
            return False
        try:
            action()
        except SpoolError as error:
            with self._fault_lock:
                is_new = fault is None and str(error) not in {why for why, _ in self._faults.values()}
                self._faults[what] = (str(error), self._clock_s() + RETRY_S)
            if is_new:
                logger.error("spool lost (%s): %s", what, error)
            return False
        if fault is not None:
            with self._fault_lock:
                self._faults.pop(what, None)
            if not self._faults:
                logger.warning("spool back (%s); results given up so far: %d", what, sum(self.losses.results.values()))
        return True
