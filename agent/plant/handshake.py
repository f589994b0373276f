"""The handshake with a PLC for one camera: a trigger gives one part one answer, and the PLC acknowledges it.

    START -> READY -> BUSY -> RESULTS -> RELEASE -> READY

Every rising edge of Trigger is either accepted, and answered with Ok, Ng or Unknown, or counted in Missed.

A dry test shows a verdict of no part, for whoever wires the machine: READY -> DRY_TEST -> RELEASE.
"""

import math
import secrets
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from enum import Enum, auto

from zsad_agent.messages import Result
from zsad_agent.plant.signals import NO_PART, NO_PERMILLE, NO_SCORE, ErrorCode, Inputs, Outputs
from zsad_core.errors import ConflictError
from zsad_core.types import Verdict

QUIET_S = 0.2  # after the first request of a client, for a Trigger that the PLC still holds from before the start
SETTLE_S = 1.0  # of a dry test: TriggerReady is 0 and nothing is shown, so that each PLC has seen it
SHOWN_S = 10.0  # of a dry test: then it ends by itself
HEARTBEATS_PER_S = 2
U16, U32 = 0xFFFF, 0xFFFF_FFFF
EDGES = {"trigger": "Trigger", "results_ack": "ResultsAck", "reset": "Reset"}  # inputs whose rising edge counts


class _State(Enum):
    START = auto()  # nobody knows yet whether the PLC holds a trigger from before the start
    READY = auto()
    BUSY = auto()
    RESULTS = auto()  # the result waits for ResultsAck
    RELEASE = auto()  # waits until Trigger, ResultsAck and Reset are 0
    DRY_TEST = auto()


@dataclass(frozen=True, kw_only=True, slots=True)
class DryTest:
    """A verdict that is shown to the PLC without a part."""

    verdict: Verdict
    from_s: float  # monotonic
    until_s: float


@dataclass(frozen=True, kw_only=True, slots=True)
class Wiring:
    """What whoever wires the machine wants to see. All of one moment; ages in seconds."""

    state: str  # start, ready, busy, results, release or dry_test
    inputs: dict[str, Inputs]  # by door
    outputs: Outputs
    silent_s: dict[str, float]  # by the name of its server: since it was asked for something
    seen_s: dict[str, float]  # Trigger, ResultsAck, Reset: since it became 1; a signal that never did is left out
    dry_test_left_s: float | None  # None: there is none


class Handshake:
    """Used from any thread. Several doors (Modbus, OPC UA) may serve the same machine.

    A door is one place where a PLC sets signals. Trigger, ResultsAck and Reset count at each door by itself: another
    door that holds a signal does not hide it. The next cycle waits until they are 0 at all doors.
    """

    def __init__(
        self,
        inspect: Callable[[str], None],
        *,
        session: int,
        result_timeout_s: float,
        ack_timeout_s: float,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Starts nothing.

        Args:
            inspect: requests the inspection of one part; gets its trigger id, which is unique.
            session: 1 to 65535, another one for each start.
            result_timeout_s: longest time from the trigger to the result.
            ack_timeout_s: longest time from the result to ResultsAck until this is an error.
            clock: monotonic seconds.
        """
        self._inspect = inspect
        self._result_timeout_s = result_timeout_s
        self._ack_timeout_s = ack_timeout_s
        self._clock = clock
        self._lock = threading.Lock()  # guards all below
        self._state = _State.START
        self._doors: dict[str, Inputs] = {}
        self._outputs = Outputs(session=session)  # those that the state does not determine
        self._available = False
        self._program_to_set = 0  # 0: none
        self._quiet_until_s = float("inf")
        self._asked_s: dict[str, float] = {}  # server -> time of the last request
        self._seen_s: dict[str, float] = {}  # input -> time of its last rising edge
        self._dry_test = DryTest(verdict=Verdict.UNKNOWN, from_s=0.0, until_s=0.0)  # of the state DRY_TEST
        self._trigger_id: str | None = None
        self._limit_s = 0.0  # of the present state

    def touch(self, server: str) -> None:
        """A client of the server asked for something. Only then is it known that its signals have arrived."""
        with self._lock:
            self._asked_s[server] = self._clock()
            self._quiet_until_s = min(self._quiet_until_s, self._clock() + QUIET_S)

    def write(self, door: str, inputs: Inputs) -> None:
        """Takes the signals that the PLC has set at a door."""
        trigger_id = None
        with self._lock:
            before = self._doors.get(door, Inputs())
            self._doors[door] = inputs
            for name in EDGES:
                if getattr(inputs, name) and not getattr(before, name):
                    self._seen_s[name] = self._clock()
            if inputs.program_select not in (0, before.program_select):
                self._program_to_set = inputs.program_select
            if inputs.reset and not before.reset:
                self._reset()
            if inputs.results_ack and not before.results_ack:
                if self._state is _State.RESULTS:
                    self._clear_result()
                    self._state = _State.RELEASE
                elif self._shows_dry_test:
                    self._state = _State.RELEASE
            if inputs.trigger and not before.trigger:
                trigger_id = self._rise(inputs.part_id)
            self._release()
        if trigger_id is not None:
            self._inspect(trigger_id)

    def accept(self, result: Result, *, program: int = 0) -> None:
        """Takes a result of the camera; those of other triggers are ignored.

        `program`: the number of the product that it was inspected with; 0: it has none.
        """
        with self._lock:
            if self._state is not _State.BUSY or result.trigger_id != self._trigger_id:
                return
            score = result.anomaly_score
            self._show(
                result.verdict,
                result_id=result.seq & U32,
                score=NO_SCORE if score is None else score,
                score_permille=NO_PERMILLE if score is None else round(1000 * score),
                threshold=result.threshold,
                result_program=program,
            )

    def tick(self, *, available: bool, program: int) -> None:
        """Checks the time limits. Call it several times a second.

        Args:
            available: whether a trigger would get a picture and a model.
            program: the number of the program in use.
        """
        now_s = self._clock()
        with self._lock:
            self._available = available
            self._outputs = replace(self._outputs, program=program, heartbeat=int(now_s * HEARTBEATS_PER_S) & U16)
            if self._state is _State.BUSY and now_s > self._limit_s:
                self._show(Verdict.UNKNOWN)
                self._fail(ErrorCode.RESULT_TIMEOUT)
            elif self._state is _State.RESULTS and now_s > self._limit_s:
                self._fail(ErrorCode.ACK_TIMEOUT)
            elif (self._state is _State.START and now_s > self._quiet_until_s) or (
                self._state is _State.DRY_TEST and now_s >= self._dry_test.until_s
            ):
                self._state = _State.RELEASE
            self._release()

    @property
    def silent_s(self) -> float:
        """Seconds since a client asked for something; infinite before the first."""
        with self._lock:
            return self._clock() - max(self._asked_s.values(), default=float("-inf"))

    @property
    def program_to_set(self) -> int:
        """The number of the program that the PLC selected, while no part is inspected and no dry test runs; 0: none."""
        with self._lock:
            waits = self._state in (_State.BUSY, _State.RESULTS, _State.DRY_TEST)
            return 0 if waits else self._program_to_set

    def program_set(self, number: int, *, refused: bool) -> None:
        """The program with this number was set, or refused. A later selection stays."""
        with self._lock:
            if self._program_to_set == number:
                self._program_to_set = 0
            if refused:
                self._fail(ErrorCode.PROGRAM)
            else:
                self._outputs = replace(self._outputs, program=number)

    @property
    def outputs(self) -> Outputs:
        """The signals for the PLC, all of one moment."""
        with self._lock:
            return self._shown()

    @property
    def wiring(self) -> Wiring:
        with self._lock:
            now_s = self._clock()
            left_s = self._dry_test.until_s - now_s if self._state is _State.DRY_TEST else None
            return Wiring(
                state=self._state.name.lower(),
                inputs=dict(self._doors),
                outputs=self._shown(),
                silent_s={server: now_s - asked_s for server, asked_s in self._asked_s.items()},
                seen_s={EDGES[name]: now_s - seen_s for name, seen_s in self._seen_s.items()},
                dry_test_left_s=None if left_s is None else max(0.0, left_s),
            )

    def start_dry_test(self, verdict: Verdict) -> None:
        """Shows a verdict of no part to the PLC. TriggerReady is 0 meanwhile, Error is 1 and PartIdOut is `NO_PART`.

        ErrorCode and PartIdOut stay until the next accepted trigger: a PLC that reads them after Ok must not pass it.
        It ends at ResultsAck, at Reset, by `end_dry_test`, after `SHOWN_S`, and at once at a trigger, which is missed.

        Raises:
            ConflictError: a part may be waiting for its verdict, or no client has asked for anything yet.
        """
        with self._lock:
            if (reason := self._why_no_dry_test()) is not None:
                raise ConflictError(f"no dry test: {reason}")
            from_s = self._clock() + SETTLE_S
            self._dry_test = DryTest(verdict=verdict, from_s=from_s, until_s=from_s + SHOWN_S)
            self._state = _State.DRY_TEST
            self._outputs = replace(
                self._outputs,
                part_id_out=NO_PART,
                result_id=0,
                score=NO_SCORE,
                score_permille=NO_PERMILLE,
                threshold=NO_SCORE,
                result_program=0,
            )
            self._fail(ErrorCode.DRY_TEST)

    def end_dry_test(self) -> None:
        """Does nothing if there is none."""
        with self._lock:
            if self._state is _State.DRY_TEST:
                self._state = _State.RELEASE
                self._release()

    def _why_no_dry_test(self) -> str | None:
        if self._state is _State.DRY_TEST:
            return "another one is running"
        if self._state is _State.START:
            return "no client has asked for anything since the agent started. Connect the PLC first"
        if held := [name for name in EDGES if self._any(name)]:
            return f"the PLC holds {' and '.join(EDGES[name] for name in held)} at 1"
        if self._state is not _State.READY:
            return "a part is being inspected. Wait until its cycle is complete"
        if self._program_to_set:  # its refusal would replace the error code
            return "the program is being changed"
        wait_s = self._seen_s.get("trigger", float("-inf")) + self._result_timeout_s - self._clock()
        if wait_s > 0:  # a PLC whose trigger was missed may still wait for its result
            return f"the PLC has triggered a moment ago. Stop the line, and wait {math.ceil(wait_s)} s"
        return None

    def _shown(self) -> Outputs:
        """The outputs. Those of a dry test end by the clock alone."""
        if self._state is not _State.DRY_TEST:
            return replace(
                self._outputs,
                trigger_ready=self._ready,
                busy=self._state is _State.BUSY,
                results_ready=self._state is _State.RESULTS,
            )
        verdict = self._dry_test.verdict if self._shows_dry_test else None
        return replace(
            self._outputs,
            results_ready=verdict is not None,
            ok=verdict is Verdict.OK,
            ng=verdict is Verdict.ANOMALOUS,
            unknown=verdict is Verdict.UNKNOWN,
        )

    @property
    def _shows_dry_test(self) -> bool:
        test = self._dry_test
        return self._state is _State.DRY_TEST and test.from_s <= self._clock() < test.until_s

    @property
    def _ready(self) -> bool:
        return self._state is _State.READY and self._available and not self._program_to_set

    def _any(self, name: str) -> bool:
        return any(getattr(inputs, name) for inputs in self._doors.values())

    def _rise(self, part_id: int) -> str | None:
        """A rising edge of Trigger. Returns the id of an accepted one."""
        if not self._ready:
            self._miss(
                {
                    _State.START: ErrorCode.HELD_TRIGGER,
                    _State.READY: ErrorCode.NOT_READY,
                    _State.BUSY: ErrorCode.BUSY,
                    _State.DRY_TEST: ErrorCode.DRY_TEST,
                }.get(self._state, ErrorCode.NOT_ACKNOWLEDGED)
            )
            if self._state in (_State.START, _State.DRY_TEST):
                self._state = _State.RELEASE
            return None
        counter = (self._outputs.part_counter + 1) & U32
        self._outputs = replace(
            self._outputs, part_counter=counter, part_id_out=part_id, error=False, error_code=ErrorCode.NONE
        )
        # a random end: a trigger over MQTT cannot have this id, by chance or on purpose
        name = f"plc-{self._outputs.session:04x}-{counter}-{secrets.token_hex(4)}"
        self._trigger_id = f"{name}-part-{part_id}" if part_id else name
        self._state = _State.BUSY
        self._limit_s = self._clock() + self._result_timeout_s
        return self._trigger_id

    def _show(
        self,
        verdict: Verdict,
        *,
        result_id: int = 0,
        score: float = NO_SCORE,
        score_permille: int = NO_PERMILLE,
        threshold: float = NO_SCORE,
        result_program: int = 0,
    ) -> None:
        self._outputs = replace(
            self._outputs,
            ok=verdict is Verdict.OK,
            ng=verdict is Verdict.ANOMALOUS,
            unknown=verdict is Verdict.UNKNOWN,
            result_id=result_id,
            score=score,
            score_permille=score_permille,
            threshold=threshold,
            result_program=result_program,
        )
        self._trigger_id = None
        self._state = _State.RESULTS
        self._limit_s = self._clock() + self._ack_timeout_s

    def _clear_result(self) -> None:
        """Only the verdict: the numbers of the last part stay until the next one."""
        self._outputs = replace(self._outputs, ok=False, ng=False, unknown=False)
        self._trigger_id = None

    def _reset(self) -> None:
        self._outputs = replace(self._outputs, error=False, error_code=ErrorCode.NONE)
        if self._state in (_State.BUSY, _State.RESULTS):
            self._clear_result()
            self._miss(ErrorCode.RESET)
        if self._state is not _State.START:
            self._state = _State.RELEASE

    def _release(self) -> None:
        held = self._any("trigger") or self._any("results_ack") or self._any("reset")
        if self._state is _State.RELEASE and not held:
            self._state = _State.READY

    def _miss(self, code: ErrorCode) -> None:
        self._outputs = replace(self._outputs, missed=(self._outputs.missed + 1) & U32)
        self._fail(code)

    def _fail(self, code: ErrorCode) -> None:
        self._outputs = replace(self._outputs, error=True, error_code=int(code))
