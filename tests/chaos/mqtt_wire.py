"""The packets of MQTT 3.1.1 and 5 that the chaos tests send and read without a client library."""

import struct
from collections.abc import Iterator

CONNECT, CONNACK, PUBLISH, PUBACK, SUBSCRIBE, SUBACK, PINGREQ, PINGRESP = 1, 2, 3, 4, 8, 9, 12, 13


def packet(kind: int, flags: int, body: bytes) -> bytes:
    """One control packet: type and flags, length, body."""
    length, rest = bytearray(), len(body)
    while True:
        rest, digit = rest // 128, rest % 128
        length.append(digit | 128 if rest else digit)
        if not rest:
            return bytes([kind << 4 | flags]) + bytes(length) + body


def text(value: str) -> bytes:
    return struct.pack("!H", len(value.encode())) + value.encode()


def connect(client_id: str) -> bytes:
    """A CONNECT packet of MQTT 3.1.1: persistent session, no keepalive."""
    return packet(CONNECT, 0, text("MQTT") + bytes([4, 0]) + struct.pack("!H", 0) + text(client_id))


def subscribe(topic: str) -> bytes:
    return packet(SUBSCRIBE, 2, struct.pack("!H", 1) + text(topic) + bytes([1]))


def puback(message_id: int) -> bytes:
    return packet(PUBACK, 0, struct.pack("!H", message_id))


def split(buffer: bytearray) -> Iterator[tuple[int, int, bytes]]:
    """Removes all complete packets from `buffer` and gives (type, flags, body) of each."""
    while len(buffer) >= 2:
        length, at = 0, 1
        while True:
            if at >= len(buffer):
                return
            length |= (buffer[at] & 127) << 7 * (at - 1)
            at += 1
            if not buffer[at - 1] & 128:
                break
        if len(buffer) < at + length:
            return
        first, body = buffer[0], bytes(buffer[at : at + length])
        del buffer[: at + length]
        yield first >> 4, first & 15, body
