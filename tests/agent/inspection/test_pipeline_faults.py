"""Threads of the pipeline that fail or hang."""

import threading
import time
from typing import Any

import numpy as np
import pytest
from mqtt_listener import wait_until
from pipeline_tools import BRIGHT, DARK, FakeLine, FakePredictor, FakeSource, ListSink, SlowDisk

from zsad_agent.inspection import Inspected, Inspector
from zsad_agent.messages import Result
from zsad_core.errors import DeviceError, SourceError, SpoolError


class FailingAt:
    """An inspector that raises an error at the result `seq`."""

    def __init__(self, inspector: Inspector, seq: int) -> None:
        self.predict = inspector.predict
        self._inspector, self._seq = inspector, seq

    def decide(self, inspected: Inspected) -> tuple[Result, bytes | None] | None:
        if inspected.captured.seq == self._seq:
            raise KeyError("broken")
        return self._inspector.decide(inspected)


@pytest.mark.parametrize("seq", [1, 4])
def test_results_before_a_failing_one_are_stored(seq: int) -> None:
    sink = SlowDisk()
    line = FakeLine(FakeSource(*[BRIGHT] * 20), sink=sink)
    broken: Any = FailingAt(line.lines[0].inspector, seq)
    sink.five_wait.set()
    pipeline = line.make_pipeline(broken)
    pipeline.start()
    assert pipeline.wait(60)
    assert [result["seq"] for result in sink.results] == list(range(1, seq))
    assert pipeline.failure is not None and "broken" in pipeline.failure


def test_failed_inference_is_unknown_and_degrades_until_the_next_good_answer() -> None:
    def fail_on_dark(image: np.ndarray) -> None:
        if not image.any():
            raise DeviceError("the model answered no valid anomaly_score: nan")

    line = FakeLine(FakeSource(BRIGHT, DARK, DARK, BRIGHT), predictor=FakePredictor(fail_on_dark))
    results = line.run()
    assert [result["verdict"] for result in results] == ["ok", "unknown", "unknown", "ok"]
    assert "nan" in results[1]["reason"]
    assert [state["state"] for state in line.states] == ["ok", "degraded", "ok"]


@pytest.mark.parametrize("error", [RuntimeError("surprise"), SpoolError("spool.sqlite3: disk full")])
def test_sink_that_dies_ends_the_run_with_its_reason(error: Exception) -> None:
    def fail() -> None:
        raise error

    line = FakeLine(FakeSource(*[BRIGHT] * 1000), sink=ListSink(fail))
    line.run()
    assert line.pipeline.wait_capture(60)
    assert line.pipeline.failure is not None
    assert str(error) in line.pipeline.failure
    assert "publishing" in line.pipeline.failure


def test_model_thread_that_dies_ends_the_run_with_its_reason() -> None:
    def fail(image: np.ndarray) -> None:
        raise MemoryError("no memory")

    line = FakeLine(FakeSource(*[BRIGHT] * 1000), predictor=FakePredictor(fail))
    line.run()
    assert line.pipeline.wait_capture(60)
    assert line.pipeline.failure == "inference stopped: MemoryError: no memory"


def test_capture_thread_that_dies_ends_the_run_with_its_reason() -> None:
    line = FakeLine(FakeSource(BRIGHT, ZeroDivisionError("bug"), BRIGHT))
    assert len(line.run()) == 1
    assert line.pipeline.failure == "capture-cam0 stopped: ZeroDivisionError: bug"


def test_stuck_model_is_detected() -> None:
    hang = threading.Event()
    line = FakeLine(FakeSource(BRIGHT), predictor=FakePredictor(lambda image: hang.wait(60) and None))
    line.pipeline.start()
    wait_until(lambda: line.pipeline.stuck(0.05) is not None)
    assert "inference has hung" in (line.pipeline.stuck(0.05) or "")
    assert line.pipeline.stuck(1000.0) is None
    hang.set()
    assert line.pipeline.wait(60)


def test_missing_camera_is_not_reported_as_a_stuck_model(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("zsad_agent.inspection.pipeline.WAIT_S", 0.05)
    line = FakeLine(FakeSource(*[SourceError("gone")] * 100_000, lossless=False))
    line.pipeline.start()
    deadline_s = time.monotonic() + 1.5
    while time.monotonic() < deadline_s:
        assert line.pipeline.stuck(1.0) is None
        time.sleep(0.05)
    line.pipeline.stop()
    assert line.pipeline.wait(60)
    assert isinstance(line.sink, ListSink)
    assert [result["reason"] for result in line.sink.results] == ["camera lost: gone"]


def test_slow_disk_is_not_reported_as_a_stuck_model() -> None:
    release = threading.Event()
    line = FakeLine(FakeSource(*[BRIGHT] * 30), sink=ListSink(lambda: release.wait(60) and None))
    line.pipeline.start()
    wait_until(lambda: line.pipeline.stuck(0.5) is not None)  # the model waits for a free place meanwhile
    assert "publishing" in (line.pipeline.stuck(0.5) or "")
    release.set()
    assert line.pipeline.wait(60)


def test_lost_camera_delays_no_other_camera() -> None:
    lost = FakeSource(*[SourceError("gone")] * 100_000, lossless=False)
    line = FakeLine(lost, FakeSource(*[BRIGHT] * 20))
    line.pipeline.start()
    assert isinstance(line.sink, ListSink)
    sink = line.sink
    wait_until(lambda: sum(result["camera"] == "cam1" for result in sink.results) == 20)
    line.pipeline.stop()
    assert line.pipeline.wait(60)
    assert {result["verdict"] for result in sink.results if result["camera"] == "cam0"} == {"unknown"}
    assert {result["verdict"] for result in sink.results if result["camera"] == "cam1"} == {"ok"}
