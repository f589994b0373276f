"""Results and pictures that the queue had to give up: counted by cause, logged at the begin and the end.

Also what is left of a file whose content is gone.
"""

import logging
import threading
from collections import Counter
from collections.abc import Collection, Iterable
from dataclasses import dataclass
from enum import StrEnum

from zsad_agent.spool.rows import Entry

logger = logging.getLogger(__name__)

NEWEST = 1000  # results that are also kept in memory until they are deleted, about 1 MB
_RESULTS, _PICTURES = "results", "evidence pictures"


class Cause(StrEnum):
    COUNT = "count"  # more than spool.max_results
    BYTES = "bytes"  # more than spool.max_bytes
    AGE = "age"  # older than spool.max_age_h
    DISK = "disk"  # the disk cannot be written
    DAMAGE = "damage"  # in a file that was damaged, removed or overwritten while the agent ran
    REFUSED = "refused"  # larger than the broker accepts
    BROKER = "broker"  # a picture at which the broker repeatedly ends the connection


@dataclass(slots=True)
class Expected:
    """Results of a file whose content is gone, until those that can still be read are in a new file."""

    results: int
    newest: list[Entry]  # known from memory
    first_id: int  # of the oldest result
    strangers: int = 0  # read from the file found in its place, and not of this file
    unclear: int = 0  # read there; of this file if the file found is an earlier state of it
    is_foreign: bool = False  # the file found is no earlier state of it
    keeps_ids: bool = True  # False: two results have the same id

    def note_found(self, entries: Iterable[Entry]) -> None:
        """Counts results that were read from the file found."""
        bodies = {entry.id: entry.body for entry in self.newest}
        known, end = set(bodies.values()), min(bodies, default=0)
        for entry in entries:
            if entry.body not in known:
                self.is_foreign |= entry.id in bodies
                may_be_ours = self.first_id <= entry.id < end and not self.is_foreign
                self.unclear += may_be_ours
                self.strangers += not may_be_ours

    def lost(self, results: int) -> tuple[int, str]:
        """How many are surely missing among the `results` in the new file, and this in words; empty: none is."""
        if self.is_foreign:
            self.strangers, self.unclear = self.strangers + self.unclear, 0
        lost = max(0, self.results - (results - self.strangers))
        number = f"{lost} to {lost + self.unclear}" if self.unclear else str(lost)
        return lost, f"{number} results cannot be read any more and are LOST" if lost or self.unclear else ""


class Newest:
    """The newest results, in memory in case their file is overwritten."""

    def __init__(self) -> None:
        self._entries: dict[int, Entry] = {}
        self._oldest_id = 0  # of all results in the file

    @property
    def bodies(self) -> set[bytes]:
        return {entry.body for entry in self._entries.values()}

    def add(self, entries: Iterable[Entry]) -> None:
        self._entries.update((entry.id, entry) for entry in entries)
        while len(self._entries) > NEWEST:
            del self._entries[next(iter(self._entries))]

    def forget(self, runs: Collection[tuple[int, int]]) -> None:
        """Call it for results that were deleted: first and last id of each run."""
        for first, last in runs:
            for entry_id in range(first, last + 1):
                self._entries.pop(entry_id, None)

    def forget_before(self, oldest_id: int) -> None:
        """`oldest_id` is the oldest result in the file now."""
        self._oldest_id = oldest_id
        while self._entries and (first := next(iter(self._entries))) < oldest_id:
            del self._entries[first]

    def expect(self, results: int, earlier: Expected | None) -> Expected:
        """The file may have lost its content, `results` in all.

        `earlier`: what was expected in it, if it was lost before all of that was in it.
        """
        known = list(self._entries.values())
        if earlier is not None:
            earlier.newest = _once([*earlier.newest, *known])
            earlier.results = earlier.results or results
            return earlier
        newest = _once(known)
        return Expected(results - (len(known) - len(newest)), newest, self._oldest_id)


def _once(entries: Iterable[Entry]) -> list[Entry]:
    """Each message once: it may have been added again with another id."""
    return list({entry.body: entry for entry in entries}.values())


class GivenUp:
    """Counts since the start. Used from any thread."""

    def __init__(self, name: str) -> None:
        """`name` is the queue's name in the log."""
        self._name = name
        self._lock = threading.Lock()
        self._counts: dict[str, Counter[str]] = {_RESULTS: Counter(), _PICTURES: Counter()}
        self._going_on: set[tuple[Cause, str]] = set()

    @property
    def results(self) -> dict[str, int]:
        """Results given up, by cause; only causes with at least one."""
        with self._lock:
            return dict(self._counts[_RESULTS])

    @property
    def pictures(self) -> dict[str, int]:
        """Evidence pictures given up, by cause; only causes with at least one."""
        with self._lock:
            return dict(self._counts[_PICTURES])

    def note(self, cause: Cause, why: str, *, results: int = 0, pictures: int = 0) -> None:
        """Counts what was given up for `cause`. Logs `why` the first time, and again after `over`."""
        with self._lock:
            for what, number in ((_RESULTS, results), (_PICTURES, pictures)):
                if number <= 0:
                    continue
                self._counts[what][cause.value] += number
                if (cause, what) not in self._going_on:
                    self._going_on.add((cause, what))
                    logger.error("spool %s: %s: %s are given up", self._name, why, what)

    def over(self, cause: Cause) -> None:
        """`cause` has ended; logged if something was given up for it."""
        with self._lock:
            ended = {each for each in self._going_on if each[0] is cause}
            if not ended:
                return
            self._going_on -= ended
            logger.warning(
                "spool %s has room again; given up so far (%s): %d results, %d evidence pictures",
                self._name,
                cause.value,
                self._counts[_RESULTS][cause.value],
                self._counts[_PICTURES][cause.value],
            )

    def is_going_on(self, cause: Cause) -> bool:
        with self._lock:
            return any(each[0] is cause for each in self._going_on)
