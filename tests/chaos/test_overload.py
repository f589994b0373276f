"""Frames arrive faster than inference: old ones are dropped and counted, and each inspected frame is new."""

import re
import time
from pathlib import Path

import numpy as np
import pytest
from agent_process import AgentProcess
from chaos_record import record
from judge import Judgement, judge, read_results
from mosquitto_broker import MosquittoBroker
from network_camera import MjpegServer
from tiny_bundle_maker import make_tiny_bundle
from witness import Witness

from zsad_agent.inspection.pipeline import CONCLUSION_PLACES

SLOW_MODEL_HW = (1280, 1280)  # tens of milliseconds for each frame
FPS = 200.0
SETTINGS = "heatmap:\n  enabled: false\n"


def overload(folder: Path, seconds: float) -> tuple[Judgement, np.ndarray, float, int, int]:
    """(comparison, latencies from capture to result in ms, mean period of results in ms, inspected, dropped)."""
    bundle = make_tiny_bundle(folder / "slow", input_hw=SLOW_MODEL_HW)
    with MjpegServer(fps=FPS) as camera, MosquittoBroker(folder) as broker, Witness(broker.port) as witness:
        arguments = ["--source", camera.url, "--broker", broker.url, "--print-results"]
        with AgentProcess(folder, bundle, *arguments, settings=SETTINGS) as agent:
            assert witness.wait_for(lambda: len(agent.printed) > 5, 30)
            time.sleep(seconds)
            code, _ = agent.terminate()
            assert code == 0, agent.output[-1000:]
        accepted = set(agent.printed)
        witness.wait_for(lambda: len(read_results(witness.arrivals)) >= len(accepted), 10)
        results = read_results(witness.arrivals)
    counts = re.search(r"(\d+) inspected, (\d+) dropped", agent.output)
    assert counts is not None
    settled = [result for result in results[3:] if result.verdict != "unknown"]
    latencies_ms = np.array([result.message["latency_ms"]["capture_to_result"] for result in settled])
    period_ms = 1000 * float(np.mean(np.diff([result.captured_s for result in settled])))
    return judge(accepted, results, gapless=False), latencies_ms, period_ms, int(counts[1]), int(counts[2])


def check(found: Judgement, latencies_ms: np.ndarray, period_ms: float, inspected: int, dropped: int) -> None:
    assert found.clean and found.received == inspected and found.doubled == 0
    assert dropped > inspected, "it was no overload"
    # if the disk is slower than the model, a frame waits for the model and then for the storage of the frames
    # inspected before it: a higher latency would mean a queue of old frames
    longest_ms = (CONCLUSION_PLACES + 3) * period_ms
    assert np.percentile(latencies_ms, 50) < longest_ms + 20
    assert np.percentile(latencies_ms, 95) < 2 * longest_ms + 100


def test_the_newest_frame_is_inspected_when_frames_arrive_too_fast(tmp_path: Path) -> None:
    check(*overload(tmp_path, 2.0))


@pytest.mark.chaos
def test_the_newest_frame_is_inspected_for_a_minute(tmp_path: Path) -> None:
    found, latencies_ms, period_ms, inspected, dropped = overload(tmp_path, 60.0)
    p50, p99 = np.percentile(latencies_ms, (50, 99))
    note = (
        f"{inspected} inspected, one in {period_ms:.0f} ms, {dropped} dropped; from the capture to the result "
        f"p50 {p50:.0f}, p99 {p99:.0f} ms"
    )
    record(
        f"frames faster than inference ({FPS:.0f} a second)",
        tried=1,
        lost=len(found.lost),
        doubled=found.doubled,
        recover_s=None,
        note=note,
    )
    check(found, latencies_ms, period_ms, inspected, dropped)
