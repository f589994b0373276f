"""Limits the rate at which pictures are taken, and the rate of `unknown` results."""

import threading
import time
from collections.abc import Callable

UNKNOWN_EVERY_S = 60.0  # interval of `unknown` results of a free-running camera with bad pictures


class Pace:
    """At most `fps` pictures per second, evenly spaced; None: no limit."""

    def __init__(self, fps: float | None, clock: Callable[[], float]) -> None:
        self._fps = fps
        self._clock = clock
        self._next_due_s = -float("inf")

    @property
    def is_due(self) -> bool:
        return self._clock() >= self._next_due_s

    def count_taken(self) -> None:
        """Sets when the next picture is due. Late pictures are not made up for."""
        if self._fps is not None:
            now_s, on_grid_s = self._clock(), self._next_due_s + 1 / self._fps
            self._next_due_s = on_grid_s if on_grid_s > now_s else now_s + 1 / self._fps

    def wait(self, stop: threading.Event, at_most_s: float = threading.TIMEOUT_MAX) -> None:
        """Waits until the next picture is due, `stop` is set, or `at_most_s` have passed."""
        if self._fps is not None:
            stop.wait(min(at_most_s, max(0.0, self._next_due_s - self._clock())))


class UnknownPace:
    """Says which bad pictures of a free-running camera give a result. For one thread.

    The first one after a good picture does, and then one every `UNKNOWN_EVERY_S`. Otherwise a camera with a lasting
    fault would fill the spool and push real results out.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        """`clock` gives monotonic seconds."""
        self._clock = clock
        self._due_s = -float("inf")

    def take(self) -> bool:
        """Whether a bad picture gives a result now; if so, this counts as that result."""
        now_s = self._clock()
        if now_s < self._due_s:
            return False
        self._due_s = now_s + UNKNOWN_EVERY_S
        return True

    def count_good(self) -> None:
        self._due_s = -float("inf")
