"""Results and pictures that the queue had to give up: counted by cause, logged at the begin and the end."""

import logging
import threading
from collections import Counter
from enum import StrEnum

logger = logging.getLogger(__name__)

_RESULTS, _PICTURES = "results", "evidence pictures"


class Cause(StrEnum):
    COUNT = "count"  # more than spool.max_results
    BYTES = "bytes"  # more than spool.max_bytes
    AGE = "age"  # older than spool.max_age_h
    DISK = "disk"  # the disk cannot be written
    DAMAGE = "damage"  # in a file that was damaged, removed or overwritten while the agent ran
    REFUSED = "refused"  # larger than the broker accepts
    BROKER = "broker"  # a picture at which the broker repeatedly ends the connection


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
