"""A scripted MQTT broker: it can refuse, disconnect and limit sizes. One thread for each connection."""

import socket
import ssl
import struct
import threading
import time
from collections.abc import Callable
from typing import BinaryIO, Self

CONNECT, CONNACK, PUBLISH, PUBACK, SUBSCRIBE, SUBACK, UNSUBSCRIBE, UNSUBACK = 1, 2, 3, 4, 8, 9, 10, 11
PINGREQ, PINGRESP, DISCONNECT = 12, 13, 14


class ScriptedBroker:
    """Keeps the accepted messages in `messages`, in order. The attributes can be changed at any time.

    Args:
        versions: levels of MQTT that it supports (4: 3.1.1, 5: 5). It refuses others, or with `hangs_up` disconnects.
        connack: reason code for the flags byte of CONNECT; 0 accepts the connection.
        connack_properties: of MQTT 5, encoded.
        puback: reason code for topic and payload; 0 accepts the message, None sends no answer.
        suback: likewise, for a topic.
        cut_above: payload bytes above which it ends the connection.
        cut_after: whether it ends the connection after its answer to topic.
        tls: TLS context of the server.
    """

    def __init__(
        self,
        *,
        versions: tuple[int, ...] = (4, 5),
        hangs_up: bool = False,
        connack: Callable[[int], int] = lambda flags: 0,
        connack_properties: bytes = b"",
        puback: Callable[[str, bytes], int | None] = lambda topic, payload: 0,
        suback: Callable[[str], int] = lambda topic: 1,
        cut_above: int | None = None,
        cut_after: Callable[[str], bool] = lambda topic: False,
        tls: ssl.SSLContext | None = None,
    ) -> None:
        self.versions = versions
        self.hangs_up = hangs_up
        self.connack = connack
        self.connack_properties = connack_properties
        self.puback = puback
        self.suback = suback
        self.cut_above = cut_above
        self.cut_after = cut_after
        self._tls = tls
        self.connects: list[int] = []  # MQTT level of each CONNECT
        self.connected_s: list[float] = []  # their times
        self.pings_s: list[float] = []
        self.disconnects: list[bytes] = []  # the body of each DISCONNECT
        self.heads: list[int] = []  # first byte of each PUBLISH: QoS and retain
        self.subscribed: list[tuple[str, int]] = []  # topic and options byte
        self.asked: list[tuple[str, bytes]] = []  # topic and payload of every PUBLISH, accepted or not
        self.messages: list[tuple[str, bytes]] = []
        self._server = socket.create_server(("127.0.0.1", 0))
        self._clients: list[socket.socket] = []
        self._threads: list[threading.Thread] = []

    @property
    def port(self) -> int:
        return int(self._server.getsockname()[1])

    @property
    def url(self) -> str:
        return f"mqtt://127.0.0.1:{self.port}"

    def __enter__(self) -> Self:
        self._start(self._accept)
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown(socket.SHUT_RDWR)
        self._server.close()
        for client in self._clients:
            _end(client)
        for thread in self._threads:
            thread.join(60)

    def send(self, topic: str, *payloads: bytes, retained: bool = False) -> None:
        """Sends QoS 0 messages at once to the newest client, which uses MQTT 3.1.1."""
        head = struct.pack("!H", len(topic)) + topic.encode()
        self._clients[-1].sendall(b"".join(_packet(PUBLISH, head + each, flags=int(retained)) for each in payloads))

    def send_header(self, topic: str, payload_bytes: int) -> None:
        """Sends the beginning of a QoS 0 message to the newest client, up to the topic."""
        head = struct.pack("!H", len(topic)) + topic.encode()
        self._clients[-1].sendall(bytes([PUBLISH << 4]) + _encoded(len(head) + payload_bytes) + head)

    def send_large(self, topic: str, payload_bytes: int) -> None:
        """Sends one QoS 0 message of zeros to the newest client, without building it (MQTT 5: no properties)."""
        self.send_header(topic, payload_bytes)
        for at in range(0, payload_bytes, 2**20):
            self._clients[-1].sendall(bytes(min(2**20, payload_bytes - at)))

    def disconnect(self, code: int, properties: bytes = b"") -> None:
        """Sends DISCONNECT to the newest client, which uses MQTT 5, and ends its connection."""
        self._clients[-1].sendall(_packet(DISCONNECT, bytes([code, len(properties)]) + properties))
        _end(self._clients[-1])

    def _start(self, target: Callable[..., None], *args: object) -> None:
        self._threads.append(threading.Thread(target=target, args=args))
        self._threads[-1].start()

    def _accept(self) -> None:
        while True:
            try:
                client, _ = self._server.accept()
            except OSError:
                return
            if self._tls is not None:
                client = self._tls.wrap_socket(client, server_side=True)
            self._clients.append(client)
            self._start(self._serve, client)

    def _serve(self, client: socket.socket) -> None:
        try:
            with client, client.makefile("rb") as stream:
                level = 0
                while head := stream.read(1):
                    body = stream.read(_remaining_length(stream))
                    if head[0] >> 4 == CONNECT:
                        level = body[6]
                        self.connects.append(level)
                        self.connected_s.append(time.monotonic())
                    answer = self._answer(head[0], body, level)
                    if answer is None:
                        _end(client)
                        return
                    client.sendall(answer)
                    if head[0] >> 4 == PUBLISH and self.cut_after(self.asked[-1][0]):
                        _end(client)
                        return
        except OSError:
            return

    def _answer(self, head: int, body: bytes, level: int) -> bytes | None:
        """The answer; None ends the connection."""
        kind, is_mqtt5 = head >> 4, level == 5
        if kind == CONNECT:
            if level not in self.versions:
                return None if self.hangs_up else _packet(CONNACK, b"\0\1")
            properties = bytes([len(self.connack_properties)]) + self.connack_properties if is_mqtt5 else b""
            return _packet(CONNACK, bytes([0, self.connack(body[7])]) + properties)
        if kind == PUBLISH:
            return self._take(head, body, is_mqtt5)
        if kind == SUBSCRIBE:
            at = 2 + is_mqtt5  # after message id and an empty list of properties
            length = struct.unpack("!H", body[at : at + 2])[0]
            topic = body[at + 2 : at + 2 + length].decode()
            self.subscribed.append((topic, body[at + 2 + length]))
            return _packet(SUBACK, body[:2] + b"\0" * is_mqtt5 + bytes([self.suback(topic)]))
        if kind == UNSUBSCRIBE:
            return _packet(UNSUBACK, body[:2] + b"\0" * (4 if is_mqtt5 else 0))
        if kind == PINGREQ:
            self.pings_s.append(time.monotonic())
            return _packet(PINGRESP, b"")
        if kind == DISCONNECT:
            self.disconnects.append(body)
        return b"" if kind == PUBACK else None

    def _take(self, head: int, body: bytes, is_mqtt5: bool) -> bytes | None:
        length = struct.unpack("!H", body[:2])[0]
        topic, rest = body[2 : 2 + length].decode(), body[2 + length :]
        qos = head >> 1 & 3
        mid, rest = (rest[:2], rest[2:]) if qos else (b"", rest)
        payload = rest[1 + rest[0] :] if is_mqtt5 else rest  # properties: below 128 bytes
        self.heads.append(head)
        self.asked.append((topic, payload))
        if self.cut_above is not None and len(payload) > self.cut_above:
            return None
        code = self.puback(topic, payload)
        if code is None:
            return b""
        if code < 0x80:
            self.messages.append((topic, payload))
        return _packet(PUBACK, mid + (bytes([code]) if is_mqtt5 else b"")) if qos else b""


def _end(client: socket.socket) -> None:
    try:
        client.shutdown(socket.SHUT_RDWR)
    except OSError:
        return


def _packet(kind: int, body: bytes, *, flags: int = 0) -> bytes:
    return bytes([kind << 4 | flags]) + _encoded(len(body)) + body


def _encoded(length: int) -> bytes:
    encoded = b""
    while True:
        length, digit = divmod(length, 128)
        encoded += bytes([digit | (128 if length else 0)])
        if not length:
            return encoded


def _remaining_length(stream: BinaryIO) -> int:
    value = shift = 0
    while True:
        byte = stream.read(1)[0]
        value |= (byte & 127) << shift
        shift += 7
        if byte < 128:
            return value
