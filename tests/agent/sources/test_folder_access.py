"""What a watched folder holds and the agent cannot inspect, and a folder that it may not enter."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from watched_folder_tools import level, write_picture

from zsad_agent.sources import LOOK_EVERY_S, FolderDropSource


def test_links_to_nothing_pipes_and_devices_are_reported_once_and_stop_nothing(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "circle.png").symlink_to("circle.png")
    (tmp_path / "gone.png").symlink_to("nowhere.png")
    os.mkfifo(tmp_path / "pipe.png")
    (tmp_path / "folder.png").mkdir()
    (tmp_path / "linked").symlink_to("folder.png")
    write_picture(tmp_path / "b.png", 20)
    now_s = 0.0
    found = []
    with FolderDropSource(tmp_path, stale_after_s=30.0, clock=lambda: now_s) as source:
        for _ in range(5):
            now_s += 1.01 * LOOK_EVERY_S
            found.append(source.read())
    assert [level(picture.image) for picture in found if picture is not None] == [20]
    said = [message.removeprefix(f"{tmp_path}/") for message in caplog.messages]
    missing = "is a link whose file is missing or cannot be accessed: it stays there and is not inspected"
    assert sorted(said) == [
        f"circle.png {missing}",
        f"gone.png {missing}",
        "pipe.png is no regular file: it stays there and is not inspected",
    ]


CHILD = """
import os, sys, time
from pathlib import Path
from zsad_agent.sources import FolderDropSource
os.setuid(65534)
with FolderDropSource(Path(sys.argv[1]), stale_after_s=5.0) as source:
    for _ in range(3):
        source.read()
        time.sleep(0.3)
"""


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root, to become another user")
def test_folder_that_can_be_listed_and_not_entered_is_lost(tmp_path: Path) -> None:
    """Otherwise each picture in it would be passed over in silence."""
    folder = tmp_path / "in"
    folder.mkdir()
    write_picture(folder / "a.png", 20)
    for parent in (tmp_path, *tmp_path.parents[:-2]):
        parent.chmod(0o755)
    folder.chmod(0o744)
    done = subprocess.run([sys.executable, "-c", CHILD, str(folder)], capture_output=True, text=True, check=False)
    assert "a.png: cannot be accessed: Permission denied" in done.stderr
