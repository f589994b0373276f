import contextlib
import random
import re
from collections.abc import Callable
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pytest
from mqtt_listener import wait_until
from result_maker import make_result

from zsad_agent.plant import NO_PART, SETTLE_S, SHOWN_S, ErrorCode, Handshake, Inputs, Outputs, PlantStations
from zsad_core.errors import ConflictError
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
    line.machine.touch(DOOR)
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
    assert re.fullmatch(r"plc-beef-1-[0-9a-f]{8}-part-4711", *line.asked)
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
    line.machine.touch(DOOR)
    assert not line.tick(0.1).trigger_ready
    assert line.tick(0.2).trigger_ready


def test_a_trigger_held_from_before_the_start_is_missed_and_not_inspected() -> None:
    line = Line()
    line.machine.touch(DOOR)
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
    for other in ("plc-beef-0", "plc-beef-1", line.asked[0][:-1]):  # such as a trigger over MQTT has
        assert line.answer(trigger_id=other).busy
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


def test_an_acknowledgement_counts_while_another_door_holds_one(line: Line) -> None:
    line.set(OTHER_DOOR, results_ack=True)  # a client that left without a word
    line.set(trigger=True)
    line.answer()
    assert line.outputs.results_ready
    assert not line.set(results_ack=True).results_ready
    assert not line.set(results_ack=False, trigger=False).trigger_ready
    assert line.set(OTHER_DOOR, results_ack=False).trigger_ready


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


def test_a_result_keeps_the_program_with_which_its_part_was_inspected(line: Line) -> None:
    line.set(trigger=True)
    line.tick(program=2)  # somebody has set another product meanwhile
    line.machine.accept(make_result(trigger_id=line.asked[-1]), program=1)
    assert (line.outputs.ng, line.outputs.program, line.outputs.result_program) == (True, 2, 1)
    line.set(results_ack=True)
    line.set(results_ack=False, trigger=False)
    line.set(trigger=True)
    assert line.tick(5.1, program=2).unknown
    assert line.outputs.result_program == 0  # there is no result


def test_the_programs_of_the_camera_and_of_its_result_are_told_apart() -> None:
    asked: list[str] = []
    station: Any = SimpleNamespace(
        name="cam0",
        capture=SimpleNamespace(paused=False, trigger=asked.append),
        status=SimpleNamespace(fault_of=lambda cause: None),
        inspector=SimpleNamespace(product="bolt"),
    )
    unused: Any = None
    with PlantStations([station], unused, programs=("nut", "bolt"), result_timeout_s=60, ack_timeout_s=60) as plant:
        machine = plant.machines["cam0"]
        machine.touch(DOOR)
        wait_until(lambda: machine.outputs.trigger_ready, 30)
        machine.write(DOOR, Inputs(trigger=True))
        plant.accept(make_result(trigger_id=asked[-1], product="nut"), None)
        assert (machine.outputs.program, machine.outputs.result_program) == (2, 1)


def test_the_heartbeat_counts_twice_a_second(line: Line) -> None:
    first = line.tick().heartbeat
    assert (line.tick(10).heartbeat - first) % 65_536 == 20


@pytest.mark.parametrize("verdict", list(Verdict))
def test_a_dry_test_shows_a_verdict_of_no_part_and_ends_by_itself(line: Line, verdict: Verdict) -> None:
    line.machine.start_dry_test(verdict)
    settling = line.tick(SETTLE_S - 0.1)
    assert not (settling.trigger_ready or settling.results_ready or settling.ok or settling.ng or settling.unknown)
    shown = line.tick(0.2)
    assert (shown.ok, shown.ng, shown.unknown) == tuple(
        verdict is one for one in (Verdict.OK, Verdict.ANOMALOUS, Verdict.UNKNOWN)
    )
    assert (shown.trigger_ready, shown.busy, shown.results_ready) == (False, False, True)
    assert (shown.error_code, shown.part_id_out, shown.result_id, shown.score) == (ErrorCode.DRY_TEST, NO_PART, 0, -1.0)
    with pytest.raises(ConflictError, match="another one is running"):
        line.machine.start_dry_test(verdict)
    line.now_s += SHOWN_S
    ended = line.outputs  # by the clock alone: a thread that hangs leaves nothing shown
    assert not (ended.results_ready or ended.ok or ended.ng or ended.unknown or ended.trigger_ready)
    ready = line.tick()  # for a PLC that has read Ok a moment ago, and reads the numbers after it, it stays a dry test
    assert ready == replace(ended, heartbeat=ready.heartbeat, trigger_ready=True) and line.asked == []
    assert (ready.error, ready.error_code, ready.part_id_out) == (True, ErrorCode.DRY_TEST, NO_PART)
    accepted = line.set(trigger=True, part_id=5)
    assert (accepted.error, accepted.error_code, accepted.part_id_out) == (False, ErrorCode.NONE, 5)


@pytest.mark.parametrize("after_s", [0.0, SETTLE_S + 0.1])
@pytest.mark.parametrize("door", [DOOR, OTHER_DOOR])
def test_a_trigger_ends_a_dry_test_and_is_missed(line: Line, door: str, after_s: float) -> None:
    line.machine.start_dry_test(Verdict.OK)
    assert line.tick(after_s).ok == (after_s > 0)
    missed = line.set(door, trigger=True)
    assert not (missed.ok or missed.results_ready or missed.busy or missed.trigger_ready)
    assert (missed.missed, missed.error_code, missed.part_counter, line.asked) == (1, ErrorCode.DRY_TEST, 0, [])
    assert not line.tick(SETTLE_S + 1).results_ready
    assert line.set(door, trigger=False).trigger_ready
    accepted = line.set(door, trigger=True)
    assert accepted.busy and not accepted.error and len(line.asked) == 1


@pytest.mark.parametrize("end", [{"results_ack": True}, {"reset": True}, None])
def test_the_plc_and_the_page_can_end_a_dry_test(line: Line, end: dict[str, bool] | None) -> None:
    line.machine.start_dry_test(Verdict.OK)
    assert line.tick(SETTLE_S + 0.1).ok
    if end is None:
        line.machine.end_dry_test()
    else:
        assert not line.set(**end).ok
        assert not line.outputs.trigger_ready
        line.set(**dict.fromkeys(end, False))
    assert (line.outputs.trigger_ready, line.outputs.missed) == (True, 0)
    assert line.outputs.error != (end == {"reset": True})
    line.machine.end_dry_test()
    assert line.outputs.trigger_ready


@pytest.mark.parametrize(
    ("before", "why"),
    [
        (lambda line: line.set(trigger=True), "Trigger at 1"),
        (lambda line: (line.set(trigger=True), line.set(trigger=False)), "a part is being inspected"),
        (lambda line: (line.set(trigger=True), line.set(trigger=False), line.answer()), "a part is being inspected"),
        (lambda line: line.set(results_ack=True), "ResultsAck at 1"),
        (  # a PLC that sends a pulse waits for the answer to a trigger that was missed
            lambda line: (line.tick(available=False), line.set(trigger=True), line.set(trigger=False)),
            "the PLC has triggered a moment ago. Stop the line, and wait 5 s",
        ),
        (lambda line: line.set(program_select=2), "the program is being changed"),
    ],
)
def test_a_dry_test_is_refused_while_a_part_may_wait(line: Line, before: Callable[[Line], object], why: str) -> None:
    before(line)
    shown = line.outputs
    with pytest.raises(ConflictError, match=why):
        line.machine.start_dry_test(Verdict.OK)
    assert line.outputs == shown


def test_a_program_waits_until_the_dry_test_is_over(line: Line) -> None:
    """Its refusal would replace the error code by which the PLC knows the dry test."""
    line.machine.start_dry_test(Verdict.OK)
    line.set(program_select=2)
    assert line.machine.program_to_set == 0
    line.machine.end_dry_test()
    assert line.machine.program_to_set == 2


def test_a_dry_test_is_refused_before_a_client_has_spoken() -> None:
    line = Line()
    line.tick()
    with pytest.raises(ConflictError, match="Connect the PLC first"):
        line.machine.start_dry_test(Verdict.OK)


def test_the_wiring_says_what_was_seen(line: Line) -> None:
    assert (line.machine.wiring.seen_s, line.machine.wiring.dry_test_left_s) == ({}, None)
    line.set(OTHER_DOOR, trigger=True, part_id=7)
    line.tick(2)
    wiring = line.machine.wiring
    assert wiring.state == "busy" and wiring.outputs == line.outputs
    assert wiring.inputs == {OTHER_DOOR: Inputs(trigger=True, part_id=7)}
    assert wiring.seen_s == {"Trigger": 2.0} and wiring.silent_s == {DOOR: pytest.approx(2.3)}


@pytest.mark.parametrize("seed", range(20))
def test_every_trigger_is_answered_once_or_missed(seed: int) -> None:
    """A PLC that sets anything at any time, with a camera that answers late, twice, or never."""
    choice = random.Random(seed)
    line = Line()
    line.machine.touch(DOOR)
    rises = answers = dry_tests = 0
    for _ in range(2000):
        before = line.outputs
        action = choice.randrange(9)
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
        elif action == 8:
            for door in line.inputs:
                line.set(door, trigger=False, results_ack=False, reset=False)
            line.tick(6.0)
            with contextlib.suppress(ConflictError):  # a result waits
                line.machine.start_dry_test(Verdict.OK)
                dry_tests += 1
        else:
            line.tick(choice.choice((0.05, 0.05, 6.0)), available=choice.random() < 0.9)
        now = line.outputs
        verdicts = now.ok + now.ng + now.unknown
        assert verdicts == now.results_ready
        assert now.busy + now.results_ready + now.trigger_ready <= 1
        is_dry = now.error_code == ErrorCode.DRY_TEST
        assert (now.results_ready and is_dry) <= (now.part_id_out == NO_PART)
        answers += now.results_ready and not before.results_ready and not is_dry
        if action < 3 and level:
            assert not (now.results_ready and is_dry)
        if before.results_ready and now.results_ready:
            assert (now.ok, now.ng, now.unknown) == (before.ok, before.ng, before.unknown)
    assert len(line.asked) == len(set(line.asked)) == line.outputs.part_counter
    reset_before_answer = line.outputs.part_counter - answers - line.outputs.busy
    not_accepted = rises - line.outputs.part_counter
    assert not_accepted <= line.outputs.missed
    assert reset_before_answer <= line.outputs.missed - not_accepted
    assert answers > 10 and dry_tests > 0
