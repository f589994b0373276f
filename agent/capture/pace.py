"""Limits the rate at which pictures are taken."""

import threading
from collections.abc import Callable


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
