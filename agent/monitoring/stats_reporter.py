"""The statistics of the whole, published now and then."""

import time
from collections.abc import Callable

from zsad_agent.messages import AgentSnapshot, RecentResults, build_stats, encode

EVERY_S = 30.0


class StatsReporter:
    """Publishes `stats` when it is time, in the thread that calls it."""

    def __init__(
        self,
        *,
        snapshot: Callable[[], AgentSnapshot],
        recent: RecentResults,
        publish: Callable[[str, bytes], None],
    ) -> None:
        """Takes whom it asks.

        Args:
            snapshot: the counts at this moment.
            recent: was given every result.
            publish: retained, on a topic of the device.
        """
        self._snapshot = snapshot
        self._recent = recent
        self._publish = publish
        self._due_s = time.monotonic()

    def tend(self) -> None:
        """Publishes the statistics, if the last are `EVERY_S` old."""
        if time.monotonic() >= self._due_s:
            self._due_s = time.monotonic() + EVERY_S
            self._publish("stats", encode(build_stats(self._snapshot(), self._recent)))
