"""A clock for tests of retries."""


class FastClock:
    """A clock that advances at each call, so that retries are due at once."""

    def __init__(self) -> None:
        self._now_s = 0.0

    def __call__(self) -> float:
        self._now_s += 5.0
        return self._now_s
