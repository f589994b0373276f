"""/metrics, /healthz and /readyz over HTTP, for programs on this machine."""

import io
import json
import logging
import re
import socket
import threading
import time
from collections.abc import Callable
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler
from socketserver import ThreadingTCPServer
from typing import Any, NamedTuple

from zsad_agent.monitoring.metrics import CONTENT_TYPE
from zsad_agent.system import Service

logger = logging.getLogger(__name__)

OFF = "off"
MAX_CONNECTIONS = 32  # at once; one more closes the oldest whose request is not complete
MAX_HEAD_BYTES = 8192  # request line and all headers
HEAD_S = 2.0  # from the connection to a complete request; a normal client needs milliseconds
ANSWER_S = 5.0  # from a complete request to the end of its answer
POLL_S = 0.25  # interval of checks for a stop and for expired connections

# Only names that no other site can point to this machine (DNS rebinding). The port may be that of a tunnel.
_HOST = re.compile(r"(127\.0\.0\.1|localhost)(:[0-9]{1,5})?", re.IGNORECASE)


class HealthServer(Service):
    """Answers GET and HEAD of three paths, one request per connection. Answers contain no text of the request.

    If the port is used, it logs one warning and the agent runs without the server.
    """

    name = "health server"
    stop_s = 1.0

    def __init__(
        self,
        listen: str,
        *,
        metrics: Callable[[], bytes],
        stuck: Callable[[], str | None],
        missing: Callable[[], list[str]],
        head_s: float = HEAD_S,
    ) -> None:
        """Opens nothing yet.

        Args:
            listen: `127.0.0.1:port`, 0 for any free one, or `off`.
            metrics: the body of /metrics.
            stuck: why inference or publishing hangs, for /healthz; None if they work.
            missing: every reason why the agent does not work at present, for /readyz.
            head_s: a connection without a complete request after this time is closed.
        """
        self._listen = listen
        self._head_s = head_s
        self._answers: dict[str, Callable[[], _Answer]] = {
            "/metrics": lambda: _Answer(HTTPStatus.OK, CONTENT_TYPE, metrics()),
            "/healthz": lambda: _verdict([reason] if (reason := stuck()) is not None else []),
            "/readyz": lambda: _verdict(missing()),
        }
        self._server: _Server | None = None
        self.port: int | None = None  # that it listens on

    def start(self) -> None:
        if self._listen == OFF:
            return
        host, _, port = self._listen.rpartition(":")
        try:
            self._server = _Server((host, int(port)), self._answers, self._head_s)
        except OSError as error:
            logger.warning("no metrics at %s: %s. The agent runs without them.", self._listen, error.strerror)
            return
        self.port = int(self._server.server_address[1])
        serve = self._server.serve_forever
        self._thread = threading.Thread(target=serve, args=(POLL_S,), name="zsad-http", daemon=True)
        self._thread.start()
        logger.info("metrics and health at http://%s:%d", host, self.port)

    def stop(self, deadline_s: float) -> None:
        if self._server is not None:
            self._server.shutdown()  # waits for `POLL_S` at most
            self._server.server_close()

    @property
    def alive(self) -> bool:
        """Whether it answers, unless it is off or its port was taken."""
        return self._thread is None or self._thread.is_alive()


class _Answer(NamedTuple):
    status: HTTPStatus
    content_type: str
    body: bytes


def _verdict(reasons: list[str]) -> _Answer:
    status = HTTPStatus.SERVICE_UNAVAILABLE if reasons else HTTPStatus.OK
    body = {"status": "unavailable" if reasons else "ok", "reasons": reasons}
    return _Answer(status, "application/json", json.dumps(body).encode() + b"\n")


class _Server(ThreadingTCPServer):
    """Not `http.server.HTTPServer`: that looks up its own host name, which may take long."""

    allow_reuse_address = True
    daemon_threads = True
    block_on_close = False
    request_queue_size = 128

    def __init__(self, address: tuple[str, int], answers: dict[str, Callable[[], _Answer]], head_s: float) -> None:
        self.answers = answers
        self._head_s = head_s
        self._lock = threading.Lock()
        self._ends_s: dict[socket.socket, float] = {}  # connections, the oldest first, and when they expire
        self._asking: dict[socket.socket, None] = {}  # those without a complete request, the oldest first
        super().__init__(address, _Handler)

    def verify_request(self, request: Any, client_address: Any) -> bool:
        """Whether one more connection is allowed; if not, it is closed without an answer.

        All clients are on this machine, so slow ones cannot be told by their address. The one that has waited longest
        for its own request makes room.
        """
        with self._lock:
            if len(self._ends_s) >= 2 * MAX_CONNECTIONS:  # the threads of closed ones have not ended yet
                return False
            if len(self._ends_s) >= MAX_CONNECTIONS and self._asking:
                self._close(next(iter(self._asking)))
            self._ends_s[request] = time.monotonic() + self._head_s
            self._asking[request] = None
            return True

    def note_complete(self, request: socket.socket) -> None:
        """The request is complete: from now on its connection is not closed for a newer one."""
        with self._lock:
            if request in self._asking:  # else it was closed
                del self._asking[request]
                self._ends_s[request] = time.monotonic() + ANSWER_S

    def shutdown_request(self, request: Any) -> None:
        with self._lock:
            self._ends_s.pop(request, None)
            self._asking.pop(request, None)
        super().shutdown_request(request)

    def service_actions(self) -> None:
        """Closes expired connections. A socket timeout is not enough, because it starts again with each byte."""
        with self._lock:
            for request in [request for request, end_s in self._ends_s.items() if time.monotonic() > end_s]:
                self._close(request)

    def _close(self, request: socket.socket) -> None:
        """Wakes its thread, which ends and closes it."""
        self._asking.pop(request, None)
        try:
            request.shutdown(socket.SHUT_RDWR)
        except OSError:
            logger.debug("a connection had ended already")

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Usually a client that disconnected. Not written to stderr."""
        logger.debug("a request failed", exc_info=True)


class _Handler(BaseHTTPRequestHandler):
    """One request of one connection."""

    server: _Server
    timeout = ANSWER_S
    server_version, sys_version = "zsad-agent", ""
    default_request_version = request_version = "HTTP/1.0"  # an invalid request also gets a status line
    command = requestline = ""

    def handle(self) -> None:
        """Limits the size of the head before it is parsed."""
        head = b""
        while b"\r\n\r\n" not in head and b"\n\n" not in head:
            if len(head) > MAX_HEAD_BYTES:
                self.send_error(HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE)
                return
            received = self.connection.recv(2048)
            if not received:
                return
            head += received
        self.server.note_complete(self.connection)
        self.rfile = io.BytesIO(head)
        self.handle_one_request()

    def do_GET(self) -> None:
        """Answers one of the three paths."""
        hosts = self.headers.get_all("Host") or []
        if len(hosts) != 1 or not _HOST.fullmatch(hosts[0].strip()):
            self.send_error(HTTPStatus.FORBIDDEN)
            return
        make = self.server.answers.get(self.path.partition("?")[0])
        if make is None:
            self.send_error(HTTPStatus.NOT_FOUND)
            return
        try:
            answer = make()
        except Exception as error:  # a failed check means not healthy
            logger.error("a health request cannot be answered: %s: %s", type(error).__name__, error)
            self.send_error(HTTPStatus.SERVICE_UNAVAILABLE)
            return
        self._send(answer)

    do_HEAD = do_GET

    def send_error(self, code: int, message: str | None = None, explain: str | None = None) -> None:
        """Sends only the status: the base class would repeat the request in its text."""
        status = HTTPStatus(code)
        self._send(_Answer(status, "text/plain; charset=utf-8", f"{status.phrase}\n".encode()))

    def _send(self, answer: _Answer) -> None:
        self.close_connection = True
        self.send_response(answer.status)
        self.send_header("Content-Type", answer.content_type)
        self.send_header("Content-Length", str(len(answer.body)))
        self.send_header("Cache-Control", "no-store")
        self.send_header("X-Content-Type-Options", "nosniff")
        self.send_header("Connection", "close")
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(answer.body)

    def log_message(self, format: str, *args: Any) -> None:
        """Logs nothing: the base class writes every request to stderr."""
