"""The register map and the wiring of the handshake as text, for whoever programs the PLC."""

from collections.abc import Sequence

from zsad_agent.plant.registers import BLOCK, INPUT_PLACES, OUTPUT_PLACES, Place, WordOrder
from zsad_agent.plant.signals import ErrorCode

_RULES = """\
One part:
  1. Wait for TriggerReady = 1. Set PartId if you number the parts, then Trigger = 1.
  2. Wait for ResultsReady = 1, plant.result_timeout_s at most. Read the registers from TriggerReady to ResultProgram in
     one request: then bits and numbers are of one moment. Check that PartIdOut is the part.
  3. Set ResultsAck = 1, and wait for ResultsReady = 0. Set ResultsAck = 0 and Trigger = 0.
Set signals with the coils or with the bits of the register, not with both: a Trigger counts at each of them.
Pass a part only if Ok = 1, ErrorCode is not 9, ResultProgram is the one that you selected and Heartbeat counts. Program
may have changed since the trigger. A refused program leaves the one before it in use. Reject a part if Ng or Unknown is
1, if Error is 1 without a result, if Heartbeat stands still for 3 s, or if Session has changed since its trigger. After
a start of the PLC set Trigger and ResultsAck to 0 first; if a result of before still waits, acknowledge it or set
Reset, and reject that part. While ErrorCode is 9, a result is of no part: somebody tests the wiring from the page."""


def plant_map(cameras: Sequence[str], programs: Sequence[str], word_order: WordOrder, listen: str) -> str:
    """The text that `zsad-agent plant map` prints.

    Args:
        cameras: names, in the order of their registers.
        programs: products; the first is program 1.
        word_order: of numbers in two registers.
        listen: where the server is, or `off`.
    """
    lines = [
        f"Modbus TCP, any unit id. plant.modbus.listen is {listen}.",
        "Addresses count from 0, as in the request. In brackets from 1: [17] is coil 00017 or holding register 40017.",
        "PLC to agent: coils (functions 1, 5, 15) or holding registers (3, 6, 16, 22, 23).",
        "Agent to PLC: coils or discrete inputs (1, 2), holding or input registers (3, 4). A write to them is refused.",
        "Bit 0 of a register is the lowest. Addresses of a camera's block of 100 that are not listed read as 0.",
        f"u32 and f32 take two registers, the {'high' if word_order == 'high_first' else 'low'} word first.",
    ]
    for number, camera in enumerate(cameras):
        lines += ["", f"Camera {camera}", *_block(number * BLOCK)]
    lines += ["", "ErrorCode", *(f"  {int(code):>3}  {code.text}" for code in ErrorCode)]
    lines += ["", "Programs", *(f"  {number:>3}  {name}" for number, name in enumerate(programs, 1))]
    lines += [] if programs else ["    -  none: list products in plant.programs"]
    return "\n".join([*lines, "", _RULES])


def _block(base: int) -> list[str]:
    lines = []
    for title, places in (("PLC to agent", INPUT_PLACES), ("agent to PLC", OUTPUT_PLACES)):
        lines.append(f"  {title:<16}{'type':<6}{'coil':<12}{'register':<16}meaning")
        lines += [_row(place, base) for place in places]
    return lines


def _row(place: Place, base: int) -> str:
    coil = "" if place.coil is None else f"{base + place.coil} [{base + place.coil + 1}]"
    word = base + place.word
    bit = "" if place.bit is None else f" bit {place.bit}"
    return (
        f"  {place.signal.name:<16}{place.signal.kind:<6}{coil:<12}{f'{word} [{word + 1}]{bit}':<16}{place.signal.text}"
    )
