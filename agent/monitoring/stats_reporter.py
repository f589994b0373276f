"""Publishes the statistics regularly."""

import time
from collections.abc import Callable

from zsad_agent.messages import AgentSnapshot

EVERY_S = 30.0


class StatsReporter:
    def __init__(self, snapshot: Callable[[], AgentSnapshot], publish: Callable[[str, bytes], None]) -> None:
        """`publish` sends a retained message on a topic of the device."""
        self._snapshot = snapshot
        self._publish = publish
        self._due_s = time.monotonic()

    def tend(self) -> None:
        """Publishes the statistics if the last ones are `EVERY_S` old, in the thread that calls it."""
        if time.monotonic() >= self._due_s:
            self._due_s = time.monotonic() + EVERY_S
            self._publish("stats", self._snapshot().stats.encode())
