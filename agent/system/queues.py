"""Queues between threads: the newest item for a live camera, back-pressure for other sources, and round robin."""

import threading
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Sequence
from typing import Generic, TypeVar

T = TypeVar("T")


class QueueClosed(Exception):
    """The queue is closed and empty."""


class FrameQueue(ABC, Generic[T]):
    """First in, first out. Subclasses define `put`."""

    def __init__(self, condition: threading.Condition | None = None) -> None:
        """Takes the condition that it shares with other queues; None: one of its own."""
        self._condition = condition or threading.Condition()
        self._items: deque[T] = deque()
        self._dropped = 0
        self._closed = False

    @abstractmethod
    def put(self, item: T, *, keep: bool = False, timeout_s: float) -> bool:
        """Whether `item` was accepted."""

    @property
    def dropped(self) -> int:
        with self._condition:
            return self._dropped

    @property
    def waiting(self) -> int:
        """Number of items in the queue."""
        with self._condition:
            return len(self._items)

    def get(self, timeout_s: float) -> T | None:
        """The next item; None if none came in time.

        Raises:
            QueueClosed: closed and empty.
        """
        with self._condition:
            if not self._items and not self._closed:
                self._condition.wait_for(lambda: self._closed or bool(self._items), timeout_s)
            return self.poll()

    def poll(self) -> T | None:
        """As `get`, without waiting."""
        with self._condition:
            if self._items:
                self._condition.notify_all()  # a place is free
                return self._items.popleft()
            if self._closed:
                raise QueueClosed
            return None

    def close(self) -> None:
        """Accepts no more items; those inside can still be taken. Safe to call twice."""
        with self._condition:
            self._closed = True
            self._condition.notify_all()


class LatestQueue(FrameQueue[T]):
    """One place. A newer item replaces one that was not taken, which counts as dropped. `put` never waits.

    An item put with `keep` is never replaced: a fault between two frames is told however busy the taker is.
    """

    _newest_is_kept = False

    def put(self, item: T, *, keep: bool = False, timeout_s: float = 0.0) -> bool:
        """True unless closed. `timeout_s` has no effect here."""
        with self._condition:
            if self._closed:
                return False
            if not keep and self._items and not self._newest_is_kept:
                self._items.pop()
                self._dropped += 1
            self._items.append(item)
            self._newest_is_kept = keep
            self._condition.notify_all()
            return True


class BoundedQueue(FrameQueue[T]):
    """A few places. `put` waits while all are taken; nothing is dropped."""

    def __init__(self, places: int = 2, condition: threading.Condition | None = None) -> None:
        """Takes the condition that it shares with other queues; None: one of its own."""
        if places < 1:
            raise ValueError(f"a hand-over needs at least one place, got {places}")
        super().__init__(condition)
        self._places = places

    def put(self, item: T, *, keep: bool = False, timeout_s: float) -> bool:
        """True if `item` was accepted; False if no place became free in time or the queue is closed."""
        with self._condition:
            if len(self._items) >= self._places and not self._closed:
                self._condition.wait_for(lambda: self._closed or len(self._items) < self._places, timeout_s)
            if self._closed or len(self._items) >= self._places:
                return False
            self._items.append(item)
            self._condition.notify_all()
            return True


class RoundRobin(Generic[T]):
    """Takes from several slots in turn, so that each gets the same share under overload. For one thread."""

    def __init__(self, slots: Sequence[FrameQueue[T]], condition: threading.Condition) -> None:
        """Takes the slots and the condition that they share."""
        self._slots = slots
        self._condition = condition
        self._next = 0

    def get(self, timeout_s: float) -> tuple[int, T] | None:
        """The next item and the number of its slot; None if none came in time.

        Raises:
            QueueClosed: all are closed and empty.
        """
        with self._condition:
            taken = self._poll()
            if taken is None:
                self._condition.wait(timeout_s)  # any slot's news, or another thread's taking: then None, too
                taken = self._poll()
            return taken

    def _poll(self) -> tuple[int, T] | None:
        closed = 0
        for step in range(len(self._slots)):
            number = (self._next + step) % len(self._slots)
            try:
                item = self._slots[number].poll()
            except QueueClosed:
                closed += 1
                continue
            if item is not None:
                self._next = number + 1
                return number, item
        if closed == len(self._slots):
            raise QueueClosed
        return None
