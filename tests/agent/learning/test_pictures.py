"""Pictures of the line: bounded, drawn over the whole period, and still there after a restart."""

import shutil
from pathlib import Path

import numpy as np
import pytest

from zsad_agent.learning import GatheredPictures


def part(number: int) -> np.ndarray:
    return np.random.default_rng(number).integers(0, 255, (48, 64, 3), np.uint8)


def ids(gathered: GatheredPictures) -> set[str]:
    return {name for name, _ in gathered.pictures()}


def test_the_limit_holds_and_the_whole_period_is_represented(tmp_path: Path) -> None:
    gathered = GatheredPictures(tmp_path, 20)
    for number in range(200):
        assert gathered.show(f"a-{number}", part(number))
    kept = sorted(int(name.removeprefix("a-")) for name in ids(gathered))
    assert len(kept) == len(gathered) == 20 == len(list(tmp_path.rglob("*.jpg")))
    assert sum(number < 100 for number in kept) in range(4, 17)  # a fair draw is outside with p < 0.01


def test_a_restart_continues_the_same_draw(tmp_path: Path) -> None:
    whole = GatheredPictures(tmp_path / "whole", 10)
    for number in range(60):
        whole.show(f"a-{number}", part(number))
    for number in range(60):  # restarted before every picture
        GatheredPictures(tmp_path / "cut", 10).show(f"a-{number}", part(number))
    assert ids(GatheredPictures(tmp_path / "cut", 10)) == ids(whole)


def test_a_picture_that_looks_like_an_earlier_one_is_not_kept(tmp_path: Path) -> None:
    gathered = GatheredPictures(tmp_path, 10)
    noise = np.random.default_rng(0).normal(0, 2, (240, 320, 3))
    smooth = np.repeat(np.repeat(part(1)[:24, :32], 10, 0), 10, 1)
    assert gathered.show("a", smooth)
    assert not gathered.show("b", np.clip(smooth + noise, 0, 255).astype(np.uint8))
    assert not GatheredPictures(tmp_path, 10).show("c", smooth)  # also after a restart
    assert ids(gathered) == {"a"}


def test_what_a_killed_write_left_and_damaged_pictures_are_deleted(tmp_path: Path) -> None:
    gathered = GatheredPictures(tmp_path, 10)
    gathered.show("a", part(1))
    folder = tmp_path / "train" / "good"
    (folder / ".b.jpg.part").write_bytes(b"\xff\xd8half")
    (folder / "c.jpg").write_bytes((folder / "a.jpg").read_bytes()[:200])
    assert ids(GatheredPictures(tmp_path, 10)) == {"a"}
    assert [path.name for path in folder.iterdir()] == ["a.jpg"]


def test_a_picture_that_the_disk_cannot_read_now_is_not_deleted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    GatheredPictures(tmp_path, 10).show("a", part(1))

    def failing(path: Path, kind: type) -> np.ndarray:
        raise OSError(5, "Input/output error")

    with monkeypatch.context() as patched:
        patched.setattr(np, "fromfile", failing)
        assert ids(GatheredPictures(tmp_path, 10)) == set()
    assert ids(GatheredPictures(tmp_path, 10)) == {"a"}


def test_a_full_disk_loses_no_earlier_picture(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    gathered = GatheredPictures(tmp_path, 10)
    gathered.show("a", part(1))

    def full(path: Path, content: bytes) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("zsad_agent.learning.pictures.write_whole", full)
    with pytest.raises(OSError, match="No space"):
        gathered.show("b", part(2))
    assert ids(gathered) == {"a"}
    monkeypatch.undo()
    assert gathered.show("b", part(2))


def test_a_removed_folder_is_made_again(tmp_path: Path) -> None:
    gathered = GatheredPictures(tmp_path / "object", 10)
    shutil.rmtree(tmp_path / "object")
    assert gathered.show("a-1", part(1)) and [path.stem for path in tmp_path.rglob("*.jpg")] == ["a-1"]
