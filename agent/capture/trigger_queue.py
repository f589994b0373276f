"""Triggers that wait for their picture, in order. Used from any thread."""

import threading
from collections import deque
from dataclasses import dataclass

MAX_WAITING = 16
MAX_REFUSED = 1000  # refused triggers whose answer waits; further triggers are dropped, to limit memory
MAX_ID_CHARACTERS = 128


@dataclass(frozen=True, slots=True)
class Trigger:
    trigger_id: str | None  # chosen by the sender; None: no id
    arrived_s: float  # monotonic
    refused: str | None = None  # reason why it gets no picture


class TriggerQueue:
    """First in, first out. Every trigger is taken exactly once."""

    def __init__(self) -> None:
        self._condition = threading.Condition()
        self._waiting: deque[Trigger] = deque()

    def offer(self, trigger: Trigger) -> None:
        with self._condition:
            self._waiting.append(trigger)
            self._condition.notify_all()

    @property
    def pending(self) -> int:
        """How many triggers wait for a picture."""
        with self._condition:
            return sum(trigger.refused is None for trigger in self._waiting)

    @property
    def waiting(self) -> int:
        """How many triggers were not taken yet, including refused ones."""
        with self._condition:
            return len(self._waiting)

    def take_next(self, timeout_s: float) -> Trigger | None:
        """Takes the oldest; None if none came in time."""
        with self._condition:
            if not self._waiting:
                self._condition.wait(timeout_s)
            return self._waiting.popleft() if self._waiting else None

    def take_until(self, moment_s: float) -> list[Trigger]:
        """Takes all that arrived no later than `moment_s`, oldest first."""
        with self._condition:
            taken = []
            while self._waiting and self._waiting[0].arrived_s <= moment_s:
                taken.append(self._waiting.popleft())
            return taken

    def put_back(self, trigger: Trigger) -> None:
        """Puts back a trigger that got no picture; it is again the oldest."""
        with self._condition:
            self._waiting.appendleft(trigger)
            self._condition.notify_all()
