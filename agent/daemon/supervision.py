"""The watch over a running pipeline: signs of life for systemd, and what is said of the whole."""

import threading
import time
from collections.abc import Callable, Sequence
from typing import Protocol

from zsad_agent.capture import PROCESS, CameraStatus
from zsad_agent.messages import AgentSnapshot, RecentResults, build_stats, encode
from zsad_agent.system import Notifier

SUPERVISE_S = 0.2  # between two looks at the pipeline
STATUS_EVERY_S = 5.0  # for the counts; a change is said at once
STATS_EVERY_S = 30.0
STUCK_AFTER_S = 15.0  # without systemd's watchdog; with it, half of its interval


class Watched(Protocol):
    """The pipeline, as the watch over it sees it."""

    @property
    def dropped(self) -> int: ...

    @property
    def inspected_frames(self) -> int: ...

    def stuck(self, limit_s: float) -> str | None: ...

    def wait(self, timeout_s: float) -> bool: ...


class WatchedPublisher(Protocol):
    @property
    def alive(self) -> bool: ...

    @property
    def fault(self) -> str | None: ...


def find_stuck(pipeline: Watched, publisher: WatchedPublisher, watchdog_s: float | None) -> str | None:
    """Which part does not move on, though it should; None when all does."""
    limit_s = watchdog_s / 2 if watchdog_s is not None else STUCK_AFTER_S
    return pipeline.stuck(limit_s) or (None if publisher.alive else "the thread that sends has died")


def supervise(
    pipeline: Watched,
    publisher: WatchedPublisher,
    notifier: Notifier,
    statuses: Sequence[CameraStatus],
    *,
    ends: Sequence[threading.Event],
    tend: Callable[[], str | None] = lambda: None,
) -> None:
    """Until the pipeline is done or one of `ends` is set. Feeds the watchdog while inference and publishing move on.

    A camera or broker that is away does not stop the signs of life: a restart would not bring it back.

    Args:
        tend: called at every look; further faults of the whole, for the status text.
    """
    status_due_s, said = 0.0, ""
    while not any(end.is_set() for end in ends) and not pipeline.wait(SUPERVISE_S):
        stuck = find_stuck(pipeline, publisher, notifier.watchdog_s)
        if stuck is None:
            notifier.watchdog()
        for status in statuses:
            if stuck is None:
                status.clear(PROCESS)
            else:
                status.fault(PROCESS, stuck)
        state = "; ".join(filter(None, (condition(statuses), publisher.fault, tend())))
        if state != said or time.monotonic() >= status_due_s:
            status_due_s, said = time.monotonic() + STATUS_EVERY_S, state
            notifier.status(f"{state}; {pipeline.inspected_frames} inspected, {pipeline.dropped} dropped")


def condition(statuses: Sequence[CameraStatus]) -> str:
    """One line: `ok`, or what is wrong; with several cameras each is named."""
    if len(statuses) == 1:
        return statuses[0].text
    if all(status.text == "ok" for status in statuses):
        return f"{len(statuses)} cameras ok"
    return ", ".join(f"{status.camera} {status.text}" for status in statuses)


class StatsReporter:
    """What is done now and then while the pipeline runs."""

    def __init__(
        self,
        *,
        snapshot: Callable[[], AgentSnapshot],
        recent: RecentResults,
        publish: Callable[[str, bytes], None],
        faults: Callable[[], list[str]],
    ) -> None:
        """Takes whom it asks.

        Args:
            snapshot: the counts at this moment.
            recent: was given every result.
            publish: retained, on a topic of the device.
            faults: of the whole, beside those of cameras and broker.
        """
        self._snapshot = snapshot
        self._recent = recent
        self._publish = publish
        self._faults = faults
        self._stats_due_s = time.monotonic()

    def tend(self) -> str | None:
        """Publishes the statistics when it is time. What is wrong with the whole; None when nothing is."""
        if time.monotonic() >= self._stats_due_s:
            self._stats_due_s = time.monotonic() + STATS_EVERY_S
            self._publish("stats", encode(build_stats(self._snapshot(), self._recent)))
        return "; ".join(self._faults()) or None
