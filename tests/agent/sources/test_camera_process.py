"""Cameras in a process of their own, which follow a script."""

import contextlib
import itertools
import os
import resource
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import psutil
import pytest
from agent_process import STOP_S, AgentProcess
from camera_process_tools import PATIENT_S, children
from mjpeg_server import MjpegServer
from mqtt_listener import wait_until
from plain_pictures import UNCHECKED
from scripted_camera import SECRET, ScriptedCamera

from zsad_agent.capture import CameraStatus, Capture, Captured, Fault
from zsad_agent.config import SourceConfig
from zsad_agent.sources import GrabberSource, camera_process
from zsad_agent.system import LatestQueue
from zsad_core.errors import ImageError, SourceError
from zsad_core.types import Frame

TESTS = Path(__file__).parents[2]
Scripted = Callable[..., GrabberSource]


@pytest.fixture(autouse=True)
def scripts_are_found_by_the_process(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(TESTS), os.environ.get("PYTHONPATH", "")]))


@pytest.fixture
def scripted(tmp_path: Path) -> Scripted:
    def make(*scripts: str, stale_after_s: float = PATIENT_S) -> GrabberSource:
        return GrabberSource(ScriptedCamera(*scripts, log=tmp_path / "openings"), stale_after_s=stale_after_s)

    return make


def camera_process_of_the_agent() -> psutil.Process:
    """The one camera process of an agent that this process started."""
    deadline_s = time.monotonic() + PATIENT_S
    while not (found := children(recursive=True)) and time.monotonic() < deadline_s:
        time.sleep(0.02)
    (one,) = found
    return one


def ended_within(pid: int, seconds: float) -> bool:
    deadline_s = time.monotonic() + seconds
    while time.monotonic() < deadline_s:
        with contextlib.suppress(psutil.NoSuchProcess):
            if psutil.Process(pid).status() != psutil.STATUS_ZOMBIE:
                time.sleep(0.01)
                continue
        return True
    return False


def test_frames_are_complete_and_in_order_and_replaced_ones_are_counted(scripted: Scripted) -> None:
    source = scripted("size:640x480 every:0.001 200")
    values, skipped = [], 0
    with source, pytest.raises(SourceError, match="scripted camera: ended"):
        while True:
            picture = source.read()
            frame = picture.image
            skipped += picture.skipped
            assert frame.shape == (480, 640, 3) and frame.dtype == np.uint8 and frame.flags.writeable
            assert (frame == frame[0, 0, 0]).all()
            values.append(int(frame[0, 0, 0]))
    assert values == sorted(set(values))
    assert values[-1] == 199
    assert len(values) + skipped == 200


def test_slow_reader_gets_the_newest_frame_and_the_time_it_came(scripted: Scripted) -> None:
    deadline_s = time.monotonic() + PATIENT_S
    with scripted("every:0.01 100000") as source:
        number = source.read().skipped
        while time.monotonic() < deadline_s:
            time.sleep(0.5)
            asked_s = time.monotonic()
            picture = source.read()
            assert picture.captured_monotonic_s <= time.monotonic()
            number += picture.skipped + 1
            assert int(picture.image[0, 0, 0]) == number % 251
            if picture.skipped >= 10 and picture.captured_monotonic_s > asked_s - 0.25:
                return
    raise AssertionError(f"no new frame after at least 10 skipped ones in {PATIENT_S} s")


def test_frame_that_is_too_old_is_not_returned(scripted: Scripted) -> None:
    with scripted("every:0.2 2 wait:60", stale_after_s=1.5) as source:
        source.read()
        time.sleep(2.5)
        with pytest.raises(SourceError, match="no frame for"):
            source.read()


def test_frame_size_may_change_from_frame_to_frame(scripted: Scripted) -> None:
    source = scripted("every:0.2 1 size:1280x720 1 size:16x9 1")
    with source:
        assert [source.read().image.shape[:2] for _ in range(3)] == [(48, 64), (720, 1280), (9, 16)]


def test_bad_picture_does_not_stop_the_source(scripted: Scripted) -> None:
    with scripted("every:0.2 1 bad:1 1") as source:
        assert source.read().image.max() == 0
        with pytest.raises(ImageError, match="no picture"):
            source.read()
        assert source.read().image.max() == 1


def test_damaged_frames_that_newer_ones_replaced_are_counted(scripted: Scripted) -> None:
    source = scripted("1 bad:30 100 bad:20 1 wait:60")
    alone = replaced = number = skipped = 0
    with source:
        while number < 101:
            try:
                picture = source.read()
            except ImageError:
                alone += 1
                continue
            number, replaced, skipped = int(picture.image.max()), replaced + picture.damaged, skipped + picture.skipped
            assert (picture.damage is None) == (picture.damaged == 0)
    assert alone + replaced == 50
    assert skipped >= replaced


@pytest.mark.parametrize(
    ("script", "said"),
    [
        ("fail open", "scripted camera: the script says so"),
        ("raise open", "scripted camera: RuntimeError in the camera process"),
        ("crash open", "scripted camera: the camera process was killed by SIGSEGV"),
        ("1 fail", "scripted camera: the script says so"),
        ("1 raise", "scripted camera: RuntimeError in the camera process"),
        ("1 crash", "scripted camera: the camera process was killed by SIGSEGV"),
    ],
)
def test_failure_message_has_no_secrets_and_the_next_opening_works(scripted: Scripted, script: str, said: str) -> None:
    source = scripted(script, "1 wait:60")
    with pytest.raises(SourceError, match=said) as caught, source:
        while True:
            source.read()
    assert SECRET not in str(caught.value)
    assert children() == []
    with source:
        source.read()


@pytest.mark.parametrize("script", ["hang", "wait:60"])
def test_hang_in_read_is_killed_and_the_next_opening_works(scripted: Scripted, script: str) -> None:
    source = scripted(f"1 {script}", "2 wait:60", stale_after_s=1.0)
    with source:
        source.read()
        started_s = time.monotonic()
        with pytest.raises(SourceError, match=r"scripted camera: no frame for 1 s$"):
            source.read()
        assert children() == []  # the device is closed before the error is raised
        assert time.monotonic() - started_s < 30
    with source:
        source.read()


def test_camera_that_hangs_is_reported_as_lost_and_back(scripted: Scripted) -> None:
    slot: LatestQueue[Captured] = LatestQueue()
    states: list[str] = []
    stop = threading.Event()
    capture = Capture(
        source=scripted("1 hang", "every:0.01 100000", stale_after_s=2.0),
        config=SourceConfig(trigger="mqtt", reopen_max_s=0.01, health=UNCHECKED),
        slot=slot,
        status=CameraStatus("cam0", lambda camera, status: states.append(status["state"])),
        stop=stop,
        seq=itertools.count(1),
    )
    thread = threading.Thread(target=capture.run, daemon=True)
    thread.start()
    try:
        wait_until(lambda: states[:1] == ["ok"], PATIENT_S)
        capture.trigger("waited")
        lost, waited = slot.get(PATIENT_S), slot.get(PATIENT_S)
        assert isinstance(lost, Fault) and lost.reason == "camera lost: scripted camera: no frame for 2 s"
        assert isinstance(waited, Fault) and (waited.trigger_id, waited.reason) == ("waited", lost.reason)
        wait_until(lambda: states == ["ok", "degraded", "ok"], PATIENT_S)
        capture.trigger("again")
        frame = slot.get(PATIENT_S)
        assert isinstance(frame, Frame) and frame.trigger_id == "again"
    finally:
        stop.set()
        thread.join(PATIENT_S)
    assert children() == []


def test_hang_while_it_is_opened_is_killed(scripted: Scripted, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(camera_process, "START_S", 1.5)
    source = scripted("hang open", stale_after_s=0.5)
    with pytest.raises(SourceError, match="not open after 2 s"), source:
        pass
    assert children() == []


@pytest.mark.parametrize("script", ["hang open", "1 hang"])
def test_nothing_waits_for_a_silent_camera_after_a_stop(tmp_path: Path, script: str) -> None:
    stop = threading.Event()
    camera = ScriptedCamera(script, log=tmp_path / "openings")
    source = GrabberSource(camera, stale_after_s=100.0, stop=stop)
    threading.Timer(0.5, stop.set).start()
    with pytest.raises(SourceError, match="the agent stops"), source:
        source.read()
        source.read()
    assert children() == []


def test_stopped_process_is_killed(scripted: Scripted) -> None:
    source = scripted("every:0.01 100000", stale_after_s=1.0)
    with source:
        source.read()
        children()[0].send_signal(signal.SIGSTOP)
        with pytest.raises(SourceError, match="no frame for 1 s"):
            while True:
                source.read()
    assert children() == []


def test_process_held_by_a_driver_is_reported_and_no_second_one_is_started(
    scripted: Scripted, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(subprocess.Popen, "kill", lambda process: None)
    source = scripted("1 hang", "1 wait:60", stale_after_s=1.0)
    with source:
        source.read()
        (held,) = children()
        with pytest.raises(SourceError, match=rf"no frame for 1 s; the driver still holds .*: process {held.pid} "):
            source.read()
    for _ in range(2):
        with pytest.raises(SourceError, match="scripted camera: the driver still holds"), source:
            pass
    assert children() == [held]
    held.kill()
    held.wait(60)
    with source:
        source.read()
        assert held not in children()
        children()[0].kill()


@pytest.mark.parametrize("script", ["every:0.01 100000", "1 hang", "1 wait:60"])
def test_closing_does_not_wait_for_the_camera(scripted: Scripted, script: str) -> None:
    with scripted(script) as source:
        source.read()
        started_s = time.monotonic()
    assert time.monotonic() - started_s < STOP_S
    assert children() == []


def test_camera_that_gives_frames_is_closed_normally(scripted: Scripted, monkeypatch: pytest.MonkeyPatch) -> None:
    killed: list[object] = []
    monkeypatch.setattr(subprocess.Popen, "kill", killed.append)
    monkeypatch.setattr(camera_process, "LEAVE_S", PATIENT_S)
    source = scripted("every:0.01 100000")
    with source:
        source.read()
    assert killed == []


def test_signals_of_terminal_and_service_manager_do_not_end_the_camera_process(scripted: Scripted) -> None:
    with scripted("every:0.01 100000") as source:
        source.read()
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            children()[0].send_signal(number)
        time.sleep(0.1)
        for _ in range(10):
            source.read()


@pytest.mark.parametrize("rounds", [2, pytest.param(10, marks=pytest.mark.chaos)])
def test_many_openings_leave_no_process_and_no_file_open(scripted: Scripted, rounds: int) -> None:
    source = scripted(*["1 wait:60", "1 crash", "fail open", "1", "every:0.001 100000"] * rounds)
    this = psutil.Process()
    files, threads = this.num_fds(), this.num_threads()
    for opening in range(5 * rounds):
        with contextlib.suppress(SourceError), source:
            source.read()
            if opening % 5:
                source.read()
        assert children() == []
        assert this.num_fds() == files
    wait_until(lambda: this.num_threads() == threads)


def test_hanging_camera_process_ends_when_the_agent_is_killed(tmp_path: Path) -> None:
    program = f"""
import psutil
from pathlib import Path
from scripted_camera import ScriptedCamera
from zsad_agent.sources import GrabberSource
with GrabberSource(ScriptedCamera("1 hang", log=Path({str(tmp_path / "log")!r})), stale_after_s=100) as source:
    source.read()
    print(psutil.Process().children()[0].pid, flush=True)
    source.read()
"""
    with subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, text=True) as agent:
        assert agent.stdout is not None
        pid = int(agent.stdout.readline())
        assert not ended_within(pid, 0.2)
        agent.kill()
        assert ended_within(pid, PATIENT_S)


def test_camera_cannot_fill_the_memory_of_the_machine(scripted: Scripted) -> None:
    source = scripted("1 wait:60", "1 fill", "1 wait:60")
    with source:
        source.read()
        (child,) = children()
        assert Path(f"/proc/{child.pid}/oom_score_adj").read_text() == "1000\n"
        assert child.rlimit(resource.RLIMIT_AS)[0] < 4 * 2**30
    with pytest.raises(SourceError, match="scripted camera: its pictures need more than 2048 MB"), source:
        source.read()
        source.read()
    assert Path("/proc/self/oom_score_adj").read_text() != "1000\n"
    with source:
        source.read()


def test_process_loads_neither_openvino_nor_pydantic(scripted: Scripted) -> None:
    with scripted("1 wait:60") as source:
        source.read()
        loaded = {Path(region.path).name for region in children()[0].memory_maps()}
        assert any("cv2" in name for name in loaded)
        assert not any("openvino" in name or "pydantic" in name for name in loaded)
        assert children()[0].num_threads() <= 4


@pytest.mark.parametrize("stalled", [False, True])
@pytest.mark.parametrize("how", [signal.SIGTERM, signal.SIGINT, signal.SIGKILL])
def test_no_camera_process_is_left_after_any_end_of_the_agent(
    tiny_bundle: Path, tmp_path: Path, how: signal.Signals, stalled: bool
) -> None:
    with MjpegServer() as server:
        settings = f"mqtt:\n  broker: mqtt://127.0.0.1:1\nsource:\n  source: {server.url}\n  stale_after_s: 60\n"
        with AgentProcess(tmp_path, tiny_bundle, settings=settings) as agent:
            agent.wait_for_output("inspecting stream")
            child = camera_process_of_the_agent()
            server.stalled = stalled
            time.sleep(0.3)
            code, spent_s = agent.terminate(how)
            assert ended_within(child.pid, PATIENT_S)
    assert code == (-signal.SIGKILL if how == signal.SIGKILL else 0), agent.output
    assert spent_s < STOP_S
    assert "Traceback" not in agent.output and "lost" not in agent.output
