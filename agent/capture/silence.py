"""Says when a camera has given no picture for unusually long, before it counts as lost."""

from collections import deque
from collections.abc import Callable

LEAST_S = 1.5
INTERVALS = 3  # so many of the camera's own intervals are unusual
LATEST_INTERVALS = 8


class Silence:
    """The time since the last picture of a free-running camera. One thread notes pictures, any thread may ask."""

    def __init__(self, clock: Callable[[], float]) -> None:
        """`clock` gives monotonic seconds."""
        self._clock = clock
        self._intervals: deque[float] = deque(maxlen=LATEST_INTERVALS)
        self._state: tuple[float, float] | None = None  # time of the last picture, and how long a silence is usual

    def end(self) -> None:
        """The camera is closed or lost."""
        self._state = None

    def note_picture(self) -> None:
        """A picture has come, good or damaged."""
        now_s = self._clock()
        if self._state is not None:
            self._intervals.append(now_s - self._state[0])
        self._state = now_s, max(LEAST_S, INTERVALS * max(self._intervals, default=0.0))

    @property
    def unusual_s(self) -> float | None:
        """Seconds without a picture; None while that is usual, and before the first picture."""
        if (state := self._state) is None:
            return None
        last_s, usual_s = state
        silent_s = self._clock() - last_s
        return silent_s if silent_s >= usual_s else None
