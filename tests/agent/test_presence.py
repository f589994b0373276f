import threading
from typing import Any

import pytest

from zsad_agent.capture import CameraStatus, FrameOutput, Reconnector, Triggers
from zsad_agent.system import LatestQueue


class Camera:
    """Opens; what happens then is the test's."""

    description = "fake"
    lossless = False

    def __enter__(self) -> "Camera":
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def read(self) -> None:
        pass


class Bench:
    def __init__(self, start_s: float) -> None:
        self.now_s = 100.0
        self.states: list[str] = []
        self.stop = threading.Event()
        slot: LatestQueue[Any] = LatestQueue()
        status = CameraStatus("cam0", lambda camera, told: self.states.append(told["state"]))
        out = FrameOutput(camera="cam0", slot=slot, stop=self.stop, seq=iter(range(9)), clock=lambda: self.now_s)
        desk = Triggers(mode="continuous", lossless=False, out=out, status=status, clock=lambda: self.now_s)
        self.presence = Reconnector(
            source=Camera(),  # type: ignore[arg-type]
            desk=desk,
            out=out,
            status=status,
            stop=self.stop,
            clock=lambda: self.now_s,
            stale_after_s=5.0,
            reopen_max_s=0.01,
            start_s=start_s,
        )

    def wait(self, seconds: float) -> list[str]:
        self.now_s += seconds
        self.presence.check()
        return self.states


@pytest.mark.parametrize("start_s", [0.0, 10.0])
def test_first_opening_may_take_the_time_that_its_process_needs(start_s: float) -> None:
    bench = Bench(start_s)
    assert bench.wait(start_s + 4.9) == []
    assert bench.wait(0.2) == ["degraded"]


def test_a_resume_before_the_first_opening_leaves_it_its_time() -> None:
    bench = Bench(start_s=10.0)
    bench.presence.begin_anew()
    assert bench.wait(14.9) == []


def test_time_without_a_frame_counts_from_the_opening() -> None:
    bench = Bench(start_s=10.0)
    bench.now_s += 14.0

    def read() -> None:
        assert bench.wait(4.9) == []
        assert bench.wait(0.2) == ["degraded"]
        bench.stop.set()

    bench.presence.keep_open(read)
    assert bench.states == ["degraded"]
