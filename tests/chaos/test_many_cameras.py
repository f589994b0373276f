"""Eight cameras in one agent, together faster than the model: equal shares, and one that hangs slows no other."""

import time
from collections import Counter
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path

import pytest
from agent_process import AgentProcess
from chaos_record import record
from judge import Judgement, Received, judge, read_results
from mosquitto_broker import MosquittoBroker
from network_camera import MjpegServer
from tiny_bundle_maker import make_tiny_bundle
from witness import Witness

CAMERAS = 8
FPS = 20.0
SLOW_MODEL_HW = (768, 768)
FAIR = 0.2  # largest relative distance from the mean number of inspections
START_S = 60.0


class ManyCameras:
    """The outcome of a run."""

    def __init__(self, accepted: set[tuple[str, str, int]], results: Sequence[Received], since_s: float) -> None:
        self.found: Judgement = judge(accepted, results, gapless=False)
        self.results = results
        since = [result for result in results if result.captured_s > since_s]
        self.inspected = Counter(result.camera for result in since if result.verdict != "unknown")
        self.unknown = Counter(result.camera for result in since if result.verdict == "unknown")

    def unfair(self, cameras: Sequence[str]) -> float:
        """The largest distance from the mean, relative to the mean."""
        counts = [self.inspected[camera] for camera in cameras]
        mean = sum(counts) / len(counts)
        return max(abs(count - mean) for count in counts) / mean


def run_cameras(folder: Path, seconds: float, *, hanging: int = 0) -> ManyCameras:
    """Runs all cameras for `seconds` after each has been inspected; the first `hanging` of them then hang."""
    bundle = make_tiny_bundle(folder / "slow", input_hw=SLOW_MODEL_HW)
    with ExitStack() as stack:
        cameras = [stack.enter_context(MjpegServer(fps=FPS)) for _ in range(CAMERAS)]
        broker = stack.enter_context(MosquittoBroker(folder))
        witness = stack.enter_context(Witness(broker.port))
        settings = "heatmap:\n  enabled: false\ncameras:\n" + "".join(
            f"  - name: cam{number}\n    source: {camera.url}\n    stale_after_s: 2\n"
            for number, camera in enumerate(cameras)
        )
        arguments = ["--broker", broker.url, "--print-results"]
        with AgentProcess(folder, bundle, *arguments, settings=settings) as agent:
            assert witness.wait_for(lambda: len({name for _, name, _ in agent.printed}) == CAMERAS, START_S), (
                agent.output[-2000:]
            )
            for camera in cameras[:hanging]:
                camera.mode = "hang"
            time.sleep(1.0)
            since_s = time.time()
            time.sleep(seconds)
            code, _ = agent.terminate()
            assert code == 0, agent.output[-1000:]
        accepted = set(agent.printed)
        witness.wait_for(lambda: len(read_results(witness.arrivals)) >= len(accepted), 10)
        return ManyCameras(accepted, read_results(witness.arrivals), since_s)


def check(run: ManyCameras, *, hanging: int = 0) -> None:
    running = [f"cam{number}" for number in range(hanging, CAMERAS)]
    assert run.found.clean and run.found.doubled == 0, str(run.found)
    assert run.unfair(running) < FAIR, str(run.inspected)
    for number in range(hanging):
        assert run.inspected[f"cam{number}"] == 0
        assert run.unknown[f"cam{number}"] >= 1
    assert not any(run.unknown[camera] for camera in running), str(run.unknown)


def test_8_cameras_share_the_model_evenly(tmp_path: Path) -> None:
    check(run_cameras(tmp_path, 4.0))


@pytest.mark.chaos
@pytest.mark.parametrize("hanging", [0, 2])
def test_8_cameras_share_the_model_evenly_for_a_minute(hanging: int, tmp_path: Path) -> None:
    run = run_cameras(tmp_path, 60.0, hanging=hanging)
    running = [f"cam{number}" for number in range(hanging, CAMERAS)]
    counts = sorted(run.inspected[camera] for camera in running)
    record(
        f"8 cameras in one agent, faster than inference, {hanging} of them hanging",
        tried=1,
        lost=len(run.found.lost),
        doubled=run.found.doubled,
        recover_s=None,
        note=f"{counts[0]} to {counts[-1]} inspections of each running camera in a minute",
    )
    check(run, hanging=hanging)
