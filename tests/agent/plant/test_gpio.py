import inspect
import threading
import time
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import fake_gpiod
import gpiod
import pytest
from fake_gpiod import FakeChip
from result_maker import make_result

from zsad_agent.config import GpioConfig, PlantConfig
from zsad_agent.daemon.plant import Plant
from zsad_agent.messages import Latency
from zsad_agent.plant import DigitalOutputs, LineLevels
from zsad_agent.system import service
from zsad_core.types import Verdict

PATH = "/dev/gpiochip0"
EVERY = GpioConfig(
    chip=PATH, ok="1", ng="2", unknown="3", reject="4", ready="5", heartbeat="6", hold_ms=200, reject_ms=50
)
REAL = {"request_lines": gpiod.request_lines, "Chip": gpiod.Chip, "LineRequest": gpiod.LineRequest}


@dataclass
class Camera:
    """A station as far as the outputs know it."""

    name: str = "cam0"
    fault: str | None = None
    paused: bool = False

    @property
    def station(self) -> Any:
        status = SimpleNamespace(fault_of=lambda part: self.fault)
        return SimpleNamespace(name=self.name, status=status, capture=self)


def active(levels: dict[str, bool]) -> set[str]:
    return {name for name, line in EVERY.lines.items() if levels[line]}


@pytest.mark.parametrize(
    ("verdict", "lines"),
    [
        (Verdict.OK, {"ok", "ready"}),
        (Verdict.ANOMALOUS, {"ng", "reject", "ready"}),
        (Verdict.UNKNOWN, {"unknown", "reject", "ready"}),
    ],
)
def test_a_verdict_is_shown_for_a_while(verdict: Verdict, lines: set[str]) -> None:
    levels = LineLevels(EVERY)
    assert active(levels.at(100.0, can_inspect=True)) == {"ready"}
    assert levels.take(verdict, captured_s=99.9, arrived_s=100.0) == 0
    assert active(levels.at(100.0, can_inspect=True)) == lines
    assert active(levels.at(100.06, can_inspect=True)) == lines - {"reject"}
    assert active(levels.at(100.21, can_inspect=True)) == {"ready"}


def test_a_camera_that_cannot_inspect_passes_nothing() -> None:
    levels = LineLevels(EVERY)
    levels.take(Verdict.OK, captured_s=100.5, arrived_s=100.5)
    assert active(levels.at(100.6, can_inspect=True)) == {"ok", "ready", "heartbeat"}
    assert active(levels.at(100.6, can_inspect=False)) == set()
    assert active(levels.at(100.65, can_inspect=True)) == {"ready", "heartbeat"}  # the next part may be at the gate


def test_the_newest_verdict_counts() -> None:
    levels = LineLevels(EVERY)
    levels.take(Verdict.OK, captured_s=100.0, arrived_s=100.0)
    levels.take(Verdict.ANOMALOUS, captured_s=100.1, arrived_s=100.1)
    assert active(levels.at(100.1, can_inspect=True)) == {"ng", "reject", "ready"}


def test_the_heartbeat_changes_twice_a_second() -> None:
    levels = LineLevels(EVERY)
    beats = ["heartbeat" in active(levels.at(100.25 + half / 2, can_inspect=True)) for half in range(4)]
    assert beats == [False, True, False, True]
    assert levels.next_s(100.25) == 100.5


def test_reject_pulses_keep_their_distance_from_the_capture() -> None:
    levels = LineLevels(EVERY.model_copy(update={"reject_delay_ms": 1000.0}))
    for captured_s, late_s in ((100.0, 0.02), (100.1, 0.3), (100.4, 0.05)):  # inference takes longer or shorter
        assert levels.take(Verdict.ANOMALOUS, captured_s=captured_s, arrived_s=captured_s + late_s) == 0
    changes = []
    now_s = 100.46
    while now_s < 101.5:
        now_s = min(levels.next_s(now_s), now_s + 0.01)
        rejects = "reject" in active(levels.at(now_s, can_inspect=False))  # those parts are on their way
        if rejects != (len(changes) % 2 == 1):
            changes.append(round(now_s, 2))
    assert changes == [101.0, 101.05, 101.1, 101.15, 101.4, 101.45]


def test_a_reject_that_comes_too_late_is_told() -> None:
    levels = LineLevels(EVERY.model_copy(update={"reject_delay_ms": 1000.0}))
    assert levels.take(Verdict.UNKNOWN, captured_s=100.0, arrived_s=101.5) == 0.5
    assert "reject" in active(levels.at(101.5, can_inspect=True))


@pytest.fixture
def chips(monkeypatch: pytest.MonkeyPatch) -> dict[str, FakeChip]:
    monkeypatch.setattr(service, "RETRY_S", 0.05)
    return fake_gpiod.install(monkeypatch)


def wait_for(condition: Callable[[], bool]) -> None:
    deadline_s = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < deadline_s
        time.sleep(0.005)


def result(verdict: Verdict, camera: str = "cam0", age_s: float = 0.004) -> Any:
    captured = datetime.now(UTC) - timedelta(seconds=age_s)
    latency = Latency(capture_to_result=1000 * age_s, inference=3.0)
    return make_result(verdict=verdict, camera=camera, captured_at=captured, latency_ms=latency)


def test_the_fake_has_the_signatures_of_the_real_module() -> None:
    pairs = [
        (fake_gpiod.request_lines, REAL["request_lines"]),
        (fake_gpiod.Chip.__init__, REAL["Chip"].__init__),
        (fake_gpiod.Chip.get_line_info, REAL["Chip"].get_line_info),
        (fake_gpiod.LineRequest.set_values, REAL["LineRequest"].set_values),
        (fake_gpiod.LineRequest.release, REAL["LineRequest"].release),
    ]
    for fake, real in pairs:
        of_fake, of_real = (inspect.signature(one).parameters for one in (fake, real))
        assert [(one.name, one.kind, one.default) for one in of_fake.values()] == [
            (one.name, one.kind, one.default) for one in of_real.values()
        ], fake.__qualname__
    assert {"used", "consumer"} <= gpiod.LineInfo.__annotations__.keys()


def test_lines_follow_the_results_and_are_inactive_at_the_end(chips: dict[str, FakeChip]) -> None:
    chip = chips[PATH] = FakeChip()
    ok, ng, reject = (chip.lines[number] for number in (1, 2, 4))
    with DigitalOutputs(EVERY, Camera().station) as outputs:
        wait_for(lambda: ok.used)
        assert ok.consumer == "zsad-agent cam0" and not ok.active
        outputs.accept(result(Verdict.OK), None)
        wait_for(lambda: len(ok.physical) == 3)
        outputs.accept(result(Verdict.ANOMALOUS), None)
        wait_for(lambda: len(ng.physical) >= 2 and len(reject.physical) == 3)
        outputs.accept(result(Verdict.OK), None)
        wait_for(lambda: len(ok.physical) >= 4)
        assert outputs.fault is None
    assert not any(line.active or line.used for line in chip.lines)
    assert [high for high, requested in ok.physical if requested] == [False, True, False, True, False]


def test_lines_that_are_active_low_are_high_at_rest(chips: dict[str, FakeChip]) -> None:
    chip = chips[PATH] = FakeChip()
    config = GpioConfig(chip=PATH, ok="LINE7", active_low=True, hold_ms=50)
    with DigitalOutputs(config, Camera().station) as outputs:
        wait_for(lambda: chip.lines[7].used)
        outputs.accept(result(Verdict.OK), None)
        wait_for(lambda: len(chip.lines[7].physical) >= 3)
    assert [high for high, _ in chip.lines[7].physical] == [True, False, True, True]


def test_a_pause_and_a_lost_camera_end_ok_at_once(chips: dict[str, FakeChip]) -> None:
    chip = chips[PATH] = FakeChip()
    camera = Camera()
    config = GpioConfig(chip=PATH, ok="1", ready="5", hold_ms=60_000)
    with DigitalOutputs(config, camera.station) as outputs:
        for stop, resume in (({"paused": True}, {"paused": False}), ({"fault": "unplugged"}, {"fault": None})):
            outputs.accept(result(Verdict.OK), None)
            wait_for(lambda: chip.lines[1].active and chip.lines[5].active)
            vars(camera).update(stop)
            wait_for(lambda: not chip.lines[1].active and not chip.lines[5].active)
            vars(camera).update(resume)


def test_each_camera_has_its_lines_also_if_a_chip_is_missing(chips: dict[str, FakeChip], tmp_path: Path) -> None:
    chip = chips["/dev/gpiochip1"] = FakeChip()
    outputs = (
        GpioConfig(chip=PATH, camera="left", ng="1"),
        GpioConfig(chip="/dev/gpiochip1", camera="right", ng="1", hold_ms=60_000),
    )
    plant = Plant(PlantConfig(gpio=outputs), [Camera("left").station, Camera("right").station], tmp_path)
    with ExitStack() as running:
        for one in plant.services(None):
            running.enter_context(one)
        wait_for(lambda: chip.lines[1].used)
        for camera, verdict in (("right", Verdict.ANOMALOUS), ("left", Verdict.OK)):
            for sink in plant.sinks:
                sink.accept(result(verdict, camera), None)
        wait_for(lambda: chip.lines[1].active)
        wait_for(lambda: "No such file" in str(plant.services(None)[0].fault))


def test_a_chip_that_is_missing_busy_or_vanishes_is_a_fault_until_it_is_back(chips: dict[str, FakeChip]) -> None:
    with DigitalOutputs(GpioConfig(chip=PATH, ok="1", hold_ms=60_000), Camera().station) as outputs:
        wait_for(lambda: "/dev/gpiochip0: No such file or directory" in str(outputs.fault))
        outputs.accept(result(Verdict.OK), None)
        chip = FakeChip()
        chip.lines[1].used, chip.lines[1].consumer = True, "gpioset"
        chips[PATH] = chip
        wait_for(lambda: "line 1 is used by gpioset" in str(outputs.fault))
        chip.lines[1].used = False
        wait_for(lambda: outputs.fault is None)
        outputs.accept(result(Verdict.OK), None)
        wait_for(lambda: chip.lines[1].active)
        chip.vanish()
        wait_for(lambda: "No such" in str(outputs.fault))
        assert outputs.alive
        chips[PATH] = FakeChip()
        wait_for(lambda: outputs.fault is None)


def test_outputs_need_no_plc(tmp_path: Path) -> None:
    plant = Plant(PlantConfig(gpio=(EVERY,)), [Camera().station], tmp_path)
    assert plant.stations is None
    assert [one.name for one in plant.services(None)] == [one.name for one in plant.sinks] == ["gpio"]


def test_a_line_that_the_chip_has_not_is_a_fault(chips: dict[str, FakeChip]) -> None:
    chips[PATH] = FakeChip(4)
    for line, why in (("9", "line offset of out range"), ("GPIO17", "No such file or directory")):
        with DigitalOutputs(GpioConfig(chip=PATH, ok=line), Camera().station) as outputs:
            wait_for(lambda why=why: why in str(outputs.fault))  # type: ignore[misc]


def test_a_late_reject_is_a_fault(chips: dict[str, FakeChip]) -> None:
    chips[PATH] = FakeChip()
    config = GpioConfig(chip=PATH, reject="4", reject_delay_ms=100.0)
    with DigitalOutputs(config, Camera().station) as outputs:
        wait_for(lambda: chips[PATH].lines[4].used)
        outputs.accept(result(Verdict.UNKNOWN, age_s=0.5), None)
        wait_for(lambda: "ms too late" in str(outputs.fault))


def test_a_chip_that_hangs_delays_no_result(chips: dict[str, FakeChip], monkeypatch: pytest.MonkeyPatch) -> None:
    chips[PATH] = FakeChip()
    hangs, entered = threading.Event(), threading.Event()

    def set_values(request: fake_gpiod.LineRequest, values: dict[Any, Any]) -> None:
        entered.set()
        hangs.wait(60)

    monkeypatch.setattr(fake_gpiod.LineRequest, "set_values", set_values)
    outputs = DigitalOutputs(EVERY, Camera().station)
    outputs.start()
    assert entered.wait(60)
    begun_s = time.monotonic()
    for _ in range(1000):
        outputs.accept(result(Verdict.OK), None)
    assert time.monotonic() - begun_s < 30
    hangs.set()
    outputs.stop(time.monotonic() + 60)
