"""A network camera with every kind of fault: during a fault the verdict is `unknown`, never the last verdict again.

The agent is a real process that reads a real HTTP stream; only the camera is scripted.
"""

import random
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from agent_process import AgentProcess
from chaos_record import record
from judge import judge, read_results
from mosquitto_broker import MosquittoBroker
from network_camera import MjpegServer, Mode
from witness import Witness

STALE_AFTER_S = 0.6
FROZEN_AFTER_S = 1.0
SETTINGS = f"""source:
  stale_after_s: {STALE_AFTER_S}
  reopen_max_s: 0.5
  health:
    frozen_after_s: {FROZEN_AFTER_S}
heatmap:
  enabled: false
"""
MARGIN_S = 1.0  # added to the limit above: a period of supervision, on a busy machine
ON_ITS_WAY_S = 0.3  # images that the camera sent before the fault
BACK_WITHIN_S = 10.0
# faults without images of parts, and the limit for reporting each
FAULTS: dict[Mode, float] = {
    "hang": STALE_AFTER_S,
    "garbage": STALE_AFTER_S,
    "end": STALE_AFTER_S,
    "frozen": FROZEN_AFTER_S,
}
PECULIAR: tuple[Mode, ...] = ("slow", "another size")  # faults in which valid images arrive


@dataclass(frozen=True, kw_only=True, slots=True)
class Seen:
    """The outcome of one fault, in seconds."""

    until_unknown_s: float
    passes: list[dict[str, Any]]  # verdicts other than unknown on images captured during the fault
    recovery_s: float


class Scene:
    """Camera, agent, broker and subscriber."""

    def __init__(self, camera: MjpegServer, agent: AgentProcess, witness: Witness) -> None:
        self.camera, self.agent, self.witness = camera, agent, witness

    @property
    def results(self) -> list[tuple[float, str, dict[str, Any]]]:
        """Capture time, verdict and message of each result."""
        found = read_results(self.witness.arrivals)
        return [(result.captured_s, result.verdict, result.message) for result in found]

    def await_verdict(self, since_s: float, unknown: bool, timeout_s: float) -> float:
        """Seconds from `since_s` until a result captured later is unknown, or is not."""

        def times() -> list[float]:
            return [when for when, verdict, _ in self.results if when > since_s and (verdict == "unknown") == unknown]

        came = self.witness.wait_for(lambda: bool(times()), timeout_s)
        assert came, f"no {'unknown' if unknown else 'known'} verdict in {timeout_s} s:\n{self.agent.output[-1500:]}"
        return times()[0] - since_s

    def run_fault(self, fault: Mode, time_s: float) -> Seen:
        began_s = time.time()
        self.camera.mode = fault
        until_unknown_s = self.await_verdict(began_s, True, FAULTS[fault] + MARGIN_S + BACK_WITHIN_S)
        time.sleep(time_s)
        ended_s = time.time()
        self.camera.mode = "good"
        recovery_s = self.await_verdict(ended_s, False, BACK_WITHIN_S)
        from_s = began_s + (until_unknown_s if fault == "frozen" else ON_ITS_WAY_S)
        passes = [body for when, verdict, body in self.results if from_s < when < ended_s and verdict != "unknown"]
        return Seen(until_unknown_s=until_unknown_s, passes=passes, recovery_s=recovery_s)


@pytest.fixture
def scene(tmp_path: Path, tiny_bundle: Path) -> Iterator[Scene]:
    with MjpegServer() as camera, MosquittoBroker(tmp_path) as broker, Witness(broker.port) as witness:
        arguments = ["--source", camera.url, "--broker", broker.url, "--print-results"]
        with AgentProcess(tmp_path, tiny_bundle, *arguments, settings=SETTINGS) as agent:
            scene = Scene(camera, agent, witness)
            scene.await_verdict(0.0, False, 30.0)
            yield scene
            assert agent.running
        availability = [arrival.payload for arrival in witness.arrivals if arrival.topic.endswith("/available")]
        assert b"offline" not in availability[:-1]  # the last message is sent when the test ends


def check(fault: Mode, seen: Seen) -> None:
    assert seen.until_unknown_s < FAULTS[fault] + MARGIN_S
    assert not seen.passes


@pytest.mark.parametrize("fault", FAULTS)
def test_the_verdict_is_unknown_during_a_camera_fault(fault: Mode, scene: Scene) -> None:
    check(fault, scene.run_fault(fault, 0.5))


def test_slow_pictures_and_another_size_are_inspected(scene: Scene) -> None:
    began_s = time.time()
    for mode in PECULIAR:
        scene.camera.mode = mode
        time.sleep(1.5)
        assert scene.await_verdict(time.time(), False, BACK_WITHIN_S) < BACK_WITHIN_S
    sizes = {tuple(body["frame_wh"]) for when, verdict, body in scene.results if when > began_s and verdict == "ok"}
    assert sizes == {(64, 64), (96, 96)}


@pytest.mark.chaos
@pytest.mark.parametrize("fault", FAULTS)
def test_10_camera_faults(fault: Mode, scene: Scene) -> None:
    chance = random.Random(5)
    seen: list[Seen] = []
    for _ in range(10):
        seen.append(scene.run_fault(fault, chance.uniform(0, 2)))
        time.sleep(0.5)
    told = summary(seen)
    found = judge([], read_results(scene.witness.arrivals), gapless=False)
    record(
        f"camera: {fault}",
        tried=len(seen),
        lost=0,
        doubled=found.doubled,
        recover_s=[one.recovery_s for one in seen],
        note=told,
    )
    for one in seen:
        check(fault, one)
    assert found.clean


@pytest.mark.chaos
@pytest.mark.parametrize("mode", PECULIAR)
def test_10_unusual_but_valid_streams(mode: Mode, scene: Scene) -> None:
    began_s = time.time()
    recoveries_s = []
    for _ in range(10):
        scene.camera.mode = mode
        time.sleep(1.5)
        ended_s = time.time()
        scene.camera.mode = "good"
        recoveries_s.append(scene.await_verdict(ended_s, False, BACK_WITHIN_S))
    verdicts = Counter(verdict for when, verdict, _ in scene.results if when > began_s)
    found = judge([], read_results(scene.witness.arrivals), gapless=False)
    told = ", ".join(f"{count} {verdict}" for verdict, count in sorted(verdicts.items()))
    record(f"camera: {mode}", tried=10, lost=0, doubled=found.doubled, recover_s=recoveries_s, note=told)
    assert set(verdicts) <= {"ok", "unknown"}
    assert found.clean


def summary(seen: Sequence[Seen]) -> str:
    longest_s = max(one.until_unknown_s for one in seen)
    passes = sum(len(one.passes) for one in seen)
    return f"unknown after {longest_s:.2f} s at most, {passes} verdicts on images captured during the fault"
