"""The handshake with a PLC for one camera: a trigger gives one part one answer, and the PLC acknowledges it.

    START -> READY -> BUSY -> RESULTS -> RELEASE -> READY

Every rising edge of Trigger is either accepted, and answered with Ok, Ng or Unknown, or counted in Missed.
"""

import threading
import time
from collections.abc import Callable
from dataclasses import replace
from enum import Enum, auto

from zsad_agent.messages import Result
from zsad_agent.plant.signals import NO_PERMILLE, NO_SCORE, ErrorCode, Inputs, Outputs
from zsad_core.types import Verdict

QUIET_S = 0.2  # after the first request of a client, for a Trigger that the PLC still holds from before the start
HEARTBEATS_PER_S = 2
U16, U32 = 0xFFFF, 0xFFFF_FFFF


class _State(Enum):
    START = auto()  # nobody knows yet whether the PLC holds a trigger from before the start
    READY = auto()
    BUSY = auto()
    RESULTS = auto()  # the result waits for ResultsAck
    RELEASE = auto()  # waits until Trigger, ResultsAck and Reset are 0


class Handshake:
    """Used from any thread. Several doors (Modbus, OPC UA) may serve the same machine.

    A door is one place where a PLC sets signals. Trigger counts at each door by itself; ResultsAck and Reset are set if
    they are set at one of the doors.
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
        self._asked_s = float("-inf")
        self._trigger_id: str | None = None
        self._limit_s = 0.0  # of the present state

    def touch(self) -> None:
        """A client asked for something. Only then is it known that its signals have arrived."""
        with self._lock:
            self._asked_s = self._clock()
            self._quiet_until_s = min(self._quiet_until_s, self._clock() + QUIET_S)

    def write(self, door: str, inputs: Inputs) -> None:
        """Takes the signals that the PLC has set at a door."""
        trigger_id = None
        with self._lock:
            before = self._doors.get(door, Inputs())
            acknowledged = self._any("results_ack")
            self._doors[door] = inputs
            if inputs.program_select not in (0, before.program_select):
                self._program_to_set = inputs.program_select
            if inputs.reset and not before.reset:
                self._reset()
            if self._any("results_ack") and not acknowledged and self._state is _State.RESULTS:
                self._clear_result()
                self._state = _State.RELEASE
            if inputs.trigger and not before.trigger:
                trigger_id = self._rise(inputs.part_id)
            self._release()
        if trigger_id is not None:
            self._inspect(trigger_id)

    def accept(self, result: Result) -> None:
        """Takes a result of the camera; those of other triggers are ignored."""
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
            elif self._state is _State.START and now_s > self._quiet_until_s:
                self._state = _State.RELEASE
            self._release()

    @property
    def silent_s(self) -> float:
        """Seconds since a client asked for something; infinite before the first."""
        with self._lock:
            return self._clock() - self._asked_s

    @property
    def program_to_set(self) -> int:
        """The number of the program that the PLC selected while no part is being inspected; 0: none."""
        with self._lock:
            return 0 if self._state in (_State.BUSY, _State.RESULTS) else self._program_to_set

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
            return replace(
                self._outputs,
                trigger_ready=self._ready,
                busy=self._state is _State.BUSY,
                results_ready=self._state is _State.RESULTS,
            )

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
                }.get(self._state, ErrorCode.NOT_ACKNOWLEDGED)
            )
            if self._state is _State.START:
                self._state = _State.RELEASE
            return None
        counter = (self._outputs.part_counter + 1) & U32
        self._outputs = replace(
            self._outputs, part_counter=counter, part_id_out=part_id, error=False, error_code=ErrorCode.NONE
        )
        self._trigger_id = f"plc-{self._outputs.session:04x}-{counter}" + (f"-part-{part_id}" if part_id else "")
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
