"""The end of a run: accepted results are published or stored within a limited time, even if a part hangs."""

import contextlib
import logging
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple, Protocol

from zsad_agent.daemon.supervision import SUPERVISE_S
from zsad_agent.inspection import Pipeline
from zsad_agent.mqtt import Publisher
from zsad_agent.spool import Spool

logger = logging.getLogger(__name__)

STOP_S = 1.6  # after a signal, for all services together; the whole stop takes less than 2 s
DRAIN_S = 1.0  # after a signal: for the picture in the model
DRAIN_HUNG_S = 0.1  # the same while the disk hangs and stores no result
FLUSH_ON_SIGNAL_S = 0.4
FLUSH_PATIENCE_S = 5.0  # at the end of a source: longest time in which no result is sent
FLUSH_AT_END_S = 60.0  # longest time in total
CALM_POLL_S = 0.02
RELOAD_PATIENCE_S = 20.0  # for each before a reload: opening a camera may take 15 s, a step of a teach-in some seconds


@contextlib.contextmanager
def stop_on_signal() -> Iterator[threading.Event]:
    """An event that SIGTERM and SIGINT set. Enter it in the main thread."""
    stop = threading.Event()
    before = {number: signal.signal(number, lambda *_: stop.set()) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield stop
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def leave_at_once(code: int, exit_now: Callable[[int], None]) -> None:
    """Ends the process without waiting for its threads."""
    logging.shutdown()
    with contextlib.suppress(OSError):  # stdout may be closed
        sys.stdout.flush()
    exit_now(code)


class ShutdownOutcome(NamedTuple):
    drained: bool  # False: a thread hangs
    lost: int  # results that neither the broker nor the disk has stored, as far as is known


def drain_and_flush(
    pipeline: Pipeline, publisher: Publisher, spool: Spool, ends: Sequence[threading.Event]
) -> ShutdownOutcome:
    """Waits a limited time until inspected pictures are in the spool, then until the broker has them."""
    pipeline.stop()
    drained = in_time(pipeline.wait, DRAIN_HUNG_S if spool.hangs else DRAIN_S, ends)
    if not drained:
        told = pipeline.stuck(0.0) or "a thread is busy"
        logger.warning("stopped after the time limit, so the latest picture may have no result: %s", told)
    logger.info("%d inspected, %d dropped", pipeline.inspected_frames, pipeline.dropped)
    if not any(end.is_set() for end in ends):
        unsent = _flush_at_end(publisher, ends[0])
    else:
        unsent = publisher.flush(FLUSH_ON_SIGNAL_S if publisher.connected and not spool.hangs else 0.0)
    lost = publisher.store_or_count_lost() if unsent else 0
    if lost:
        logger.error("%d results are LOST: neither a broker nor the spool %s accepted them", lost, spool.path)
    unknown = unsent - lost if unsent > lost and not spool.wait_for(spool.is_kept) else 0
    if unknown:
        logger.error("%d results were stored in the spool %s, which cannot be checked now", unknown, spool.path)
    elif unsent > lost:
        logger.warning("%d results stay in the spool %s and are sent at the next start", unsent - lost, spool.path)
    return ShutdownOutcome(drained, lost + unknown)


def in_time(done: Callable[[float], bool], limit_s: float, ends: Sequence[threading.Event]) -> bool:
    """True if `done` succeeded within `limit_s`; before a reload within `RELOAD_PATIENCE_S`, unless stopped."""
    stop, reload = ends
    end_s = time.monotonic() + RELOAD_PATIENCE_S
    over = done(limit_s)
    while not over and reload.is_set() and not stop.is_set() and time.monotonic() < end_s:
        over = done(SUPERVISE_S)
    return over


class Worker(Protocol):
    """A service with steps that cannot be interrupted."""

    @property
    def busy(self) -> bool:
        """Whether a step still runs after the stop."""


def is_calm(workers: Sequence[Worker], alive: Callable[[], None], limit_s: float) -> bool:
    """Waits at most `limit_s` until no worker is busy. `alive` is called regularly meanwhile."""
    end_s = time.monotonic() + limit_s
    while (busy := any(worker.busy for worker in workers)) and time.monotonic() < end_s:
        alive()
        time.sleep(CALM_POLL_S)
    return not busy


def _flush_at_end(publisher: Publisher, stop: threading.Event) -> int:
    """Waits for the broker while results are still being sent. Returns the number of unsent results."""
    end_s = time.monotonic() + FLUSH_AT_END_S
    patient_until_s = time.monotonic() + FLUSH_PATIENCE_S
    unsent = publisher.flush(SUPERVISE_S)
    while unsent and not stop.is_set() and time.monotonic() < min(patient_until_s, end_s):
        before, unsent = unsent, publisher.flush(SUPERVISE_S)
        if unsent < before:
            patient_until_s = time.monotonic() + FLUSH_PATIENCE_S
    return unsent
