"""The signals between a PLC and the agent for one camera. Modbus registers and OPC UA nodes follow this table."""

from dataclasses import dataclass, fields
from enum import IntEnum, StrEnum


class Kind(StrEnum):
    BIT = "bit"
    U16 = "u16"
    U32 = "u32"
    F32 = "f32"

    @property
    def words(self) -> int:
        """Registers of 16 bits that a value takes; a bit has its place in a common register."""
        return 2 if self in (Kind.U32, Kind.F32) else 1

    def has(self, value: object) -> bool:
        """Whether a bit or whole number from outside is one of this kind."""
        if self is Kind.BIT:
            return type(value) is bool
        return type(value) is int and 0 <= value < 1 << 16 * self.words


@dataclass(frozen=True, kw_only=True, slots=True)
class Signal:
    """One signal. Its name in snake case is the field of `Inputs` or `Outputs`."""

    name: str
    kind: Kind
    text: str  # for the printed map

    @property
    def field(self) -> str:
        return "".join(f"_{letter.lower()}" if letter.isupper() else letter for letter in self.name).lstrip("_")


def _signal(name: str, kind: Kind, text: str) -> Signal:
    return Signal(name=name, kind=kind, text=text)


INPUTS = (  # from the PLC
    _signal("Trigger", Kind.BIT, "0 to 1 while TriggerReady is 1: inspect one part. Set it to 0 after ResultsAck"),
    _signal("ResultsAck", Kind.BIT, "0 to 1: the result was read. Set it to 0 when ResultsReady is 0"),
    _signal("Reset", Kind.BIT, "0 to 1: end the cycle, clear errors; then set it to 0. A part without ack is missed"),
    _signal("ProgramSelect", Kind.U16, "a change to a number above 0 selects that program (product); 0: no change"),
    _signal("PartId", Kind.U32, "optional number of the part, taken at the trigger and returned as PartIdOut"),
)
OUTPUTS = (  # from the agent
    _signal("TriggerReady", Kind.BIT, "the next trigger will be accepted"),
    _signal("Busy", Kind.BIT, "a part is being inspected"),
    _signal("ResultsReady", Kind.BIT, "a result waits for ResultsAck. Exactly one of Ok, Ng and Unknown is 1"),
    _signal("Ok", Kind.BIT, "the part passed"),
    _signal("Ng", Kind.BIT, "the part is anomalous: reject it"),
    _signal("Unknown", Kind.BIT, "the part was not judged: treat it as a reject"),
    _signal("Error", Kind.BIT, "ErrorCode says what. Cleared by the next accepted trigger or Reset"),
    _signal("ErrorCode", Kind.U16, "see below; 0: none"),
    _signal("Program", Kind.U16, "number of the program that is set now; 0: a product that is not in plant.programs"),
    _signal("Heartbeat", Kind.U16, "counts 2 a second. If it stands still for 3 s, treat each part as a reject"),
    _signal("Session", Kind.U16, "a random number above 0 for each start of the agent"),
    _signal("ScorePermille", Kind.U16, "anomaly score in thousandths, 0 to 1000; 65535: no score"),
    _signal("PartCounter", Kind.U32, "accepted triggers in this session"),
    _signal("ResultId", Kind.U32, "seq of the result over MQTT; 0: none"),
    _signal("PartIdOut", Kind.U32, "PartId of the part whose result is shown; 4294967295: a dry test, of no part"),
    _signal("Missed", Kind.U32, "triggers in this session that got no result, or none that was acknowledged"),
    _signal("Score", Kind.F32, "anomaly score, 0 to 1; -1: none"),
    _signal("Threshold", Kind.F32, "a score of this or more is anomalous; -1: none"),
    _signal("ResultProgram", Kind.U16, "Program of the part whose result is shown; 0: none, or not in plant.programs"),
)


class ErrorCode(IntEnum):
    """Why `Error` is 1. `text` is for the printed map."""

    text: str

    def __new__(cls, value: int, text: str) -> "ErrorCode":
        code = int.__new__(cls, value)
        code._value_ = value
        code.text = text
        return code

    NONE = 0, "no error"
    NOT_READY = (
        1,
        "missed: the trigger came while the camera was lost or paused, no model was ready or the program changed",
    )
    BUSY = 2, "missed: the trigger came while a part was being inspected"
    NOT_ACKNOWLEDGED = 3, "missed: the trigger came before the cycle of the earlier part was complete"
    RESULT_TIMEOUT = 4, "the result did not come within plant.result_timeout_s: the part is Unknown"
    ACK_TIMEOUT = 5, "ResultsAck did not come within plant.ack_timeout_s: the result still waits"
    PROGRAM = 6, "ProgramSelect has no program, or the agent refused the product"
    RESET = 7, "missed: Reset ended the cycle before its result was acknowledged"
    HELD_TRIGGER = 8, "missed: Trigger was already 1 when the agent started"
    DRY_TEST = 9, "dry test from the page: what is shown is of no part, and a trigger is missed"


NO_SCORE = -1.0
NO_PERMILLE = 65_535
NO_PART = 0xFFFF_FFFF  # PartIdOut of a dry test


@dataclass(frozen=True, kw_only=True, slots=True)
class Inputs:
    """What the PLC has set."""

    trigger: bool = False
    results_ack: bool = False
    reset: bool = False
    program_select: int = 0
    part_id: int = 0


@dataclass(frozen=True, kw_only=True, slots=True)
class Outputs:
    """What the PLC reads."""

    trigger_ready: bool = False
    busy: bool = False
    results_ready: bool = False
    ok: bool = False
    ng: bool = False
    unknown: bool = False
    error: bool = False
    error_code: int = 0
    program: int = 0
    heartbeat: int = 0
    session: int = 0
    score_permille: int = NO_PERMILLE
    part_counter: int = 0
    result_id: int = 0
    part_id_out: int = 0
    missed: int = 0
    score: float = NO_SCORE
    threshold: float = NO_SCORE
    result_program: int = 0


def named(signals: tuple[Signal, ...], values: Inputs | Outputs) -> dict[str, bool | int | float]:
    """The values by the names that the printed map has."""
    return {signal.name: getattr(values, signal.field) for signal in signals}


assert [signal.field for signal in INPUTS] == [field.name for field in fields(Inputs)]
assert [signal.field for signal in OUTPUTS] == [field.name for field in fields(Outputs)]
