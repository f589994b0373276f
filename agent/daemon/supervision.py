"""Supervision of the running services: the watchdog of systemd and the status of the agent."""

import logging
import threading
import time
from collections.abc import Callable, Sequence

from zsad_agent.capture import PROCESS, CameraStatus
from zsad_agent.inspection import Pipeline
from zsad_agent.system import Notifier, ServiceGroup

logger = logging.getLogger(__name__)

SUPERVISE_S = 0.2  # between two checks of the pipeline
STATUS_EVERY_S = 5.0  # for the counts; a change is reported at once
STUCK_AFTER_S = 15.0  # without systemd's watchdog; with it, half of its interval


def find_stuck(pipeline: Pipeline, services: ServiceGroup, watchdog_s: float | None) -> str | None:
    """The component that hangs or has died, so that results may be lost; None if there is none."""
    limit_s = watchdog_s / 2 if watchdog_s is not None else STUCK_AFTER_S
    return pipeline.stuck(limit_s) or next(iter(services.dead(vital=True)), None)


def supervise(
    pipeline: Pipeline,
    services: ServiceGroup,
    notifier: Notifier,
    statuses: Sequence[CameraStatus],
    *,
    ends: Sequence[threading.Event],
    notes: Sequence[str] = (),
    tend: Sequence[Callable[[], None]] = (),
) -> None:
    """Runs until the pipeline is done or one of `ends` is set. Feeds the watchdog while inference and publishing work.

    The watchdog is also fed while a camera or the broker is away, because a restart would not bring it back. A service
    whose thread has died is logged once and stays in the status text, as `notes` do. Each of `tend` is called every
    `SUPERVISE_S`.
    """
    status_due_s, said = 0.0, ""
    logged: set[str] = set()
    while not any(end.is_set() for end in ends) and not pipeline.wait(SUPERVISE_S):
        stuck = find_stuck(pipeline, services, notifier.watchdog_s)
        if stuck is None:
            notifier.watchdog()
        for status in statuses:
            if stuck is None:
                status.clear(PROCESS)
            else:
                status.fault(PROCESS, stuck)
        for death in services.dead():
            if death not in logged:
                logged.add(death)
                logger.error("%s", death)
        for each in tend:
            each()
        state = "; ".join((condition(statuses), *services.faults, *notes))
        if state != said or time.monotonic() >= status_due_s:
            status_due_s, said = time.monotonic() + STATUS_EVERY_S, state
            notifier.status(f"{state}; {pipeline.inspected_frames} inspected, {pipeline.dropped} dropped")


def condition(statuses: Sequence[CameraStatus]) -> str:
    """One line: `ok` or the fault; with several cameras each one is named."""
    if len(statuses) == 1:
        return statuses[0].text
    if all(status.text == "ok" for status in statuses):
        return f"{len(statuses)} cameras ok"
    return ", ".join(f"{status.camera} {status.text}" for status in statuses)
