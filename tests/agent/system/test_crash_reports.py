"""Crash reports of real processes."""

import fcntl
import signal
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from zsad_agent.system.crash_reports import MAX_REPORTS

HEAD = """
import ctypes, logging, os, sys, threading, time
from pathlib import Path
from zsad_agent.system import CrashReports
from zsad_agent.system import configure_logging
configure_logging("INFO", "text")
reports = CrashReports(Path(sys.argv[1]), {"source": {"source": "rtsp://admin:secret@cam/1"}, "device_id": "line3"})
reports.install()
print(reports.last_crash)
"""


def run(state: Path, body: str = "", code: int = 0) -> tuple[str, str]:
    """stdout (how the last run ended) and stderr."""
    command = [sys.executable, "-c", HEAD + body, str(state)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=180, check=False)
    assert done.returncode == code, done.stderr
    return done.stdout.strip(), done.stderr


def reports_in(state: Path) -> list[Path]:
    return sorted((state / "crash").glob("*.txt"))


def the_report(state: Path) -> str:
    (path,) = reports_in(state)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    return path.read_text()


def test_run_that_ends_well_leaves_no_report_and_files_for_the_owner_alone(tmp_path: Path) -> None:
    assert run(tmp_path, "sys.exit(3)", code=3)[0] == "None"
    assert run(tmp_path, "raise KeyboardInterrupt", code=-signal.SIGINT)[0] == "None"
    assert run(tmp_path, "os.kill(os.getpid(), 9)", code=-signal.SIGKILL)[0] == "None"
    assert run(tmp_path)[0] == "None"
    assert reports_in(tmp_path) == []
    assert stat.S_IMODE((tmp_path / "crash").stat().st_mode) == 0o700
    assert stat.S_IMODE((tmp_path / "crash" / "fatal.log").stat().st_mode) == 0o600


def test_exception_in_the_main_thread_is_reported_without_secrets(tmp_path: Path) -> None:
    body = """
for number in range(300):
    logging.getLogger("zsad_agent.x").info("record %d of rtsp://admin:secret@cam/1", number)
def inner():
    raise ValueError("no\\nsuch mqtt://u:secret@host")
inner()
"""
    _, stderr = run(tmp_path, body, code=1)
    assert "CRITICAL unhandled exception in the main thread" in stderr and "ValueError: no" in stderr
    assert "secret" not in stderr
    text = the_report(tmp_path)
    assert text.startswith("ended with: ValueError: no; such mqtt://***@host (in the main thread)\n")
    for part in (", in inner", "python 3.", "openvino 2", "paho-mqtt", "numpy", "record 299 of", '"line3"'):
        assert part in text, part
    assert "record 100 of" in text and "record 99 of" not in text
    assert "secret" not in text
    said, _ = run(tmp_path)
    (path,) = reports_in(tmp_path)
    assert said == f"the last run ended with ValueError: no; such mqtt://***@host (in the main thread), see {path}"
    assert run(tmp_path)[0] == "None"  # only of the last run


def test_exception_in_a_thread_is_reported_under_its_name(tmp_path: Path) -> None:
    body = """
thread = threading.Thread(target=lambda: 1 / 0, name="inference")
thread.start()
thread.join()
os._exit(1)
"""
    _, stderr = run(tmp_path, body, code=1)
    assert "ZeroDivisionError" in stderr
    assert the_report(tmp_path).startswith("ended with: ZeroDivisionError: division by zero (in thread inference)\n")
    assert run(tmp_path)[0].startswith("the last run ended with ZeroDivisionError")


@pytest.mark.parametrize(
    ("body", "number", "words"),
    [
        ("ctypes.string_at(0)", signal.SIGSEGV, "Fatal Python error: Segmentation fault"),
        ("os.abort()", signal.SIGABRT, "Fatal Python error: Aborted (sent by a watchdog"),
    ],
)
def test_crash_in_native_code_leaves_the_stacks_of_all_threads(
    tmp_path: Path, body: str, number: int, words: str
) -> None:
    script = f"""
ready = threading.Event()
def waits():
    ready.set()
    time.sleep(600)
def falls():
    {body}
threading.Thread(target=waits, daemon=True).start()
ready.wait()
falls()
"""
    run(tmp_path, script, code=-number)
    said, _ = run(tmp_path)
    text = the_report(tmp_path)
    assert text.startswith(f"ended with: {words}")
    assert " in falls" in text and " in waits" in text and "openvino 2" in text
    assert said.startswith(f"the last run ended with {words}")
    assert said.endswith(f", see {reports_in(tmp_path)[0]}")
    assert run(tmp_path)[0] == "None"
    assert len(reports_in(tmp_path)) == 1


def test_reports_are_pruned_and_one_run_writes_few(tmp_path: Path) -> None:
    folder = tmp_path / "crash"
    folder.mkdir()
    for number in range(MAX_REPORTS + 5):
        (folder / f"20200101T0000{number:02}.000000Z-1.txt").write_text("")
    (folder / "notes.txt").write_text("mine")
    body = """
for _ in range(50):
    thread = threading.Thread(target=lambda: 1 / 0)
    thread.start()
    thread.join()
"""
    run(tmp_path, body)
    names = [path.name for path in reports_in(tmp_path)]
    assert len(names) == MAX_REPORTS + 1 and "notes.txt" in names
    assert sum(not name.startswith("2020") for name in names) == 6  # five, and the notes


def test_report_of_a_device_whose_clock_is_not_set_is_kept(tmp_path: Path) -> None:
    (tmp_path / "crash").mkdir()
    for number in range(MAX_REPORTS):
        (tmp_path / "crash" / f"20990101T0000{number:02}.000000Z-1.txt").write_text("")
    run(tmp_path, "1 / 0", code=1)
    names = [path.name for path in reports_in(tmp_path)]
    assert len(names) == MAX_REPORTS
    assert sum(not name.startswith("2099") for name in names) == 1


@pytest.mark.parametrize("content", [b"", b"\xff\xfe\0garbage", b"run: \n", b"Fatal\n" * 3])
def test_damaged_files_are_no_error(tmp_path: Path, content: bytes) -> None:
    folder = tmp_path / "crash"
    folder.mkdir()
    (folder / "fatal.log").write_bytes(content)
    (folder / "20200101T000000.000000Z-1.txt").write_bytes(content)
    assert run(tmp_path, "raise ValueError", code=1)[0] == "None"
    assert "ValueError" in run(tmp_path)[0]


def test_second_agent_in_the_same_folder_does_not_delete_the_file_of_the_first(tmp_path: Path) -> None:
    run(tmp_path)
    fatal = tmp_path / "crash" / "fatal.log"
    before = fatal.read_bytes()
    with fatal.open("rb") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        _, stderr = run(tmp_path, "ctypes.string_at(0)", code=-signal.SIGSEGV)
    assert "Segmentation fault" in stderr  # the stacks are then in the journal
    assert fatal.read_bytes() == before


def test_folder_that_cannot_be_created_is_ignored(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    said, stderr = run(tmp_path / "file", "raise ValueError('told')", code=1)
    assert said == "None" and "told" in stderr
    _, stderr = run(tmp_path / "file", "ctypes.string_at(0)", code=-signal.SIGSEGV)
    assert "Segmentation fault" in stderr


def test_full_disk_is_ignored(tiny_disk: Path) -> None:
    with (tiny_disk / "other").open("wb", buffering=0) as other:
        while True:
            try:
                if other.write(b"x" * 4096) < 4096:
                    break
            except OSError:
                break
    said, stderr = run(tiny_disk, "raise ValueError('told')", code=1)
    assert said == "None" and "told" in stderr
    (tiny_disk / "other").unlink()
    assert run(tiny_disk, "raise ValueError('told')", code=1)[0] == "None"
    assert "told" in run(tiny_disk)[0]
