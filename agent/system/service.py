"""What runs on threads of its own: started, watched over and stopped the same way, whatever it does."""

import logging
import threading
import time
from abc import abstractmethod
from types import TracebackType
from typing import ClassVar, Protocol, Self, TypeVar

logger = logging.getLogger(__name__)


class Service(Protocol):
    """A context manager, too: starts on entry, and stops within `stop_s` on leaving."""

    name: ClassVar[str]  # for messages
    vital: ClassVar[bool] = False  # results may be lost when its thread has died, so the watchdog is not fed
    stop_s: ClassVar[float]
    _thread: threading.Thread | None = None

    def start(self) -> None:
        """Starts the threads. Once."""
        if self._thread is not None:
            self._thread.start()

    @abstractmethod
    def stop(self, deadline_s: float) -> None:
        """Ends the threads. One that hangs is left behind at `deadline_s` (monotonic). Safe to call twice."""

    @property
    def alive(self) -> bool:
        """Whether every thread that should run does. Asked between start and stop."""
        return self._thread is not None and self._thread.is_alive()

    @property
    def fault(self) -> str | None:
        """What keeps a living service from its work, in words; None when all is well."""
        return None

    def _wait(self, deadline_s: float) -> bool:
        """Whether the thread has ended by then."""
        if self._thread is not None:
            self._thread.join(max(0.0, deadline_s - time.monotonic()))
        return self._thread is None or not self._thread.is_alive()

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop(time.monotonic() + self.stop_s)


S = TypeVar("S", bound=Service)


class ServiceGroup:
    """The services of one run."""

    def __init__(self) -> None:
        self._running: list[Service] = []

    def start(self, service: S) -> S:
        """Starts it after the others, and so stops it before them."""
        service.start()
        self._running.append(service)
        return service

    def stop(self, deadline_s: float) -> None:
        """Stops all until `deadline_s` (monotonic), the newest first. One that hangs takes no more than its share."""
        while self._running:
            now_s = time.monotonic()
            share_s = max(0.0, deadline_s - now_s) / len(self._running)
            service = self._running.pop()
            try:
                service.stop(now_s + share_s)
            except Exception:  # the others are stopped all the same
                logger.exception("%s: cannot be stopped", service.name)

    def dead(self, *, vital: bool = False) -> list[str]:
        """Those whose thread has ended, in words. `vital`: only those without which results may be lost."""
        return [
            f"{service.name}: its thread has died"
            for service in list(self._running)
            if not service.alive and (service.vital or not vital)
        ]

    @property
    def faults(self) -> list[str]:
        """What each service states, then those that have died."""
        return [*(service.fault for service in list(self._running) if service.fault), *self.dead()]
