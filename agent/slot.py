"""Hand-over between two threads: newest wins for a live camera, back-pressure for everything else."""

import threading
from collections import deque
from typing import Generic, Protocol, TypeVar

T = TypeVar("T")


class SlotClosed(Exception):
    """Nothing more will come out: the other side closed, and what it had put in has been taken."""


class Slot(Protocol[T]):
    """The way out of a slot and its end; the ways in differ."""

    @property
    def dropped(self) -> int: ...

    @property
    def waiting(self) -> int: ...

    def put(self, item: T, *, keep: bool = False, timeout_s: float) -> bool: ...

    def get(self, timeout_s: float) -> T | None: ...

    def close(self) -> None: ...


class NewestSlot(Generic[T]):
    """One place. A newer item replaces one that nobody took yet, which counts as dropped; `put` never waits.

    An item put with `keep` is never replaced: a fault between two frames is told however busy the taker is.
    """

    def __init__(self) -> None:
        self._condition = threading.Condition()
        self._items: deque[tuple[T, bool]] = deque()  # and whether it is kept
        self._dropped = 0
        self._closed = False

    @property
    def dropped(self) -> int:
        with self._condition:
            return self._dropped

    @property
    def waiting(self) -> int:
        """Items that nobody took yet."""
        with self._condition:
            return len(self._items)

    def put(self, item: T, *, keep: bool = False, timeout_s: float = 0.0) -> bool:
        """True unless closed. `timeout_s` has no effect here."""
        with self._condition:
            if self._closed:
                return False
            if not keep and self._items and not self._items[-1][1]:
                self._items.pop()
                self._dropped += 1
            self._items.append((item, keep))
            self._condition.notify_all()
            return True

    def get(self, timeout_s: float) -> T | None:
        """The next item, or None when none came in time.

        Raises:
            SlotClosed: closed and empty.
        """
        with self._condition:
            if not self._items and not self._closed:
                self._condition.wait(timeout_s)
            if self._items:
                return self._items.popleft()[0]
            if self._closed:
                raise SlotClosed
            return None

    def close(self) -> None:
        """Refuses what comes; what is inside can still be taken. A second time has no effect."""
        with self._condition:
            self._closed = True
            self._condition.notify_all()


class Handover(Generic[T]):
    """A few places, first in first out. `put` waits while all are taken; nothing is dropped."""

    def __init__(self, places: int = 2) -> None:
        if places < 1:
            raise ValueError(f"a hand-over needs at least one place, got {places}")
        self._condition = threading.Condition()
        self._items: deque[T] = deque()
        self._places = places
        self._closed = False

    @property
    def dropped(self) -> int:
        return 0

    @property
    def waiting(self) -> int:
        """Items that nobody took yet."""
        with self._condition:
            return len(self._items)

    def put(self, item: T, *, keep: bool = False, timeout_s: float) -> bool:
        """True when `item` was taken in, False when no place came free in time or it is closed."""
        with self._condition:
            if len(self._items) >= self._places and not self._closed:
                self._condition.wait_for(lambda: self._closed or len(self._items) < self._places, timeout_s)
            if self._closed or len(self._items) >= self._places:
                return False
            self._items.append(item)
            self._condition.notify_all()
            return True

    def get(self, timeout_s: float) -> T | None:
        """The next item, or None when none came in time.

        Raises:
            SlotClosed: closed and empty.
        """
        with self._condition:
            if not self._items and not self._closed:
                self._condition.wait_for(lambda: self._closed or bool(self._items), timeout_s)
            if self._items:
                item = self._items.popleft()
                self._condition.notify_all()
                return item
            if self._closed:
                raise SlotClosed
            return None

    def close(self) -> None:
        """Refuses what comes; what is inside can still be taken. A second time has no effect."""
        with self._condition:
            self._closed = True
            self._condition.notify_all()
