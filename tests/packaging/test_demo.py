"""`make demo` in a new checkout, as a new user runs it."""

import os
import time
from pathlib import Path

import pytest
from checkout import copy_checkout, run

MAX_SECONDS_TO_VERDICTS = 180


@pytest.mark.skipif(os.environ.get("CI") != "true", reason="fetches packages; runs with CI=true")
def test_demo_shows_verdicts_without_torch(tmp_path: Path) -> None:
    copy_checkout(tmp_path)
    started = time.monotonic()
    told = run(["make", "demo", "DEMO_FRAMES=3"], cwd=tmp_path)
    assert time.monotonic() - started < MAX_SECONDS_TO_VERDICTS
    assert len([line for line in told.splitlines() if " (threshold " in line]) == 3
    assert len(list((tmp_path / "demo-output/heatmaps").iterdir())) == 3
    assert "torch" not in run([tmp_path / ".venv-demo/bin/python", "-m", "pip", "list"]).lower()
