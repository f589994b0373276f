import random
from collections.abc import Callable
from dataclasses import replace

import pytest
from result_maker import make_result

from zsad_agent.plant import ErrorCode, Handshake, Inputs, Outputs
from zsad_core.types import Verdict

DOOR, OTHER_DOOR = "modbus", "opcua"


class Line:
    """A handshake, its clock, its PLC and its camera."""

    def __init__(self) -> None:
        self.now_s = 100.0
        self.asked: list[str] = []
        self.inputs = {DOOR: Inputs(), OTHER_DOOR: Inputs()}
        self.machine = Handshake(
            self.asked.append, session=0xBEEF, result_timeout_s=5, ack_timeout_s=10, clock=lambda: self.now_s
        )

    def set(self, door: str = DOOR, **signals: bool | int) -> Outputs:
        self.inputs[door] = replace(self.inputs[door], **signals)
        self.machine.write(door, self.inputs[door])
        return self.outputs

    def tick(self, after_s: float = 0.05, *, available: bool = True, program: int = 1) -> Outputs:
        self.now_s += after_s
        self.machine.tick(available=available, program=program)
        return self.outputs

    def answer(
        self, verdict: Verdict = Verdict.OK, score: float | None = 0.25, trigger_id: str | None = None
    ) -> Outputs:
        reason = "too dark" if verdict is Verdict.UNKNOWN else None
        self.machine.accept(
            make_result(
                seq=77,
                trigger_id=trigger_id or self.asked[-1],
                verdict=verdict,
                anomaly_score=score,
                threshold=0.5,
                reason=reason,
                regions=(),
            )
        )
        return self.outputs

    @property
    def outputs(self) -> Outputs:
        return self.machine.outputs


@pytest.fixture
def line() -> Line:
    """Ready for the first trigger."""
    line = Line()
    line.machine.touch()
    line.tick(0.3)
    assert line.outputs.trigger_ready
    return line


@pytest.mark.parametrize(
    ("verdict", "score", "ok", "ng", "unknown"),
    [
        (Verdict.OK, 0.25, True, False, False),
        (Verdict.ANOMALOUS, 0.75, False, True, False),
        (Verdict.UNKNOWN, None, False, False, True),
    ],
)
def test_a_whole_cycle(line: Line, verdict: Verdict, score: float | None, ok: bool, ng: bool, unknown: bool) -> None:
    busy = line.set(trigger=True, part_id=4711)
    assert (busy.busy, busy.trigger_ready, busy.results_ready, busy.part_counter) == (True, False, False, 1)
    assert line.asked == ["plc-beef-1-part-4711"]
    done = line.answer(verdict, score)
    assert (done.busy, done.results_ready, done.ok, done.ng, done.unknown) == (False, True, ok, ng, unknown)
    assert (done.result_id, done.part_id_out, done.threshold) == (77, 4711, 0.5)
    assert (done.score, done.score_permille) == ((-1.0, 65_535) if score is None else (score, round(1000 * score)))
    acknowledged = line.set(results_ack=True)
    assert not (acknowledged.results_ready or acknowledged.ok or acknowledged.ng or acknowledged.unknown)
    assert not line.set(results_ack=False).trigger_ready
    ready = line.set(trigger=False)
    assert (ready.trigger_ready, ready.missed, ready.error) == (True, 0, False)


def test_before_a_client_speaks_it_is_not_ready() -> None:
    line = Line()
    assert not line.tick(60).trigger_ready
    line.machine.touch()
    assert not line.tick(0.1).trigger_ready
    assert line.tick(0.2).trigger_ready


def test_a_trigger_held_from_before_the_start_is_missed_and_not_inspected() -> None:
    line = Line()
    line.machine.touch()
    held = line.set(trigger=True)
    assert (held.missed, held.error_code, line.asked) == (1, ErrorCode.HELD_TRIGGER, [])
    assert not line.tick(10).trigger_ready
    assert line.set(trigger=False).trigger_ready
    assert line.set(trigger=True).busy


@pytest.mark.parametrize(
    ("until", "code"),
    [
        (lambda line: line.set(trigger=True), ErrorCode.BUSY),
        (lambda line: (line.set(trigger=True), line.answer()), ErrorCode.NOT_ACKNOWLEDGED),
        (lambda line: (line.set(trigger=True), line.answer(), line.set(results_ack=True)), ErrorCode.NOT_ACKNOWLEDGED),
        (lambda line: line.tick(available=False), ErrorCode.NOT_READY),
    ],
)
def test_a_trigger_that_comes_too_early_is_missed(line: Line, until: Callable[[Line], object], code: ErrorCode) -> None:
    until(line)
    asked, before = len(line.asked), line.outputs
    line.set(trigger=False)
    missed = line.set(trigger=True)
    assert (missed.missed, missed.error, missed.error_code, len(line.asked)) == (1, True, code, asked)
    assert (missed.ok, missed.results_ready, missed.busy) == (before.ok, before.results_ready, before.busy)


def test_a_late_result_is_unknown_and_does_not_change_later(line: Line) -> None:
    line.set(trigger=True)
    late = line.tick(5.1)
    assert (late.unknown, late.results_ready, late.error_code) == (True, True, ErrorCode.RESULT_TIMEOUT)
    after = line.answer(Verdict.OK)
    assert (after.ok, after.unknown, after.result_id) == (False, True, 0)


def test_the_result_of_another_trigger_is_ignored(line: Line) -> None:
    line.set(trigger=True)
    assert line.answer(trigger_id="plc-beef-0").busy
    assert line.answer(trigger_id="gate-7").busy


def test_a_result_that_is_not_acknowledged_stays(line: Line) -> None:
    line.set(trigger=True)
    line.answer(Verdict.ANOMALOUS, 0.9)
    waiting = line.tick(10.1)
    assert (waiting.ng, waiting.results_ready, waiting.error_code) == (True, True, ErrorCode.ACK_TIMEOUT)
    line.set(results_ack=True)
    line.set(results_ack=False)
    assert line.set(trigger=False).trigger_ready


def test_an_acknowledgement_from_before_the_result_does_not_count(line: Line) -> None:
    line.set(trigger=True, results_ack=True)
    assert line.answer().results_ready
    line.set(results_ack=False)
    assert line.outputs.results_ready
    assert not line.set(results_ack=True).results_ready


def test_reset_counts_the_part_that_was_not_acknowledged(line: Line) -> None:
    line.set(trigger=True)
    reset = line.set(reset=True)
    assert (reset.busy, reset.missed, reset.error_code) == (False, 1, ErrorCode.RESET)
    assert line.answer().results_ready is False
    line.set(trigger=False)
    assert not line.outputs.trigger_ready
    assert line.set(reset=False).trigger_ready
    line.set(trigger=True)
    assert (line.outputs.error, line.outputs.busy) == (False, True)


def test_both_doors_trigger_but_only_one_part_is_inspected(line: Line) -> None:
    line.set(trigger=True)
    line.set(OTHER_DOOR, trigger=True)
    assert (len(line.asked), line.outputs.missed) == (1, 1)
    line.answer()
    line.set(OTHER_DOOR, results_ack=True)
    line.set(OTHER_DOOR, results_ack=False, trigger=False)
    assert not line.outputs.trigger_ready
    assert line.set(trigger=False).trigger_ready


def test_a_program_is_set_between_two_parts(line: Line) -> None:
    line.set(trigger=True)
    line.set(program_select=2)
    assert line.machine.program_to_set == 0
    line.answer()
    line.set(results_ack=True)
    line.set(results_ack=False, trigger=False)
    assert line.machine.program_to_set == 2
    assert not line.outputs.trigger_ready
    line.machine.program_set(2, refused=False)
    assert (line.outputs.trigger_ready, line.outputs.program) == (True, 2)
    line.set(program_select=9)
    line.machine.program_set(9, refused=True)
    assert (line.outputs.trigger_ready, line.outputs.program, line.outputs.error_code) == (True, 2, ErrorCode.PROGRAM)


def test_the_heartbeat_counts_twice_a_second(line: Line) -> None:
    first = line.tick().heartbeat
    assert (line.tick(10).heartbeat - first) % 65_536 == 20


@pytest.mark.parametrize("seed", range(20))
def test_every_trigger_is_answered_once_or_missed(seed: int) -> None:
    """A PLC that sets anything at any time, with a camera that answers late, twice, or never."""
    choice = random.Random(seed)
    line = Line()
    line.machine.touch()
    rises = answers = 0
    for _ in range(2000):
        before = line.outputs
        action = choice.randrange(8)
        if action < 3:
            door = choice.choice((DOOR, OTHER_DOOR))
            level = not line.inputs[door].trigger
            rises += level
            line.set(door, trigger=level)
        elif action == 3:
            door = choice.choice((DOOR, OTHER_DOOR))
            line.set(door, results_ack=not line.inputs[door].results_ack)
        elif action == 4 and choice.random() < 0.2:
            line.set(reset=not line.inputs[DOOR].reset)
        elif action == 5 and line.asked:
            line.answer(choice.choice(list(Verdict)), 0.5, choice.choice(line.asked[-2:]))
        else:
            line.tick(choice.choice((0.05, 0.05, 6.0)), available=choice.random() < 0.9)
        now = line.outputs
        verdicts = now.ok + now.ng + now.unknown
        assert verdicts == now.results_ready
        assert now.busy + now.results_ready + now.trigger_ready <= 1
        answers += now.results_ready and not before.results_ready
        if before.results_ready and now.results_ready:
            assert (now.ok, now.ng, now.unknown) == (before.ok, before.ng, before.unknown)
    assert len(line.asked) == len(set(line.asked)) == line.outputs.part_counter
    reset_before_answer = line.outputs.part_counter - answers - line.outputs.busy
    not_accepted = rises - line.outputs.part_counter
    assert not_accepted <= line.outputs.missed
    assert reset_before_answer <= line.outputs.missed - not_accepted
    assert answers > 10
