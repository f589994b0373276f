"""`make demo` in a new checkout, as a new user runs it, and its script with the packages of this environment."""

import os
import re
import signal
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

import pytest
from checkout import ROOT, copy_checkout, run

MAX_SECONDS_TO_VERDICTS = 600  # a minute on a machine without other work
DEMO = [sys.executable, ROOT / "demo/demo.py"]


def check_end(told: str, out: Path, frames: int) -> None:
    assert len([line for line in told.splitlines() if " (threshold " in line]) == frames
    assert "The page: http://127.0.0.1:" in told
    assert f"3. Found: {frames} inspected; " in told and "zsad-agent init" in told
    assert len(list((out / "heatmaps").iterdir())) == frames


@pytest.mark.skipif(os.environ.get("CI") != "true", reason="fetches packages; runs with CI=true")
def test_demo_shows_verdicts_without_torch(tmp_path: Path) -> None:
    copy_checkout(tmp_path)
    started = time.monotonic()
    told = run(["make", "demo", "DEMO_FRAMES=3"], cwd=tmp_path)
    assert time.monotonic() - started < MAX_SECONDS_TO_VERDICTS
    check_end(told, tmp_path / "demo-output", 3)
    assert "torch" not in run([tmp_path / ".venv-demo/bin/python", "-m", "pip", "list"]).lower()


def test_demo_finds_every_damaged_part_has_a_page_and_ends_at_ctrl_c_with_its_summary(tmp_path: Path) -> None:
    demo = subprocess.Popen([*DEMO, tmp_path], stdout=subprocess.PIPE, text=True, start_new_session=True)
    assert demo.stdout is not None
    lines: list[str] = []
    for line in demo.stdout:
        lines.append(line)
        if sum(" (threshold " in each for each in lines) == len(list((ROOT / "demo/teach/test").iterdir())):
            break
    address = next(line for line in lines if "The page: " in line).split()[-1]
    with urllib.request.urlopen(address, timeout=60) as page:
        assert "<html" in page.read().decode()
    os.killpg(demo.pid, signal.SIGINT)  # as a terminal does
    told = "".join(lines) + demo.communicate(timeout=180)[0]
    assert demo.returncode == 0
    check_end(told, tmp_path, told.count(" (threshold "))
    found = re.search(r"(\d+) of (\d+) damaged ones found, 0 of \d+ whole ones rejected", told)
    assert found is not None and int(found[1]) == int(found[2]) >= 3, told
