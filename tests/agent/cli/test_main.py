"""Which modules the command loads, and when. Each case is a process of its own."""

import os
import pty
import subprocess
import sys
from pathlib import Path

import pytest

from zsad_agent.cli.main import COMMANDS

HEAVY = ["cv2", "numpy", "openvino", "pydantic", "yaml"]
LOADED = f"""
import sys
from zsad_agent.cli.main import main
code = main(sys.argv[1:])
print(code, [name for name in {HEAVY} if name in sys.modules])
"""
ENVIRONMENT_AT_IMPORT = """
import os, sys
class Watcher:
    def find_spec(self, name, path=None, target=None):
        if name == "cv2":
            print("cv2 with log level", os.environ.get("OPENCV_LOG_LEVEL"))
sys.meta_path.insert(0, Watcher())
from zsad_agent.cli.main import main
sys.exit(main(sys.argv[1:]))
"""


def run(script: str, arguments: list[str], **environment: str) -> subprocess.CompletedProcess[str]:
    variables = {name: value for name, value in os.environ.items() if not name.startswith("OPENCV")} | environment
    command = [sys.executable, "-c", script, *arguments]
    return subprocess.run(command, env=variables, capture_output=True, text=True, timeout=180, check=False)


@pytest.mark.parametrize(
    ("arguments", "code", "text"),
    [
        (["--help"], 0, "  doctor     checks this machine"),
        (["--version"], 0, "zsad-agent "),
        (["--max-frames", "0"], 2, "'0': expected a whole number from 1"),
        (["--camera", "0", "--source", "x"], 2, "not allowed with argument --camera"),
        *(([command, "--help"], 0, f"usage: zsad-agent {command}") for command in COMMANDS),
        (["score"], 2, "the following arguments are required: PATH"),
        (["bench", "--seconds", "0"], 2, "--seconds: 0.0 is not between 1 and 86400"),
        (["calibrate", "x", "--false-reject-rate", "1"], 2, "--false-reject-rate: 1.0 is not between 1e-06 and 1"),
        (["reference", "--out", "x", "--every", "-1"], 2, "--every: -1.0 is not between 0 and 3600"),
    ],
    ids=str,
)
def test_help_version_and_usage_errors_import_no_heavy_modules(arguments: list[str], code: int, text: str) -> None:
    done = run(LOADED, arguments)
    assert done.stdout.splitlines()[-1] == f"{code} []", done.stderr
    assert text in done.stdout + done.stderr


@pytest.mark.parametrize("command", ["check", "score", "calibrate", "bench"])
def test_opencv_is_imported_after_its_environment_is_set(command: str, tiny_bundle: Path, tmp_path: Path) -> None:
    config = tmp_path / "agent.yaml"
    config.write_text(f"inference:\n  bundle: {tiny_bundle}\n")
    flags = {"check": ["--config", str(config)], "bench": ["--seconds", "1", "--threads", "1"]}
    arguments = flags.get(command, [str(tmp_path)]) + ([] if command == "check" else ["--bundle", str(tiny_bundle)])
    done = run(ENVIRONMENT_AT_IMPORT, [command, *arguments], CACHE_DIRECTORY=str(tmp_path / "cache"))
    told = [line for line in done.stdout.splitlines() if line.startswith("cv2 with")]
    assert set(told) == {"cv2 with log level OFF"}, done.stderr


def test_verdicts_are_printed_on_a_terminal_and_elsewhere_only_if_asked(tiny_bundle: Path, tmp_path: Path) -> None:
    config = tmp_path / "agent.yaml"
    config.write_text("http: {listen: 'off'}\nmqtt: {broker: 'mqtt://127.0.0.1:1'}\n")
    picture = Path(__file__).parents[3] / "demo/stream/01-whole.jpg"
    command = [sys.executable, "-m", "zsad_agent.cli", "--config", str(config), "--source", str(picture)]
    command += ["--bundle", str(tiny_bundle)]
    environment = os.environ | {"STATE_DIRECTORY": str(tmp_path), "CACHE_DIRECTORY": str(tmp_path)}
    ours, theirs = pty.openpty()
    subprocess.run(command, stdout=theirs, stderr=subprocess.DEVNULL, env=environment, timeout=180, check=True)
    os.close(theirs)
    assert b"01-whole.jpg" in os.read(ours, 4096)
    os.close(ours)
    assert subprocess.run(command, capture_output=True, env=environment, timeout=180, check=True).stdout == b""
