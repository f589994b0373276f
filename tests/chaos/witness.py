"""A subscriber that misses no message: QoS 1 in a persistent session, and it reads every byte that arrives."""

import contextlib
import socket
import struct
import threading
import time
from collections.abc import Callable
from typing import NamedTuple, Self

import mqtt_wire

RETRY_S = 0.01
RECEIVE_BYTES = 8_000_000  # socket buffer, so that a killed broker has no acknowledged message left to send


class Arrival(NamedTuple):
    at_s: float  # wall clock
    topic: str
    payload: bytes
    is_dup: bool  # the broker has sent this message before
    is_retained: bool


class Witness:
    """Keeps all messages to `#` in the order of arrival, and reconnects at once when the broker is back.

    It does not use paho. When the broker is killed, paho ends the connection at the first failed acknowledgement, with
    messages still in the socket. The broker has acknowledged these to the agent, so they would seem lost. This
    subscriber reads to the end of the stream and ignores failed acknowledgements.
    """

    def __init__(self, port: int) -> None:
        self._port = port
        self.arrivals: list[Arrival] = []
        self.subscribed = threading.Event()
        self._stopping = threading.Event()
        self._sock: socket.socket | None = None
        self._thread = threading.Thread(target=self._run, name="witness", daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        assert self.subscribed.wait(10), "the broker took no subscription"
        return self

    def __exit__(self, *_: object) -> None:
        self._stopping.set()
        self.break_off()
        self._thread.join(10)

    def break_off(self) -> None:
        """Ends the connection without DISCONNECT; it reconnects at once."""
        sock = self._sock
        if sock is not None:
            with contextlib.suppress(OSError):
                sock.shutdown(socket.SHUT_RDWR)

    def wait_for(self, condition: Callable[[], bool], timeout_s: float) -> bool:
        """Whether `condition` became true in time."""
        end_s = time.monotonic() + timeout_s
        while not condition():
            if time.monotonic() > end_s:
                return False
            time.sleep(0.01)
        return True

    def _run(self) -> None:
        while not self._stopping.is_set():
            with contextlib.suppress(OSError):
                self._listen()
            self.subscribed.clear()
            self._stopping.wait(RETRY_S)

    def _listen(self) -> None:
        """Serves one connection until it ends."""
        with socket.socket() as sock:
            with contextlib.suppress(OSError):  # without root the system's limit applies
                sock.setsockopt(socket.SOL_SOCKET, 33, RECEIVE_BYTES)  # SO_RCVBUFFORCE
            sock.settimeout(5)
            sock.connect(("127.0.0.1", self._port))
            sock.settimeout(None)
            self._sock = sock
            sock.sendall(mqtt_wire.connect("witness") + mqtt_wire.subscribe("#"))
            buffer = bytearray()
            while chunk := sock.recv(262_144):
                buffer += chunk
                self._take(sock, buffer)

    def _take(self, sock: socket.socket, buffer: bytearray) -> None:
        now_s, acknowledgements = time.time(), bytearray()
        for kind, flags, body in mqtt_wire.split(buffer):
            if kind == mqtt_wire.SUBACK:
                self.subscribed.set()
            if kind != mqtt_wire.PUBLISH:
                continue
            start = 2 + struct.unpack_from("!H", body)[0]
            topic = body[2:start].decode()
            if flags & 6:
                acknowledgements += mqtt_wire.puback(struct.unpack_from("!H", body, start)[0])
                start += 2
            self.arrivals.append(Arrival(now_s, topic, body[start:], bool(flags & 8), bool(flags & 1)))
        if acknowledgements:
            with contextlib.suppress(OSError):
                sock.sendall(acknowledgements)
