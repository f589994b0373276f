"""A new modification time alone does not make a picture of a watched folder a new one; new content does."""

import os
import subprocess
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import pytest

from zsad_agent.sources import LOOK_EVERY_S, DamagedPicture, FolderDropSource, Receipt
from zsad_core.types import Verdict


class Watch:
    """A watched folder with a clock of its own; every look lets 1 s pass."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._now_s = 0.0
        self._source = FolderDropSource(folder, stale_after_s=30.0, clock=lambda: self._now_s).__enter__()

    def look(self, seconds: int = 12) -> list[tuple[int | None, Receipt]]:
        """Grey value (None: unreadable) and receipt of each picture that comes."""
        found: list[tuple[int | None, Receipt]] = []
        for _ in range(seconds):
            self._now_s += max(1.0, LOOK_EVERY_S)
            try:
                picture = self._source.read()
            except DamagedPicture as error:
                assert error.receipt is not None
                found.append((None, error.receipt))
            else:
                if picture is not None:
                    assert picture.receipt is not None
                    found.append((int(picture.image[0, 0, 0]), picture.receipt))
        return found


@pytest.fixture
def watch(tmp_path: Path) -> Watch:
    return Watch(tmp_path)


def put(path: Path, level: int) -> None:
    assert cv2.imwrite(str(path), np.full((9, 12, 3), level, np.uint8))


def set_time(path: Path) -> None:
    """As an FTP server does for MFMT."""
    os.utime(path, (1_000_000_000, 1_000_000_000))


def touch(path: Path) -> None:
    """Opens the file for writing and closes it."""
    subprocess.run(["touch", str(path)], check=True)


def write_the_same(path: Path) -> None:
    """As `rsync --inplace --ignore-times`."""
    path.write_bytes(path.read_bytes())


TOUCHES = [set_time, touch, write_the_same]
NAMES = ["a.png", "a.jpg", "a.bmp"]


@pytest.mark.parametrize("touch", TOUCHES)
@pytest.mark.parametrize("name", NAMES)
def test_picture_that_is_touched_after_its_move_is_not_inspected_again(
    watch: Watch, name: str, touch: Callable[[Path], None]
) -> None:
    put(watch.folder / name, 90)
    ((level, receipt),) = watch.look()
    receipt(Verdict.OK)
    moved = watch.folder / "inspected" / name
    touch(moved)
    assert level == 90 and watch.look() == []
    assert moved.exists()
    put(moved, 30)  # the program that wrote it still has it open, and goes on
    ((level, _),) = watch.look()
    assert level == 30


@pytest.mark.parametrize("touch", TOUCHES)
@pytest.mark.parametrize("name", NAMES)
def test_picture_that_is_touched_before_its_move_is_moved_and_not_inspected_again(
    watch: Watch, name: str, touch: Callable[[Path], None]
) -> None:
    put(watch.folder / name, 90)
    ((_, receipt),) = watch.look()
    for _ in range(2):
        touch(watch.folder / name)
        assert watch.look() == []
    touch(watch.folder / name)
    receipt(Verdict.OK)
    assert (watch.folder / "inspected" / name).exists()
    assert watch.look() == []


@pytest.mark.parametrize("name", NAMES)
def test_picture_that_is_touched_and_then_changed_before_its_move_is_inspected_again(watch: Watch, name: str) -> None:
    put(watch.folder / name, 90)
    ((_, receipt),) = watch.look()
    touch(watch.folder / name)
    assert watch.look() == []
    put(watch.folder / name, 30)
    receipt(Verdict.OK)
    assert (watch.folder / name).exists()
    ((level, receipt),) = watch.look()
    receipt(Verdict.OK)
    assert level == 30 and (watch.folder / "inspected" / name).exists()


def test_change_of_one_byte_with_the_same_size_is_a_new_picture(watch: Watch) -> None:
    put(watch.folder / "a.bmp", 90)
    ((_, receipt),) = watch.look()
    receipt(Verdict.OK)
    moved = watch.folder / "inspected" / "a.bmp"
    content = bytearray(moved.read_bytes())
    content[-12 * 3] = 91  # in the top row, which is the last one of the file
    moved.write_bytes(content)
    assert len(watch.look()) == 1


def test_new_file_with_the_same_content_is_a_new_picture(watch: Watch) -> None:
    for _ in range(2):
        put(watch.folder / "a.png", 90)
        ((level, receipt),) = watch.look()
        receipt(Verdict.OK)
        assert level == 90


def test_unreadable_picture_that_is_touched_is_reported_once(watch: Watch) -> None:
    put(watch.folder / "a.png", 90)
    (watch.folder / "a.png").write_bytes((watch.folder / "a.png").read_bytes()[:40])
    ((level, receipt),) = watch.look()
    assert level is None
    receipt(Verdict.UNKNOWN)
    touch(watch.folder / "unreadable" / "a.png")
    assert watch.look() == []
    put(watch.folder / "unreadable" / "a.png", 30)
    assert [level for level, _ in watch.look()] == [30]
