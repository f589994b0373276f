"""An HTTP server in a thread of its own. A failure in it does not stop the inspection."""

import contextlib
import logging
import os
import selectors
import socket
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from zsad_agent.system import Backoff, Service, lower_priority
from zsad_core.errors import ZsadError

if TYPE_CHECKING:
    import ssl

    from zsad_agent.serving.asgi import App

logger = logging.getLogger(__name__)

RETRY_S, RETRY_MOST_S = 1.0, 30.0  # after a port that is taken, or a crash
STEADY_S = 60.0  # after this time without a crash the next pause is the first one again
BACKLOG = 128


@dataclass(frozen=True, kw_only=True)
class Limits:
    """What clients may use up. Of the connections above `connections` the one that has waited longest is closed."""

    connections: int  # at once
    head_s: float  # from the connection, or the first byte of a further request, to the end of the head
    body_s: float  # from the end of the head to the end of the request
    answer_s: float | None = None  # from the end of the request to the end of its answer; None: no limit
    stalled_s: float = 20.0  # for which a client reads nothing of its answer
    idle_s: int = 15  # between two requests of a connection


class HttpServer(Service):
    """Opens its port at the start. The application and its libraries are imported when the first client connects.

    A port that is taken and a crash are the `fault` until the server works again. It is tried again with growing
    pauses.
    """

    name: ClassVar[str] = "http server"
    title: ClassVar[str] = "http server"  # what is at its address, for the log
    scheme = "http"
    stop_s = 1.0

    def __init__(
        self,
        make_app: "Callable[[], App]",
        address: Callable[[], tuple[str, int]],
        limits: Limits,
        *,
        make_context: "Callable[[], ssl.SSLContext | None]" = lambda: None,
        begin_s: float | None = None,
        nice: int = 0,
    ) -> None:
        """Opens nothing yet.

        Args:
            make_app: called in the thread of the server, once.
            address: host, without brackets, and port, 0 for any free one. Asked again after `listen_again`.
            limits: what clients may use up.
            make_context: of TLS; None: plain HTTP.
            begin_s: time after the start at which the application is made, even without a client; None: never.
            nice: how far the thread's priority is below that of the others; 0 to 19.
        """
        self._make_app, self._address, self._limits = make_app, address, limits
        self._make_context = make_context
        self._begin_s, self._nice = begin_s, nice
        self._listener: socket.socket | None = None
        self._wake_up, self._woken = socket.socketpair()
        for end in (self._wake_up, self._woken):
            end.setblocking(False)
        self._stopping = self._moved = False
        self._fault: str | None = None
        self._app: App | None = None
        self.port: int | None = None  # that it listens on
        self._thread = threading.Thread(target=self._run, name=f"zsad-{self.name.replace(' ', '-')}", daemon=True)

    def start(self) -> None:
        try:
            self._listen()
        except OSError as error:
            self._note(error)
        super().start()

    def stop(self, deadline_s: float) -> None:
        self._stopping = True
        self._wake()
        self._wait(deadline_s)
        self._close_listener()

    @property
    def fault(self) -> str | None:
        return self._fault

    def listen_again(self) -> None:
        """The address has changed. Open connections stay."""
        self._moved = True
        self._wake()

    def _run(self) -> None:
        backoff = Backoff(RETRY_S, RETRY_MOST_S)
        if self._nice:
            lower_priority(self._nice)
        while not self._stopping:
            begun_s = time.monotonic()
            try:
                if self._fault is not None:
                    self._sleep(backoff.next_s())
                if not self._stopping and self._await_client():
                    self._serve()
            except BaseException as error:  # also SystemExit: nothing that happens here ends inspection
                if time.monotonic() - begun_s > STEADY_S:
                    backoff.reset()
                self._close_listener()
                self._note(error)

    def _serve(self) -> None:
        """Until the stop."""
        from zsad_agent.serving.connections import serve  # uvicorn and asyncio: 6 MB

        if self._app is None:
            self._app = self._make_app()
        serve(
            self._app,
            self._limits,
            self._make_context(),
            listener=self._listening,
            woken=self._woken,
            stopping=lambda: self._stopping,
        )

    def _await_client(self) -> bool:
        """Whether it is time to serve. Opens the port if it is not open."""
        until_s = None if self._begin_s is None else time.monotonic() + self._begin_s
        while not self._stopping:
            listener = self._listening()
            left_s = None if until_s is None else max(0.0, until_s - time.monotonic())
            if not self._wait_or_wake(left_s, listener):
                return True
        return False

    def _wait_or_wake(self, timeout_s: float | None, listener: socket.socket | None = None) -> bool:
        """Waits for the timeout, a client or `_wake`. Whether it was `_wake`."""
        with selectors.DefaultSelector() as selector:  # not `select`: it fails for a file descriptor above 1023
            for each in (self._woken, listener):
                if each is not None:
                    selector.register(each, selectors.EVENT_READ)
            woken = any(key.fileobj is self._woken for key, _ in selector.select(timeout_s))
        if woken:
            self._woken.recv(64)
        return woken

    def _listening(self) -> socket.socket:
        """The open port. In the thread of the server: nothing waits for the earlier one there."""
        if self._moved:
            self._moved = False
            self._close_listener()
        return self._listener or self._listen()

    def _listen(self) -> socket.socket:
        host, port = self._address()
        port = port or self.port or 0
        try:
            family, _, _, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
            both = host == "::" and socket.has_dualstack_ipv6()
            listener = socket.create_server(
                (str(address[0]), port), family=family, backlog=BACKLOG, dualstack_ipv6=both
            )
        except OSError as error:
            why = error.strerror if isinstance(error, socket.gaierror) else os.strerror(error.errno or 0)
            raise OSError(error.errno, f"cannot listen on {host}:{port}: {why}") from error
        listener.setblocking(False)
        self._listener, self.port = listener, int(listener.getsockname()[1])
        level = logging.INFO if self._fault is None else logging.WARNING  # as its fault was stated
        shown = f"[{host}]" if ":" in host else host
        logger.log(level, "%s at %s://%s:%d", self.title, self.scheme, shown, self.port)
        self._fault = None
        return listener

    def _close_listener(self) -> None:
        listener, self._listener = self._listener, None
        if listener is not None:
            listener.close()

    def _note(self, error: BaseException) -> None:
        expected = isinstance(error, OSError | ZsadError)
        if expected:
            fault = f"{self.name}: {getattr(error, 'strerror', None) or error}. It is tried again"
        else:
            fault = f"{self.name}: it crashed and is started again: {type(error).__name__}: {error}"
        if fault != self._fault:
            logger.error("%s", fault, exc_info=None if expected else error)
        self._fault = fault

    def _wake(self) -> None:
        with contextlib.suppress(OSError):  # a full pipe wakes too
            self._wake_up.send(b"!")

    def _sleep(self, pause_s: float) -> None:
        """Until then or the stop."""
        until_s = time.monotonic() + pause_s
        while not self._stopping and (left_s := until_s - time.monotonic()) > 0:
            self._wait_or_wake(left_s)
