"""The connections of a server: accepted, limited in number and time, and handed to uvicorn's HTTP/1.1 protocol."""

import asyncio
import json
import logging
import socket
import ssl
import sys
import time
from collections.abc import Callable
from http import HTTPStatus
from typing import Any

import h11
import uvicorn
from uvicorn.protocols.http.h11_impl import H11Protocol
from uvicorn.server import ServerState

from zsad_agent.serving.asgi import MAX_HEAD_BYTES, App
from zsad_agent.serving.server import Limits

logger = logging.getLogger(__name__)

RETRY_ACCEPT_S = 0.5  # after the process has run out of file descriptors
LEAST_S = 0.1  # for which a connection may wait for its request, however many others there are
END_S = 0.2  # for tasks that are cancelled at the stop


class LimitedProtocol(H11Protocol):
    """uvicorn's protocol, which ends slow clients: it has no limit for an incomplete request itself."""

    def __init__(self, connections: "Connections") -> None:
        super().__init__(connections.config, connections.state, {})
        self._of, self._limits = connections, connections.limits
        self._timer: asyncio.TimerHandle | None = None
        self._phase = ""
        self.since_s = time.monotonic()  # that it has waited for a request

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self._enter("head", self._limits.head_s)

    def connection_lost(self, exc: Exception | None) -> None:
        self._disarm()
        self._of.forget(self)
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        self._watch()

    def on_response_complete(self) -> None:
        self._of.note_asking(self)
        super().on_response_complete()  # begins a further request that has arrived
        self._watch()

    def pause_writing(self) -> None:
        super().pause_writing()
        self._enter("stalled", self._limits.stalled_s)

    def resume_writing(self) -> None:
        super().resume_writing()
        self._watch()

    def send_400_response(self, msg: str) -> None:
        """As the other errors. Called where an error of h11 is handled; the request's text is not repeated."""
        error = sys.exc_info()[1]
        status = error.error_status_hint if isinstance(error, h11.RemoteProtocolError) else 400
        text = "the head is too large" if status == 431 else "this is no HTTP/1.1 request"
        body = json.dumps({"error": text}).encode() + b"\n"
        headers = [("content-type", "application/json"), ("content-length", str(len(body))), ("connection", "close")]
        reason = HTTPStatus(status).phrase.encode()
        for event in (
            h11.Response(status_code=status, headers=headers, reason=reason),
            h11.Data(data=body),
            h11.EndOfMessage(),
        ):
            self.transport.write(self.conn.send(event) or b"")
        self.transport.close()

    def end(self) -> None:
        """Closes the connection at once."""
        if self.transport is not None:
            self.transport.abort()

    def _watch(self) -> None:
        """Notes how far the request is."""
        if self.flow.write_paused:  # stalled, whatever else the client sends
            return
        state = self.conn.their_state
        if state is h11.SEND_BODY:
            self._enter("body", self._limits.body_s)
        elif state is not h11.IDLE:
            self._of.note_complete(self)
            self._enter("answer", self._limits.answer_s)
        elif self.conn.trailing_data[0]:
            self._enter("head", self._limits.head_s)
        else:  # `idle_s` is uvicorn's
            self._enter("idle", None)

    def _enter(self, phase: str, limit_s: float | None) -> None:
        if phase == self._phase:
            return  # a byte now and then does not prolong it
        self._disarm()
        self._phase = phase
        if limit_s is not None:
            self._timer = self.loop.call_later(limit_s, self.end)

    def _disarm(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None


class Connections:
    """The open connections of one server. Used in its event loop."""

    def __init__(self, app: App, limits: Limits, context: ssl.SSLContext | None) -> None:
        self.limits = limits
        self.config = uvicorn.Config(
            app,
            loop="none",
            http=H11Protocol,
            ws="none",
            lifespan="off",
            interface="asgi3",
            log_config=None,
            access_log=False,
            proxy_headers=False,  # the client is the program that has connected
            server_header=False,
            date_header=False,
            timeout_keep_alive=limits.idle_s,
            h11_max_incomplete_event_size=MAX_HEAD_BYTES,
        )
        self.config.load()
        self.state = ServerState()
        self._context = context
        self._open: dict[LimitedProtocol, asyncio.Task[None] | None] = {}
        self._asking: dict[LimitedProtocol, None] = {}  # those without a complete request, the oldest first

    async def accept_from(self, listener: socket.socket) -> None:
        """Until it is cancelled."""
        loop = asyncio.get_running_loop()
        while True:
            try:
                client, _ = await loop.sock_accept(listener)
            except OSError as error:
                logger.debug("a connection cannot be accepted: %s", error)
                await asyncio.sleep(RETRY_ACCEPT_S)
                continue
            try:
                has_room = len(self._open) < self.limits.connections or await self._close_oldest()
            except asyncio.CancelledError:
                client.close()
                raise
            if not has_room:
                client.close()
                continue
            protocol = LimitedProtocol(self)
            self._asking[protocol] = None
            self._open[protocol] = asyncio.create_task(self._begin(protocol, client))

    async def _begin(self, protocol: LimitedProtocol, client: socket.socket) -> None:
        try:
            # asyncio does this only for sockets that it has made. Without it, the kernel holds back the body of an
            # answer until the client has acknowledged the head: 40 ms.
            client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            await asyncio.get_running_loop().connect_accepted_socket(
                lambda: protocol,
                client,
                ssl=self._context,
                ssl_handshake_timeout=self.limits.head_s if self._context is not None else None,
            )
        except (OSError, asyncio.CancelledError) as error:  # usually a TLS handshake that fails
            logger.debug("a connection has not begun: %s", error)
            client.close()
            self.forget(protocol)

    async def _close_oldest(self) -> bool:
        """Closes the connection that has waited longest for its own request. All clients may have one address.

        It has had `LEAST_S`: a request that was sent at once is then complete, however many others connect.
        """
        while (oldest := next(iter(self._asking), None)) is not None:
            if (left_s := oldest.since_s + LEAST_S - time.monotonic()) <= 0:
                self._end(oldest)
                return True
            await asyncio.sleep(left_s)
        return len(self._open) < self.limits.connections

    def note_complete(self, protocol: LimitedProtocol) -> None:
        """Its request is complete: from now on it is not closed for a newer one."""
        self._asking.pop(protocol, None)

    def note_asking(self, protocol: LimitedProtocol) -> None:
        """Its answer is complete."""
        if protocol in self._open:
            protocol.since_s = time.monotonic()
            self._asking[protocol] = None

    def forget(self, protocol: LimitedProtocol) -> None:
        self._open.pop(protocol, None)
        self._asking.pop(protocol, None)

    def end(self) -> None:
        """Closes all."""
        for protocol in list(self._open):
            self._end(protocol)

    def _end(self, protocol: LimitedProtocol) -> None:
        task = self._open.get(protocol)
        self.forget(protocol)
        if task is not None and not task.done():
            task.cancel()
        else:
            protocol.end()


def serve(
    app: App,
    limits: Limits,
    context: ssl.SSLContext | None,
    *,
    listener: Callable[[], socket.socket],
    woken: socket.socket,
    stopping: Callable[[], bool],
) -> None:
    """Serves until `stopping`.

    Args:
        app: the application.
        limits: what clients may use up.
        context: of TLS; None: plain HTTP.
        listener: the open port, opened again if it was closed.
        woken: becomes readable when `listener` or `stopping` has changed.

    Raises:
        OSError: the port cannot be opened.
    """
    logging.getLogger("uvicorn.error").setLevel(logging.CRITICAL)  # it logs what clients do wrong
    loop = asyncio.new_event_loop()
    loop.set_exception_handler(lambda _, context: logger.debug("%s", context))  # usually a client that disconnected
    connections = Connections(app, limits, context)
    try:
        asyncio.set_event_loop(loop)
        loop.run_until_complete(_serve(connections, listener, woken, stopping))
    finally:  # also after a crash: a client must not wait for an answer that never comes
        connections.end()
        tasks = asyncio.all_tasks(loop)
        for task in tasks:
            task.cancel()
        loop.run_until_complete(asyncio.wait(tasks, timeout=END_S) if tasks else asyncio.sleep(0))
        asyncio.set_event_loop(None)
        loop.close()


async def _serve(
    connections: Connections,
    listener: Callable[[], socket.socket],
    woken: socket.socket,
    stopping: Callable[[], bool],
) -> None:
    loop = asyncio.get_running_loop()
    waking: asyncio.Task[Any] = asyncio.create_task(loop.sock_recv(woken, 64))
    while not stopping():
        accepting = asyncio.create_task(connections.accept_from(listener()))
        await asyncio.wait((accepting, waking), return_when=asyncio.FIRST_COMPLETED)
        if accepting.done():
            accepting.result()
        accepting.cancel()
        await asyncio.wait((accepting,))
        if waking.done():
            waking = asyncio.create_task(loop.sock_recv(woken, 64))
    waking.cancel()
