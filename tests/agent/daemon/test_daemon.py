import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from urllib.error import HTTPError
from urllib.request import urlopen

import cv2
import numpy as np
import pytest
from agent_process import STOP_S, AgentProcess, write_line_video
from mosquitto_broker import MosquittoBroker
from mqtt_listener import wait_until
from plant_operator import write_part
from tiny_bundle_maker import make_tiny_bundle

from zsad_agent.config import AgentConfig, InferenceConfig, SourceConfig
from zsad_agent.daemon import RunOptions, run_agent, stop_on_signal

NO_BROKER = "mqtt://127.0.0.1:1"


def test_service_manager_gets_ready_watchdog_and_stopping(tiny_bundle: Path, tmp_path: Path) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        manager.bind(str(tmp_path / "notify"))
        manager.settimeout(60)
        environment = {"NOTIFY_SOCKET": str(tmp_path / "notify"), "WATCHDOG_USEC": "30000000"}
        absent = "STATUS=degraded: camera /dev/video250: does not exist"
        arguments = ("--camera", "250", "--broker", NO_BROKER)  # a missing camera must not end the watchdog messages
        with AgentProcess(tmp_path, tiny_bundle, *arguments, environment=environment) as agent:
            said = [manager.recv(4096).decode()]
            while said.count("WATCHDOG=1") < 3 or not any(text.startswith(absent) for text in said):
                said.append(manager.recv(4096).decode())
            agent.terminate()
            while said[-1] != "STOPPING=1":
                said.append(manager.recv(4096).decode())
    assert said[0] == "READY=1"


def test_signal_ends_the_agent_at_once_while_the_model_is_loaded(tiny_bundle: Path, tmp_path: Path) -> None:
    video = write_line_video(tmp_path / "line.avi", frames=5)
    with AgentProcess(tmp_path, tiny_bundle, "--source", str(video), "--loop", "--broker", NO_BROKER) as agent:
        time.sleep(0.7)
        _, spent_s = agent.terminate()
        assert spent_s < STOP_S
    assert "Traceback" not in agent.output


def test_signal_ends_a_capture_that_hangs(tiny_bundle: Path, tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as mute:  # accepts connections and sends nothing
        url = f"http://user:secret@127.0.0.1:{mute.getsockname()[1]}/stream"
        settings = f"source:\n  source: {url}\n  stale_after_s: 60\n"
        with AgentProcess(tmp_path, tiny_bundle, "--broker", NO_BROKER, settings=settings) as agent:
            agent.wait_for_output("inspecting stream")
            connection, _ = mute.accept()
            time.sleep(0.3)
            code, spent_s = agent.terminate()
            connection.close()
    assert (code, spent_s < STOP_S) == (0, True), agent.output
    assert "secret" not in agent.output and "Traceback" not in agent.output


@pytest.mark.parametrize(
    ("arguments", "code", "text"),
    [
        ((), 2, "no camera and no source. Name one with --camera 0"),
        (("--camera", "front"), 2, "camera 'front': expected an index"),
        (("--source", "/nowhere/x.avi"), 1, "/nowhere/x.avi: no such video, picture or folder"),
        (("--source", "ftp://u:secret@host/x"), 2, "scheme 'ftp'"),
        (("--camera", "0", "--product", "botle"), 2, "product 'botle' is not in the bundle"),
        (("--camera", "0", "--bundle", "/nowhere/bundle"), 1, "/nowhere/bundle: no such bundle"),
        (("--camera", "0", "--broker", "http://x"), 2, "mqtt.broker: got 'http://x'"),
        (("--camera", "0", "--threshold", "2"), 2, "decision.threshold: got 2.0"),
        (("--camera", "0", "--max-frames", "0"), 2, "--max-frames: '0': expected a whole number from 1"),
        (("--camera", "0", "--source", "x"), 2, "not allowed with argument"),
    ],
)
def test_bad_usage_is_one_clear_line(
    tiny_bundle: Path, tmp_path: Path, arguments: tuple[str, ...], code: int, text: str
) -> None:
    with AgentProcess(tmp_path, tiny_bundle, *arguments) as agent:
        assert agent.wait() == code, agent.output
    assert text in agent.output
    assert "Traceback" not in agent.output and "secret" not in agent.output


def test_agent_does_not_start_with_a_damaged_bundle_or_an_invalid_model(tmp_path: Path) -> None:
    video = str(write_line_video(tmp_path / "line.avi", frames=3))
    cut = make_tiny_bundle(tmp_path / "cut")
    (cut / "model.bin").write_bytes((cut / "model.bin").read_bytes()[:-1])
    mad = make_tiny_bundle(tmp_path / "mad", output_scale=float("nan"))
    for bundle, text in ((cut, "model.bin: sha256 is"), (mad, "no valid anomaly_map: values from nan to nan")):
        with AgentProcess(tmp_path, bundle, "--source", video, "--broker", NO_BROKER) as agent:
            assert agent.wait() == 1
        assert text in agent.output and "Traceback" not in agent.output


def test_pictures_of_every_kind_have_a_result_and_bad_ones_are_unknown(tiny_bundle: Path, tmp_path: Path) -> None:
    folder = tmp_path / "pictures"
    folder.mkdir()
    white = np.full((50, 60), 255, np.uint8)
    white[20:30] = 220
    cv2.imwrite(str(folder / "1-grey.png"), white)
    cv2.imwrite(str(folder / "2-sixteen.png"), white.astype(np.uint16) * 257)
    cv2.imwrite(str(folder / "3-alpha.png"), np.dstack([white, white, white, np.full_like(white, 255)]))
    cv2.imwrite(str(folder / "4-pixel.png"), white[:1, :1])
    (folder / "5-empty.png").touch()
    (folder / "6-cut.png").write_bytes((folder / "1-grey.png").read_bytes()[:60])
    arguments = ("--source", str(folder), "--print-results", "--save-heatmaps", str(tmp_path / "heat"))
    with AgentProcess(tmp_path, tiny_bundle, *arguments, "--broker", NO_BROKER) as agent:
        agent.wait_for_output(" cam0 #6 ")
        assert agent.terminate()[0] == 0, agent.output  # without waiting for a broker
    printed = [line.split()[3] for line in agent.output.splitlines() if " cam0 #" in line]
    assert printed == ["OK", "OK", "OK", "UNKNOWN", "UNKNOWN", "UNKNOWN"]
    assert sorted(path.name for path in (tmp_path / "heat").iterdir()) == ["cam0-1.jpg", "cam0-2.jpg", "cam0-3.jpg"]


def test_folder_with_a_picture_that_cannot_be_decoded_ends_with_exit_code_1(tiny_bundle: Path, tmp_path: Path) -> None:
    folder = tmp_path / "pictures"
    folder.mkdir()
    white = np.full((50, 60), 255, np.uint8)
    white[20:30] = 220
    cv2.imwrite(str(folder / "1-grey.png"), white)
    (folder / "2-cut.png").write_bytes((folder / "1-grey.png").read_bytes()[:60])
    with AgentProcess(tmp_path, tiny_bundle, "--source", str(folder), "--broker", NO_BROKER) as agent:
        agent.wait_for_output("pictures that could not be decoded, so their verdict is unknown: 1")
        assert agent.wait() == 1
    assert "2 inspected, 0 dropped" in agent.output


UNWANTED = {
    *("torch", "timm", "torchvision", "openvino_telemetry"),
    *("numpy.random", "openvino.tools.ovc", "zsad_agent.cli.score", "zsad_agent.cli.bench"),
}


def test_process_imports_no_telemetry_and_no_slow_module_without_need(tiny_bundle: Path, tmp_path: Path) -> None:
    video = write_line_video(tmp_path / "line.avi", frames=3)
    script = (
        "import sys; from zsad_agent.cli.main import main\n"
        f"code = main(['--config', '/dev/null', '--source', {str(video)!r}, '--bundle', {str(tiny_bundle)!r},"
        f" '--broker', {NO_BROKER!r}])\n"
        "loaded = {name for name, module in sys.modules.items() if module is not None}\n"
        f"print(code, sorted(loaded & {UNWANTED}))\n"
        "print(min(['numpy', 'typing_extensions'], key=list(sys.modules).index))"
    )
    environment = {**os.environ, "STATE_DIRECTORY": str(tmp_path), "CACHE_DIRECTORY": str(tmp_path)}
    done = subprocess.run([sys.executable, "-c", script], env=environment, capture_output=True, text=True, timeout=180)
    assert done.stdout.split("\n")[-3] == "0 []", done.stderr
    assert done.stdout.split("\n")[-2] == "numpy"  # it is imported faster before typing_extensions


def test_what_learns_is_imported_while_the_model_loads() -> None:
    program = (
        "import sys, zsad_agent.daemon.daemon; print([m for m in sys.modules if m.startswith('zsad_agent.learning.')])"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=180)
    assert done.stdout == "[]\n", done.stderr


def test_stop_is_set_by_a_signal_and_restores_the_handlers() -> None:
    before = signal.getsignal(signal.SIGTERM)
    with stop_on_signal() as stop:
        os.kill(os.getpid(), signal.SIGTERM)
        assert stop.wait(60)
    assert signal.getsignal(signal.SIGTERM) is before


def test_stuck_model_ends_the_watchdog_messages(tmp_path: Path) -> None:
    from zsad_agent.capture import CameraStatus
    from zsad_agent.daemon.supervision import supervise
    from zsad_agent.system import Notifier, ServiceGroup

    class StuckPipeline:
        inspected_frames = dropped = 0

        def __init__(self) -> None:
            self.stuck_now = False

        def wait(self, timeout_s: float) -> bool:
            time.sleep(0.01)
            return False

        def stuck(self, limit_s: float) -> str | None:
            return f"inference has hung for {limit_s} s" if self.stuck_now else None

    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        manager.bind(str(tmp_path / "notify"))
        manager.settimeout(60)
        notifier = Notifier({"NOTIFY_SOCKET": str(tmp_path / "notify"), "WATCHDOG_USEC": "4000000"})
        states: list[dict[str, object]] = []
        pipeline, stop = StuckPipeline(), threading.Event()
        status = CameraStatus("cam0", lambda camera, state: states.append(state))
        thread = threading.Thread(
            target=supervise, args=(pipeline, ServiceGroup(), notifier, [status]), kwargs={"ends": [stop]}
        )
        thread.start()
        while manager.recv(1000) != b"WATCHDOG=1":
            pass
        pipeline.stuck_now = True
        while not manager.recv(1000).startswith(b"STATUS=degraded: inference has hung"):
            pass
        manager.settimeout(0.5)  # more than two checks of the pipeline
        with pytest.raises(TimeoutError):
            manager.recv(1000)
        stop.set()
        thread.join(60)
    assert states[-1]["state"] == "degraded"
    assert states[-1]["reason"] == "inference has hung for 2.0 s"


def test_stop_while_the_model_is_compiled_exits_without_waiting_for_its_threads(
    tiny_bundle: Path, tmp_path: Path
) -> None:
    config = AgentConfig(
        source=SourceConfig(source=str(write_line_video(tmp_path / "line.avi", frames=2))),
        inference=InferenceConfig(bundle=tiny_bundle, cache_dir=tmp_path / "cache"),
    )
    stop = threading.Event()
    stop.set()
    left: list[int] = []
    assert run_agent(config, RunOptions(stop=stop, state_dir=tmp_path / "state", exit_now=left.append)) == 0
    assert left == [0]


def test_signal_ends_the_agent_while_it_waits_for_a_silent_broker(tiny_bundle: Path, tmp_path: Path) -> None:
    video = write_line_video(tmp_path / "line.avi", frames=5)
    with socket.create_server(("127.0.0.1", 0)) as mute:  # accepts connections and sends nothing
        broker = f"mqtt://127.0.0.1:{mute.getsockname()[1]}"
        with AgentProcess(tmp_path, tiny_bundle, "--source", str(video), "--loop", "--broker", broker) as agent:
            mute.settimeout(60)
            connection, _ = mute.accept()
            code, spent_s = agent.terminate()
            connection.close()
    assert code == 0, agent.output
    assert spent_s < STOP_S


def test_source_that_is_not_utf_8_is_named(tiny_bundle: Path, tmp_path: Path) -> None:
    with AgentProcess(tmp_path, tiny_bundle, "--source", "/tmp/\udcff.png") as agent:
        assert agent.wait() == 2
    assert "command line: source.source: got '/tmp/\\udcff.png'. A text must be UTF-8" in agent.output


def test_files_of_the_agent_cannot_be_read_by_every_user(tiny_bundle: Path, tmp_path: Path) -> None:
    video = write_line_video(tmp_path / "line.avi", frames=3)
    settings = "control:\n  enabled: true\nevidence:\n  enabled: true\n  min_free_bytes: 0\n  passes_every: 1\n"
    arguments = ("--source", str(video), "--broker", NO_BROKER, "--max-frames", "2")
    with AgentProcess(tmp_path, tiny_bundle, *arguments, settings=settings) as agent:
        assert agent.wait(60) == 0, agent.output
    written = [path for folder in ("state", "cache") for path in (tmp_path / folder).rglob("*")]
    assert any(path.suffix == ".jpg" for path in written) and agent.spool in written
    assert [path for path in written if path.stat().st_mode & 0o007] == []


def test_results_that_cannot_be_stored_or_sent_are_reported_as_lost_at_the_end(
    tiny_bundle: Path, tmp_path: Path
) -> None:
    for number in range(3):
        write_part(tmp_path / f"{number}.png")
    (tmp_path / "full").touch()
    flags = ("--source", str(tmp_path), "--broker", NO_BROKER)
    state = {"STATE_DIRECTORY": str(tmp_path / "full" / "state")}
    with AgentProcess(tmp_path, tiny_bundle, *flags, environment=state) as agent:
        assert agent.wait() == 1
    assert "3 results are LOST" in agent.output
    assert "stay in the spool" not in agent.output


HANGING_DISK = """
import os, pathlib, sqlite3, time
hangs, reached = (pathlib.Path(os.environ[name]) for name in ("DISK_HANGS", "DISK_IS_USED"))
connect = sqlite3.connect
def wait():
    reached.touch()
    while hangs.exists():
        time.sleep(0.05)
class Connection(sqlite3.Connection):
    def execute(self, statement, *values):
        if statement == "COMMIT":
            wait()
        return super().execute(statement, *values)
def connect_slowly(*values, **named):
    wait()
    return connect(*values, factory=Connection, **named)
sqlite3.connect = connect_slowly
"""


def environment_of_hanging_disk(folder: Path) -> dict[str, str]:
    """The disk of an agent that is started with it hangs while the file `hangs` exists in the folder."""
    (folder / "sitecustomize.py").write_text(HANGING_DISK)
    return {
        "DISK_HANGS": str(folder / "hangs"),
        "DISK_IS_USED": str(folder / "reached"),
        "PYTHONPATH": os.pathsep.join([str(folder), os.environ.get("PYTHONPATH", "")]),
    }


def test_signal_ends_the_agent_while_the_opening_of_the_spool_hangs(tiny_bundle: Path, tmp_path: Path) -> None:
    environment = environment_of_hanging_disk(tmp_path)
    (tmp_path / "hangs").touch()
    parts = tmp_path / "parts"
    parts.mkdir()  # without a part there is no result that the disk must accept
    settings = f"source:\n  source: {parts}\n  trigger: folder\n"
    flags = ("--broker", NO_BROKER)
    with AgentProcess(tmp_path, tiny_bundle, *flags, environment=environment, settings=settings) as agent:
        wait_until((tmp_path / "reached").exists)
        code, spent_s = agent.terminate()
    assert spent_s < STOP_S, agent.output
    assert code == 0 and "Traceback" not in agent.output, agent.output


def test_agent_reports_a_hanging_opening_of_the_spool_and_sends_results(
    tiny_bundle: Path, tmp_path: Path, mosquitto: Callable[..., MosquittoBroker]
) -> None:
    environment = environment_of_hanging_disk(tmp_path)
    (tmp_path / "hangs").touch()
    parts = tmp_path / "parts"
    parts.mkdir()
    settings = f"http:\n  listen: 127.0.0.1:0\nsource:\n  source: {parts}\n  trigger: folder\n"
    flags = ("--broker", mosquitto().url)
    with AgentProcess(tmp_path, tiny_bundle, *flags, environment=environment, settings=settings) as agent:
        agent.wait_for_output("inspecting folder")
        port = re.findall(r"metrics and health at http://127.0.0.1:(\d+)", agent.output)[0]
        assert "the disk has not answered for more than 5 s" in get(port, "readyz")
        write_part(parts / "a.png")
        wait_until(lambda: (parts / "inspected" / "a.png").exists())  # the broker has received its result
        code, spent_s = agent.terminate()
    assert spent_s < STOP_S, agent.output
    assert code == 0 and "LOST" not in agent.output, agent.output
    assert agent.output.count("spool lost") == 1


@pytest.mark.parametrize("broker", ["none", "there"])
def test_agent_with_a_hanging_spool_answers_health_requests_and_ends_at_a_signal(
    tiny_bundle: Path, tmp_path: Path, mosquitto: Callable[..., MosquittoBroker], broker: str
) -> None:
    environment = environment_of_hanging_disk(tmp_path)
    hangs, parts = tmp_path / "hangs", tmp_path / "parts"
    parts.mkdir()
    url = mosquitto().url if broker == "there" else NO_BROKER
    settings = f"http:\n  listen: 127.0.0.1:0\nsource:\n  source: {parts}\n  trigger: folder\n"
    with AgentProcess(tmp_path, tiny_bundle, "--broker", url, environment=environment, settings=settings) as agent:
        agent.wait_for_output("inspecting folder")
        write_part(parts / "a.png")
        wait_until(lambda: (parts / "inspected" / "a.png").exists())
        hangs.touch()
        write_part(parts / "b.png")
        port = re.findall(r"metrics and health at http://127.0.0.1:(\d+)", agent.output)[0]
        wait_until(lambda: "the disk has not answered" in get(port, "readyz"))
        started_s = time.monotonic()
        assert "zsad_spool_entries" in get(port, "metrics")
        assert '"ok"' in get(port, "healthz")
        assert time.monotonic() - started_s < STOP_S
        code, spent_s = agent.terminate()
    assert spent_s < STOP_S, agent.output
    assert code == 1  # it is unknown whether the disk has the result
    assert "1 results are LOST" in agent.output and "Traceback" not in agent.output
    assert (parts / "b.png").exists()  # so it is inspected again at the next start


def get(port: str, path: str) -> str:
    """The body of the answer, whatever its status."""
    try:
        with urlopen(f"http://127.0.0.1:{port}/{path}", timeout=60) as answer:
            return str(answer.read().decode())
    except HTTPError as error:
        return error.read().decode()


def test_watched_folder_that_is_missing_at_the_start_stops_no_other_camera(tiny_bundle: Path, tmp_path: Path) -> None:
    parts, later = tmp_path / "parts", tmp_path / "later"
    for folder in (parts, later):
        folder.mkdir()
        write_part(folder / "part.png")
    later.rename(tmp_path / "away")
    cameras = (
        f"cameras:\n- {{name: a, source: {parts}, loop: true, fps: 5}}\n"
        f"- {{name: b, source: {later}, trigger: folder, reopen_max_s: 0.5}}\n"
    )
    flags = ("--broker", NO_BROKER, "--print-results")
    with AgentProcess(tmp_path, tiny_bundle, *flags, settings=cameras) as agent:
        agent.wait_for_output(f"folder {later}: cannot be listed")
        agent.wait_for_output("Z a #")
        (tmp_path / "away").rename(later)
        agent.wait_for_output("back: folder")
        wait_until((later / "inspected" / "part.png").exists)
