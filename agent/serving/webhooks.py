"""Posts results to other programs, each result as the JSON of its MQTT message. Never delays anything."""

import contextlib
import http.client
import logging
import socket
import ssl
import threading
import time
from collections import deque
from collections.abc import Sequence

from zsad_agent.config import WebhookConfig, parse_address
from zsad_agent.messages import Result
from zsad_agent.system import Backoff, Service
from zsad_core.redaction import redacted

logger = logging.getLogger(__name__)

MAX_WAITING = 1000  # results for one webhook, in memory; one more replaces the oldest
SOCKET_S, ANSWER_S = 5.0, 10.0  # limits of each step, and of a whole request
FIRST_PAUSE_S, LONGEST_PAUSE_S = 1.0, 60.0
TRY_AGAIN = (408, 425, 429)  # further statuses that may pass, as 5xx do


class Webhooks(Service):
    """A sink of the pipeline, with a thread for each webhook, so that none delays another.

    A result is sent again until the answer is 2xx, or a status that a retry cannot change. A restart loses what waits.
    """

    name = "webhooks"
    stop_s = 0.2

    def __init__(self, webhooks: Sequence[WebhookConfig]) -> None:
        """Connects to nothing yet."""
        self._posts = [_Post(webhook) for webhook in webhooks]

    def start(self) -> None:
        for post in self._posts:
            post.thread.start()

    def stop(self, deadline_s: float) -> None:
        for post in self._posts:
            post.stop()
        for post in self._posts:
            post.thread.join(max(0.0, deadline_s - time.monotonic()))

    @property
    def alive(self) -> bool:
        return all(post.thread.is_alive() for post in self._posts)

    @property
    def fault(self) -> str | None:
        return "; ".join(post.fault for post in self._posts if post.fault) or None

    def accept(self, result: Result, heatmap: bytes | None) -> None:
        """Queues the result for each webhook that wants its verdict. Never waits."""
        for post in self._posts:
            if result.verdict.value in post.verdicts:
                post.put(result)


class _Post:
    """The results for one webhook."""

    def __init__(self, webhook: WebhookConfig) -> None:
        self.verdicts = frozenset(webhook.verdicts)
        self._address = parse_address(webhook.url, ("http", "https"))
        self._shown = redacted(webhook.url)  # its query may be a secret
        self._changed = threading.Condition()
        self._waiting: deque[bytes] = deque()
        self._stopping = False
        self._why: str | None = None
        self._lost = 0
        self.thread = threading.Thread(target=self._run, name="zsad-webhook", daemon=True)

    @property
    def fault(self) -> str | None:
        """Why results do not arrive."""
        with self._changed:
            if self._why is None:
                return None
            return f"webhook {self._shown}: {self._why}. {len(self._waiting)} results wait, {self._lost} are lost"

    def put(self, result: Result) -> None:
        body = result.encode()
        with self._changed:
            if len(self._waiting) >= MAX_WAITING:
                self._waiting.popleft()
                self._lost += 1
            self._waiting.append(body)
            self._changed.notify_all()

    def stop(self) -> None:
        with self._changed:
            self._stopping = True
            self._changed.notify_all()

    def _run(self) -> None:
        backoff = Backoff(FIRST_PAUSE_S, LONGEST_PAUSE_S)
        while (body := self._next()) is not None:
            why, is_final = self._send(body)
            self._note(body, why, is_final=is_final)
            if why is None:
                backoff.reset()
            elif not is_final:
                with self._changed:
                    self._changed.wait_for(lambda: self._stopping, backoff.next_s())

    def _next(self) -> bytes | None:
        """The oldest that waits; None at the stop."""
        with self._changed:
            self._changed.wait_for(lambda: self._stopping or self._waiting)
            return None if self._stopping else self._waiting[0]

    def _note(self, body: bytes, why: str | None, *, is_final: bool) -> None:
        with self._changed:
            if (why is None or is_final) and self._waiting and self._waiting[0] is body:  # else it was replaced
                self._waiting.popleft()
                self._lost += is_final
            before, self._why = self._why, why
        if why is not None and before is None:
            logger.warning("webhook %s: %s", self._shown, why)
        elif why is None and before is not None:
            logger.info("webhook %s works again; lost so far: %d", self._shown, self._lost)

    def _send(self, body: bytes) -> tuple[str | None, bool]:
        """Why it has not arrived (None: it has), and whether a retry is useless."""
        try:
            status = self._post(body)
        except (OSError, http.client.HTTPException, ValueError) as error:
            reason = getattr(error, "strerror", None) or str(error) or type(error).__name__
            return f"no answer: {reason}", False
        if 200 <= status < 300:
            return None, False
        if 300 <= status < 400:
            return f"answered {status}, a redirect, which is not followed: set web.webhooks to the new address", True
        return f"answered {status}", status < 500 and status not in TRY_AGAIN

    def _post(self, body: bytes) -> int:
        """The status of the answer."""
        host, port = self._address.host, self._address.port
        if self._address.scheme == "https":
            connection: http.client.HTTPConnection = http.client.HTTPSConnection(
                host, port, timeout=SOCKET_S, context=ssl.create_default_context()
            )
        else:
            connection = http.client.HTTPConnection(host, port, timeout=SOCKET_S)
        limit = threading.Timer(ANSWER_S, _cut, [connection])  # an answer may come byte by byte
        limit.daemon = True
        limit.start()
        try:
            headers = {"Content-Type": "application/json", "User-Agent": "zsad-agent"}
            connection.request("POST", self._address.rest or "/", body, headers)
            return connection.getresponse().status
        finally:
            limit.cancel()
            connection.close()


def _cut(connection: http.client.HTTPConnection) -> None:
    with contextlib.suppress(OSError, AttributeError):  # it has ended already
        connection.sock.shutdown(socket.SHUT_RDWR)
