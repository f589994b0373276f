"""What owns a thread: one interface (start, stop, alive, fault), a thread for one call, pauses between attempts."""

import contextlib
import logging
import os
import random
import socket
import threading
import time
from abc import abstractmethod
from collections.abc import Callable
from concurrent.futures import Future
from typing import ClassVar, Protocol, Self, TypeVar

logger = logging.getLogger(__name__)
ResultT = TypeVar("ResultT")

NICE = 10  # the inspection goes first
RETRY_S, RETRY_MOST_S = 1.0, 30.0  # pauses of a `RestartingService`


class Service(Protocol):
    """Something that owns a thread. As a context manager it starts on entry and stops within `stop_s` on exit."""

    name: ClassVar[str]  # used in messages
    vital: ClassVar[bool] = False  # results may be lost after its thread has died, so the watchdog is then not fed
    stop_s: ClassVar[float]
    _thread: threading.Thread | None = None

    def start(self) -> None:
        """Starts the threads. Call it once."""
        if self._thread is not None:
            self._thread.start()

    @abstractmethod
    def stop(self, deadline_s: float) -> None:
        """Ends the threads. Returns before `deadline_s` (monotonic seconds) even if one hangs. Safe to call twice."""

    @property
    def alive(self) -> bool:
        """Whether every thread runs that should run. Valid between start and stop."""
        return self._thread is not None and self._thread.is_alive()

    @property
    def fault(self) -> str | None:
        """The fault of a service that is alive, in words; None if there is none."""
        return None

    def _wait(self, deadline_s: float) -> bool:
        """Whether the thread ended before the deadline."""
        if self._thread is not None:
            self._thread.join(max(0.0, deadline_s - time.monotonic()))
        return self._thread is None or not self._thread.is_alive()

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop(time.monotonic() + self.stop_s)


class ThreadService(Service):
    """A service with one thread, which ends soon after `_stop` is set."""

    def __init__(self, thread_name: str) -> None:
        """Starts nothing."""
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name=thread_name, daemon=True)

    def stop(self, deadline_s: float) -> None:
        self._stop.set()
        self._wait(deadline_s)

    @property
    def busy(self) -> bool:
        """Whether it still works after the stop: a compiler and a step of a teach-in cannot be interrupted."""
        return self._stop.is_set() and self.alive

    @abstractmethod
    def _run(self) -> None:
        """The body of the thread."""


class RestartingService(ThreadService):
    """A service whose work is started again when it fails, with growing pauses.

    The failure is the `fault` until the work succeeds again. It does not end inspection.
    """

    def __init__(self, thread_name: str, *, place: str) -> None:
        """Starts nothing. `place`: what it serves or uses, for example a port, in messages."""
        super().__init__(thread_name)
        self._place = place
        self._fault: str | None = None

    @property
    def fault(self) -> str | None:
        return self._fault

    @abstractmethod
    def _work(self) -> None:
        """Works until the stop, and calls `_works` when it serves. An error or an earlier return is a failure."""

    def _works(self) -> None:
        """The fault is over."""
        logger.log(logging.INFO if self._fault is None else logging.WARNING, "%s at %s", self.name, self._place)
        self._fault = None

    def _run(self) -> None:
        backoff = Backoff(RETRY_S, RETRY_MOST_S)
        while not self._stop.is_set():
            begun_s, why = time.monotonic(), "it has ended"
            try:
                self._work()
            except Exception as error:
                why = (error.strerror if isinstance(error, OSError) else None) or str(error) or type(error).__name__
            if self._stop.is_set():
                return
            fault = f"{self.name}: {self._place}: {why}. It is tried again"
            if fault != self._fault:
                logger.error("%s", fault)
            self._fault = fault
            if time.monotonic() - begun_s > RETRY_MOST_S:
                backoff.reset()
            self._stop.wait(backoff.next_s())


S = TypeVar("S", bound=Service)


class ServiceGroup:
    """The services of one run, in the order of their starts."""

    def __init__(self) -> None:
        self._running: list[Service] = []

    def start(self, service: S) -> S:
        """Starts a service. It is stopped before those that were started earlier."""
        service.start()
        self._running.append(service)
        return service

    def stop(self, deadline_s: float) -> None:
        """Stops all before `deadline_s` (monotonic seconds), the newest first. Each has a share of the time."""
        while self._running:
            now_s = time.monotonic()
            share_s = max(0.0, deadline_s - now_s) / len(self._running)
            service = self._running.pop()
            try:
                service.stop(now_s + share_s)
            except Exception:  # the other services are stopped too
                logger.exception("%s: stop failed", service.name)

    def dead(self, *, vital: bool = False) -> list[str]:
        """The services whose thread has died, in words. `vital`: only those that results depend on."""
        return [
            f"{service.name}: its thread has died"
            for service in list(self._running)
            if not service.alive and (service.vital or not vital)
        ]

    @property
    def by_name(self) -> dict[str, str]:
        """The faults of the services that have one, by name."""
        running = list(self._running)
        dead = {one.name: "its thread has died" for one in running if not one.alive}
        return {one.name: fault for one in running if (fault := one.fault)} | dead

    @property
    def faults(self) -> list[str]:
        """The faults of the services, then the dead services."""
        return [*(service.fault for service in list(self._running) if service.fault), *self.dead()]


def in_thread(name: str, call: Callable[[], ResultT]) -> Future[ResultT]:
    """Runs `call` in a daemon thread, which does not delay the end of the process."""
    future: Future[ResultT] = Future()
    future.set_running_or_notify_cancel()  # nobody can cancel it, so that the thread can always set the result

    def body() -> None:
        try:
            future.set_result(call())
        except BaseException as error:  # `Future.result` raises it again
            future.set_exception(error)

    threading.Thread(target=body, name=name, daemon=True).start()
    return future


def keep_alive(listener: socket.socket) -> None:
    """Ends a connection within 30 s whose other end has vanished without a word: no power, a cut cable."""
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    unanswered_ms = (socket.TCP_USER_TIMEOUT, 25_000)  # for an answer on its way; the others are for a silent client
    for option, value in ((socket.TCP_KEEPIDLE, 10), (socket.TCP_KEEPINTVL, 5), (socket.TCP_KEEPCNT, 3), unanswered_ms):
        listener.setsockopt(socket.IPPROTO_TCP, option, value)


def lower_priority(nice: int = NICE) -> None:
    """Call it in a thread whose work may wait for the inspection. Threads that it starts later follow it."""
    with contextlib.suppress(OSError):  # a unit may forbid it
        os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), nice)


class Backoff:
    """The pauses between attempts. Each is twice the one before, with jitter: devices do not retry at the same moment.

    For one thread.
    """

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
