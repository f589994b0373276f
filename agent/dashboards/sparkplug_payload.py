"""Payloads of Sparkplug B in protobuf's wire format: the fields that the agent sends, and the one that it reads.

Source: Eclipse Sparkplug specification 3.0, `sparkplug_b.proto`.
"""

import struct
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from enum import IntEnum

REBIRTH = "Node Control/Rebirth"
_VARINT, _EIGHT_BYTES, _LENGTH, _FOUR_BYTES = 0, 1, 2, 5  # wire types
_AT, _METRICS, _SEQ = 1, 2, 3  # fields of a payload
_NAME, _METRIC_AT, _TYPE, _IS_NULL, _LONG, _DOUBLE, _BOOLEAN, _STRING = 1, 3, 4, 7, 11, 13, 14, 15  # of a metric


class DataType(IntEnum):
    """Numbers of the specification."""

    INT64 = 4
    UINT64 = 8
    DOUBLE = 10
    BOOLEAN = 11
    STRING = 12


@dataclass(frozen=True, slots=True)
class Metric:
    name: str
    type: DataType
    value: float | str | None  # float includes int and bool; whole numbers are 0 or more; None: no value
    at_ms: int = 0  # time of the value, milliseconds since 1970


def encode_payload(metrics: Sequence[Metric], *, at_ms: int, seq: int | None) -> bytes:
    """A payload. `at_ms`: time of sending, milliseconds since 1970; `seq`: 0 to 255, None for NDEATH."""
    content = b"".join(_bytes(_METRICS, _encode_metric(metric)) for metric in metrics)
    return _number(_AT, at_ms) + content + (b"" if seq is None else _number(_SEQ, seq))


def asks_for_rebirth(payload: bytes) -> bool:
    """Whether an NCMD asks for all births again. False also if it cannot be read."""
    try:
        commands = [dict(_fields(one)) for number, one in _fields(payload) if number == _METRICS]
    except ValueError:
        return False
    return any(one.get(_NAME) == REBIRTH.encode() and one.get(_BOOLEAN) == b"\1" for one in commands)


def _encode_metric(metric: Metric) -> bytes:
    head = _bytes(_NAME, metric.name.encode()) + _number(_METRIC_AT, metric.at_ms) + _number(_TYPE, metric.type)
    if metric.value is None:
        return head + _number(_IS_NULL, 1)
    if isinstance(metric.value, str):
        return head + _bytes(_STRING, metric.value.encode())
    if metric.type is DataType.DOUBLE:
        return head + _varint(_DOUBLE << 3 | _EIGHT_BYTES) + struct.pack("<d", metric.value)
    return head + _number(_BOOLEAN if metric.type is DataType.BOOLEAN else _LONG, int(metric.value))


def _number(field: int, value: int) -> bytes:
    return _varint(field << 3 | _VARINT) + _varint(value)


def _bytes(field: int, value: bytes) -> bytes:
    return _varint(field << 3 | _LENGTH) + _varint(len(value)) + value


def _varint(value: int) -> bytes:
    encoded = bytearray()
    while value > 0x7F:
        encoded.append(value & 0x7F | 0x80)
        value >>= 7
    return bytes([*encoded, value])


def _fields(message: bytes) -> Iterator[tuple[int, bytes]]:
    """Number and content of each field; a varint's content is its bytes.

    Raises:
        ValueError: the message is no protobuf.
    """
    at = 0
    while at < len(message):
        key, at = _read_varint(message, at)
        wire_type, start = key & 7, at
        if wire_type == _VARINT:
            _, end = _read_varint(message, at)
        elif wire_type == _LENGTH:
            size, start = _read_varint(message, at)
            end = start + size
        elif wire_type in (_EIGHT_BYTES, _FOUR_BYTES):
            end = at + (8 if wire_type == _EIGHT_BYTES else 4)
        else:
            raise ValueError(f"wire type {wire_type}")
        if end > len(message):
            raise ValueError("cut off")
        yield key >> 3, message[start:end]
        at = end


def _read_varint(message: bytes, at: int) -> tuple[int, int]:
    """The number, and the position after it."""
    value = 0
    for place, byte in enumerate(message[at : at + 10]):
        value |= (byte & 0x7F) << (7 * place)
        if byte < 0x80:
            return value, at + place + 1
    raise ValueError("no end of a number")
