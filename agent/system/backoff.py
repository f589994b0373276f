"""Growing pauses between attempts, with jitter, so that devices do not retry at the same moment."""

import random


class Backoff:
    """Doubles from pause to pause. For one thread."""

    def __init__(self, first_s: float, most_s: float) -> None:
        """Takes the first and the longest pause in seconds, without the jitter of a quarter."""
        self._first_s = min(first_s, most_s)
        self._most_s = most_s
        self._next_s = self._first_s

    def next_s(self) -> float:
        """Seconds to wait before the next attempt."""
        pause_s = self._next_s
        self._next_s = min(2 * pause_s, self._most_s)
        return pause_s * random.uniform(0.75, 1.25)

    def reset(self) -> None:
        """Call it after a successful attempt: the next pause is the first one again."""
        self._next_s = self._first_s
