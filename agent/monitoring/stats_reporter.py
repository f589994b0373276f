"""Publishes the statistics regularly."""

import time
from collections.abc import Callable, Sequence

from zsad_agent.messages import AgentSnapshot

EVERY_S = 30.0
FAULTS_EVERY_S = 1.0  # shortest time between two messages because of a changed fault


class StatsReporter:
    def __init__(
        self,
        snapshot: Callable[[], AgentSnapshot],
        faults: Callable[[], Sequence[str]],
        publish: Callable[[str, bytes], None],
    ) -> None:
        """`faults` gives the present faults. `publish` sends a retained message on a topic of the device."""
        self._snapshot, self._faults, self._publish = snapshot, faults, publish
        self._due_s = time.monotonic()
        self._said: Sequence[str] = ()

    def tend(self) -> None:
        """Publishes the statistics if the last ones are `EVERY_S` old or their faults have changed."""
        faults, now_s = self._faults(), time.monotonic()
        changed = faults != self._said and now_s >= self._due_s - EVERY_S + FAULTS_EVERY_S
        if changed or now_s >= self._due_s:
            self._said, self._due_s = faults, now_s + EVERY_S
            self._publish("stats", self._snapshot().stats.encode())
