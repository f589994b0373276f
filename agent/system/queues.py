"""Queues between threads: the newest item for a live camera, back-pressure for other sources, and round robin."""

import contextlib
import threading
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Sequence
from typing import Generic, TypeVar

T = TypeVar("T")


class QueueClosed(Exception):
    """The queue is closed and empty."""


class FrameQueue(ABC, Generic[T]):
    """First in, first out."""

    def __init__(self, condition: threading.Condition | None = None) -> None:
        """`condition` is shared with other queues; None: one of its own."""
        self._condition = condition or threading.Condition()
        self._items: deque[T] = deque()
        self._closed = False
        self.dropped = 0  # items that newer ones replaced

    @abstractmethod
    def put(self, item: T, *, keep: bool = False, timeout_s: float) -> bool:
        """Whether `item` was accepted."""

    @property
    def waiting(self) -> int:
        """Number of items in the queue."""
        return len(self._items)

    def get(self, timeout_s: float) -> T | None:
        """The next item; None if none came in time.

        Raises:
            QueueClosed: closed and empty.
        """
        with self._condition:
            self._condition.wait_for(lambda: self._closed or self._items, timeout_s)
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
    """One place. A newer item replaces an item that was not taken, which counts as dropped. `put` never waits.

    An item put with `keep` is never replaced, so a fault between two frames is always reported.
    """

    _newest_is_kept = False

    def put(self, item: T, *, keep: bool = False, timeout_s: float = 0.0) -> bool:
        """True unless closed. `timeout_s` has no effect here."""
        with self._condition:
            if self._closed:
                return False
            if not keep and self._items and not self._newest_is_kept:
                self._items.pop()
                self.dropped += 1
            self._items.append(item)
            self._newest_is_kept = keep
            self._condition.notify_all()
            return True


class BoundedQueue(FrameQueue[T]):
    """A few places. `put` waits while all are taken; nothing is dropped."""

    def __init__(self, places: int = 2, condition: threading.Condition | None = None) -> None:
        super().__init__(condition)
        self._places = places

    def put(self, item: T, *, keep: bool = False, timeout_s: float) -> bool:
        """True if `item` was accepted; False if no place became free in time or the queue is closed."""
        with self._condition:
            free = self._condition.wait_for(lambda: self._closed or len(self._items) < self._places, timeout_s)
            if self._closed or not free:
                return False
            self._items.append(item)
            self._condition.notify_all()
            return True


class RoundRobin(Generic[T]):
    """Takes from several queues in turn, so that each gets the same share under overload. For one thread."""

    def __init__(self, queues: Sequence[FrameQueue[T]], condition: threading.Condition) -> None:
        """`condition` is shared by the queues."""
        self._queues = queues
        self._condition = condition
        self._next = 0

    def get(self, timeout_s: float) -> tuple[int, T] | None:
        """The next item and the number of its queue; None if none came in time.

        Raises:
            QueueClosed: all are closed and empty.
        """
        with self._condition:
            if (taken := self._poll()) is None:
                self._condition.wait(timeout_s)  # also ends when another thread takes an item: None is returned then
                taken = self._poll()
            return taken

    def _poll(self) -> tuple[int, T] | None:
        any_open = False
        for number in (*range(self._next, len(self._queues)), *range(self._next)):
            with contextlib.suppress(QueueClosed):
                if (item := self._queues[number].poll()) is not None:
                    self._next = number + 1
                    return number, item
                any_open = True
        if not any_open:
            raise QueueClosed
        return None
