"""When the next picture of a source is due, and when an `unknown` is to be reported again."""

import threading
import time
from collections.abc import Callable

UNKNOWN_EVERY_S = 60.0  # of a camera that runs freely and whose pictures cannot be inspected


class Pace:
    """At most `fps` pictures a second, evenly; None: as they come."""

    def __init__(self, fps: float | None, clock: Callable[[], float]) -> None:
        self._fps = fps
        self._clock = clock
        self._next_due_s = -float("inf")

    @property
    def is_due(self) -> bool:
        return self._clock() >= self._next_due_s

    def count_taken(self) -> None:
        """Sets when the next one is due, without catching up on time that was lost."""
        if self._fps is not None:
            now_s, on_grid_s = self._clock(), self._next_due_s + 1 / self._fps
            self._next_due_s = on_grid_s if on_grid_s > now_s else now_s + 1 / self._fps

    def wait(self, stop: threading.Event, at_most_s: float = threading.TIMEOUT_MAX) -> None:
        """Until the next one is due, `stop` is set, or `at_most_s` have passed."""
        if self._fps is not None:
            stop.wait(min(at_most_s, max(0.0, self._next_due_s - self._clock())))


class UnknownPace:
    """Which of the pictures that cannot be inspected are results, for a camera that runs freely. For one thread.

    The first after a good picture is, and then one every `UNKNOWN_EVERY_S`: a camera with a lasting fault would else
    fill the spool and push real results out.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        """`clock` gives monotonic seconds."""
        self._clock = clock
        self._due_s = -float("inf")

    @property
    def is_due(self) -> bool:
        return self._clock() >= self._due_s

    def count_reported(self) -> None:
        self._due_s = self._clock() + UNKNOWN_EVERY_S

    def count_good(self) -> None:
        self._due_s = -float("inf")
