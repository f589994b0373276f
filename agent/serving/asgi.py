"""The wrapper of each application: its host names, the limits of a request, and safe headers in every answer."""

import ipaddress
import json
import logging
import re
from collections.abc import Awaitable, Callable, Collection, Iterable, MutableMapping
from typing import Any

logger = logging.getLogger(__name__)

# As in starlette.types, which this module does not import
Message = MutableMapping[str, Any]
Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
App = Callable[[Scope, Receive, Send], Awaitable[None]]

MAX_HEAD_BYTES = 8192
MAX_HEADERS = 100
WHOLE_BYTES = 65_536  # a body with at most this limit is received before the application is asked
INTERNAL = "internal error: the log of zsad-agent says more"
MAX_DRAINED_BYTES = 64_000_000  # of a body that is too large
SAFE_HEADERS = (
    (b"x-content-type-options", b"nosniff"),
    (b"x-frame-options", b"DENY"),
    (b"referrer-policy", b"no-referrer"),
    (b"cross-origin-opener-policy", b"same-origin"),
    (b"cross-origin-resource-policy", b"same-origin"),
    (
        b"content-security-policy",
        b"default-src 'self'; img-src 'self' blob:; object-src 'none'; base-uri 'none'; form-action 'self'; "
        b"frame-ancestors 'none'",
    ),
)
CLOSE = ((b"connection", b"close"),)
NO_STORE = (b"cache-control", b"no-store")
_HOST = re.compile(r"(?P<name>\[[0-9A-Fa-f:.]+\]|[A-Za-z0-9._-]+)(:[0-9]{1,5})?")


class Guard:
    """Refuses a bad request before the application gets it, and answers if the application fails.

    A name that another site can point to this machine is refused as Host (DNS rebinding). The port in it may be that
    of a tunnel.
    """

    def __init__(
        self,
        app: App,
        *,
        names: Callable[[], Collection[str]],
        body_limit: Callable[[Scope], int] = lambda scope: 0,
    ) -> None:
        """`names`: host names of this machine, in lower case. `body_limit`: bytes."""
        self._app = app
        self._names = names
        self._body_limit = body_limit

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        body = _Body(receive, self._body_limit(scope))
        started = False

        async def send_safely(message: Message) -> None:
            nonlocal started
            if body.too_large and not started:
                return  # the application answers because the body ends in its middle
            if message["type"] == "http.response.start":
                started = True
                message["headers"] = [*message.get("headers", []), *_missing(message.get("headers", []))]
            await send(message)

        if scope["type"] != "http":
            return
        if (refusal := self._refusal(scope)) is not None:
            await send_error(send_safely, *refusal, CLOSE)
            return
        length = header(scope, b"content-length")
        body.too_large = length is not None and int(length) > body.limit
        if not body.too_large and body.limit <= WHOLE_BYTES and not await body.read():
            return
        if not body.too_large:
            try:
                await self._app(scope, body.receive, send_safely)
            except Exception as error:
                if not body.too_large:
                    logger.exception("a request to %s failed: %s", scope["path"], type(error).__name__)
                    if not started:
                        await send_error(send_safely, 500, INTERNAL)
        if body.too_large and not started:
            if header(scope, b"expect") is None:  # else the client has not begun to send it
                await body.drain()
            body.too_large = False
            text = f"the body is too large: at most {body.limit} bytes are allowed here"
            await send_error(send_safely, 413, text, CLOSE)

    def _refusal(self, scope: Scope) -> tuple[int, str] | None:
        headers = scope["headers"]
        size = len(scope["raw_path"]) + len(scope["query_string"]) + sum(len(k) + len(v) + 4 for k, v in headers)
        if size > MAX_HEAD_BYTES or len(headers) > MAX_HEADERS:
            return 431, f"the head is too large: at most {MAX_HEAD_BYTES} bytes and {MAX_HEADERS} headers are allowed"
        hosts = [value.decode("latin-1").strip() for name, value in headers if name == b"host"]
        if len(hosts) != 1 or not self._is_ours(hosts[0], scope):
            return 403, "this device has another name: open the page by its IP address or its host name"
        return None

    def _is_ours(self, host: str, scope: Scope) -> bool:
        match = _HOST.fullmatch(host)
        if match is None:
            return False
        name = match["name"].strip("[]").lower()
        try:
            address = ipaddress.ip_address(name)
        except ValueError:
            return name == "localhost" or name in self._names()
        own = scope.get("server") or ("",)  # the address that this connection came to
        return address in (ipaddress.ip_address("127.0.0.1"), ipaddress.ip_address("::1")) or str(address) == _plain(
            own[0]
        )


def is_on_loopback(scope: Scope) -> bool:
    """Whether the client is a program on this machine, and is not a proxy of another client."""
    forwarded = {b"forwarded", b"x-forwarded-for", b"x-real-ip", b"via"} & {name for name, _ in scope["headers"]}
    try:
        return not forwarded and ipaddress.ip_address(address_of(scope)).is_loopback
    except ValueError:
        return False


def address_of(scope: Scope) -> str:
    """The client's IP address; an IPv4 address that arrived over IPv6 as IPv4."""
    return _plain((scope.get("client") or ("unknown",))[0])


def header(scope: Scope, name: bytes) -> str | None:
    """The value of a header, `name` in lower case; None if there is none or more than one."""
    values = [value.decode("latin-1") for key, value in scope["headers"] if key == name]
    return values[0] if len(values) == 1 else None


async def send_error(send: Send, status: int, text: str, headers: Iterable[tuple[bytes, bytes]] = ()) -> None:
    """`{"error": text}`."""
    body = json.dumps({"error": text}, ensure_ascii=False).encode() + b"\n"
    await send_whole(send, status, "application/json", body, headers)


async def send_whole(
    send: Send, status: int, content_type: str, body: bytes, headers: Iterable[tuple[bytes, bytes]] = ()
) -> None:
    """A whole answer."""
    base = [(b"content-type", content_type.encode()), (b"content-length", str(len(body)).encode())]
    await send({"type": "http.response.start", "status": status, "headers": [*base, *headers]})
    await send({"type": "http.response.body", "body": body})


def _plain(address: str) -> str:
    try:
        parsed = ipaddress.ip_address(address.partition("%")[0])
    except ValueError:
        return address
    mapped = getattr(parsed, "ipv4_mapped", None)
    return str(mapped or parsed)


def _missing(headers: Iterable[tuple[bytes, bytes]]) -> list[tuple[bytes, bytes]]:
    present = {name.lower() for name, _ in headers}
    return [(name, value) for name, value in (*SAFE_HEADERS, NO_STORE) if name not in present]


class _Body:
    """The body of a request, which ends in its middle if it is longer than `limit` bytes."""

    def __init__(self, receive: Receive, limit: int) -> None:
        self._receive = receive
        self._received = 0
        self._whole: Message | None = None  # that the application has not received yet
        self.limit = limit
        self.too_large = False

    async def read(self) -> bool:
        """Receives all of it before the application has any work. False if the client has left."""
        parts, more = [], True
        while more and not self.too_large:
            message = await self.receive()
            if message["type"] != "http.request":
                return self.too_large
            parts.append(message.get("body", b""))
            more = message.get("more_body", False)
        self._whole = {"type": "http.request", "body": b"".join(parts), "more_body": False}
        return True

    async def receive(self) -> Message:
        if self._whole is not None:
            message, self._whole = self._whole, None
            return message
        message = await self._receive()
        self._received += len(message.get("body", b""))
        if self._received > self.limit:
            self.too_large = True
            return {"type": "http.disconnect"}
        return message

    async def drain(self) -> None:
        """Reads the rest, at most `MAX_DRAINED_BYTES`: a client reads the answer after its last byte."""
        while self._received <= MAX_DRAINED_BYTES:
            message = await self._receive()
            self._received += len(message.get("body", b""))
            if message["type"] != "http.request" or not message.get("more_body", False):
                return
