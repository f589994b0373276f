"""The Modbus registers of a camera, derived from the table of signals: addresses, packing and unpacking.

Camera `i` has the block of addresses from `100 * i`. The PLC's signals come first, the agent's from offset 16 on. Bits
are coils, and also bits of the first register of their part (ControlWord, StatusWord) for a PLC without coils.
"""

import struct
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

from zsad_agent.plant.signals import INPUTS, OUTPUTS, Inputs, Kind, Outputs, Signal

BLOCK = 100  # addresses of a camera
OUTPUTS_AT = 16  # offset of the agent's signals
WordOrder = Literal["high_first", "low_first"]


@dataclass(frozen=True, kw_only=True, slots=True)
class Place:
    """Where a signal is, counted from the start of a camera's block."""

    signal: Signal
    from_plc: bool
    word: int  # the first holding register; of a bit, that of its ControlWord or StatusWord
    bit: int | None  # bit of the register, 0 is the lowest; None: the signal has registers of its own
    coil: int | None  # None: it is no bit


def _places(signals: Sequence[Signal], start: int, *, from_plc: bool) -> Iterator[Place]:
    bits = 0
    word = start + 1
    for signal in signals:
        if signal.kind is Kind.BIT:
            yield Place(signal=signal, from_plc=from_plc, word=start, bit=bits, coil=start + bits)
            bits += 1
        else:
            yield Place(signal=signal, from_plc=from_plc, word=word, bit=None, coil=None)
            word += signal.kind.words


INPUT_PLACES = tuple(_places(INPUTS, 0, from_plc=True))
OUTPUT_PLACES = tuple(_places(OUTPUTS, OUTPUTS_AT, from_plc=False))
INPUT_WORDS = max(place.word + place.signal.kind.words for place in INPUT_PLACES)
INPUT_COILS = sum(place.coil is not None for place in INPUT_PLACES)
OUTPUT_END = max(place.word + place.signal.kind.words for place in OUTPUT_PLACES)


def pack(outputs: Outputs, order: WordOrder) -> tuple[list[int], list[bool]]:
    """The registers and the coils from offset `OUTPUTS_AT` on."""
    words = [0] * (OUTPUT_END - OUTPUTS_AT)
    coils: list[bool] = []
    for place in OUTPUT_PLACES:
        value, at = getattr(outputs, place.signal.field), place.word - OUTPUTS_AT
        if place.bit is not None:
            words[at] |= bool(value) << place.bit
            coils.append(bool(value))
        else:
            words[at : at + place.signal.kind.words] = _to_words(value, place.signal.kind, order)
    return words, coils


def unpack(words: Sequence[int], order: WordOrder) -> Inputs:
    """The signals in the first `INPUT_WORDS` holding registers of a block."""
    values: dict[str, Any] = {}
    for place in INPUT_PLACES:
        if place.bit is not None:
            values[place.signal.field] = bool(words[place.word] >> place.bit & 1)
        else:
            values[place.signal.field] = _from_words(words[place.word : place.word + place.signal.kind.words], order)
    return Inputs(**values)


def unpack_coils(coils: Sequence[bool], words: Sequence[int], order: WordOrder) -> Inputs:
    """The bits of the first `INPUT_COILS` coils of a block, with the numbers of its holding registers."""
    bits = {place.signal.field: bool(coils[place.coil]) for place in INPUT_PLACES if place.coil is not None}
    numbers = {field: value for field, value in asdict(unpack(words, order)).items() if field not in bits}
    return Inputs(**bits, **numbers)


def _to_words(value: float, kind: Kind, order: WordOrder) -> list[int]:
    if kind is Kind.U16:
        return [int(value)]
    packed = struct.pack(">f", value) if kind is Kind.F32 else struct.pack(">I", int(value))
    high, low = struct.unpack(">HH", packed)
    return [high, low] if order == "high_first" else [low, high]


def _from_words(words: Sequence[int], order: WordOrder) -> int:
    if len(words) == 1:
        return words[0]
    high, low = words if order == "high_first" else reversed(words)
    return high << 16 | low
