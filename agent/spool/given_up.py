"""What the queue has had to give up, and why: counted by cause, said when it begins and when it ends."""

import logging
import threading
from collections import Counter
from enum import StrEnum

logger = logging.getLogger(__name__)


class Cause(StrEnum):
    COUNT = "count"  # more than spool.max_results
    BYTES = "bytes"  # more than spool.max_bytes
    AGE = "age"  # older than spool.max_age_h
    DISK = "disk"  # the disk takes nothing
    REFUSED = "refused"  # larger than the broker takes
    BROKER = "broker"  # a picture at which the broker breaks off, again and again


class GivenUp:
    """Counts since the start. Used from any thread."""

    def __init__(self, name: str) -> None:
        """Takes the queue's name for the log."""
        self._name = name
        self._lock = threading.Lock()
        self._results: Counter[str] = Counter()
        self._pictures: Counter[str] = Counter()
        self._going_on: set[tuple[Cause, str]] = set()

    @property
    def results(self) -> dict[str, int]:
        """Results given up, by cause; causes without any left out."""
        with self._lock:
            return dict(self._results)

    @property
    def pictures(self) -> dict[str, int]:
        """Evidence pictures given up, likewise."""
        with self._lock:
            return dict(self._pictures)

    def note(self, cause: Cause, why: str, *, results: int = 0, pictures: int = 0) -> None:
        """Counts what has just gone for `cause`; `why` is said the first time, until it is `over`."""
        with self._lock:
            for what, counts, number in (
                ("results", self._results, results),
                ("evidence pictures", self._pictures, pictures),
            ):
                if number <= 0:
                    continue
                counts[cause.value] += number
                if (cause, what) not in self._going_on:
                    self._going_on.add((cause, what))
                    logger.error("spool %s: %s: %s are given up", self._name, why, what)

    def over(self, cause: Cause) -> None:
        """Nothing more goes for `cause`; said if something did."""
        with self._lock:
            ended = {each for each in self._going_on if each[0] is cause}
            if not ended:
                return
            self._going_on -= ended
            logger.warning(
                "spool %s has room again; given up so far: %d results, %d evidence pictures (%s)",
                self._name,
                self._results[cause.value],
                self._pictures[cause.value],
                cause.value,
            )

    def is_going_on(self, cause: Cause) -> bool:
        with self._lock:
            return any(each[0] is cause for each in self._going_on)
