"""The last parts of a camera: bounded, rejects kept longer, and readable after a kill."""

import errno
import shutil
from pathlib import Path

import numpy as np
import pytest
from result_maker import make_result

from zsad_agent.learning import RecentParts, recent
from zsad_core.errors import ZsadError
from zsad_core.types import Verdict

VIEW = np.full((40, 60, 3), 90, np.uint8)
MAP = np.linspace(0, 1, 24, dtype=np.float32).reshape(4, 6)


@pytest.fixture(autouse=True)
def small_ring(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(recent, "MAX_REJECTS", 6)
    monkeypatch.setattr(recent, "MAX_PASSES", 3)
    monkeypatch.setattr(recent, "PASS_EVERY_S", 0.0)


def fill(parts: RecentParts, count: int) -> None:
    for seq in range(1, count + 1):
        parts.keep(make_result(seq, verdict=Verdict.OK if seq % 2 else Verdict.ANOMALOUS), VIEW, MAP, 0.9)


def test_rejects_are_kept_longer_than_passes(tmp_path: Path) -> None:
    fill(RecentParts(tmp_path), 40)
    kept = sorted(int(path.stem.rsplit("-", 1)[1]) for path in tmp_path.glob("*.json"))
    assert kept == [30, 32, 34, 35, 36, 37, 38, 39, 40]
    assert len(list(tmp_path.iterdir())) == 3 * len(kept)


def test_a_part_is_found_with_its_score_picture_and_map_also_after_a_restart(tmp_path: Path) -> None:
    fill(RecentParts(tmp_path), 4)
    found = RecentParts(tmp_path).find("line3-b1-4")
    assert (found.facts.verdict, found.facts.score, found.facts.product) == ("anomalous", 0.9, "object")
    assert found.picture.image().shape == VIEW.shape
    np.testing.assert_allclose(found.anomaly_map, MAP, atol=1e-3)


def test_the_ring_goes_on_after_a_restart_and_deletes_what_a_kill_left(tmp_path: Path) -> None:
    fill(RecentParts(tmp_path), 6)
    (tmp_path / "line3-b1-2.json").unlink()
    (tmp_path / "line3-b1-3.npy").write_bytes(b"half")
    RecentParts(tmp_path)
    assert sorted(path.stem for path in tmp_path.glob("*.jpg")) == [f"line3-b1-{seq}" for seq in (1, 4, 5, 6)]


@pytest.mark.parametrize("suffix", [".json", ".jpg", ".npy"])
def test_files_that_a_power_cut_left_empty_are_deleted(tmp_path: Path, suffix: str) -> None:
    fill(RecentParts(tmp_path), 4)
    (tmp_path / f"line3-b1-2{suffix}").write_bytes(b"")
    parts = RecentParts(tmp_path)
    assert {path.stem for path in tmp_path.iterdir()} == {"line3-b1-1", "line3-b1-3", "line3-b1-4"}
    fill(parts, 6)


def test_nothing_is_deleted_while_the_disk_cannot_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fill(RecentParts(tmp_path), 4)

    def broken(self: Path) -> bytes:
        raise OSError(errno.EIO, "Input/output error")

    with monkeypatch.context() as patched, pytest.raises(OSError, match="Input/output"):
        patched.setattr(Path, "read_bytes", broken)
        RecentParts(tmp_path)
    assert RecentParts(tmp_path).find("line3-b1-4").facts.score == 0.9


def test_a_part_that_was_refused_without_a_score_can_be_marked(tmp_path: Path) -> None:
    refused = make_result(1, verdict=Verdict.UNKNOWN, anomaly_score=None, reason="another part: as a whole")
    RecentParts(tmp_path).keep(refused, VIEW, MAP, 0.2)
    assert RecentParts(tmp_path).find(refused.id).facts.score == 0.2
    RecentParts(tmp_path).keep(make_result(2), VIEW, MAP, float("nan"))
    with pytest.raises(ZsadError, match="no longer there"):
        RecentParts(tmp_path).find("line3-b1-2")


@pytest.mark.parametrize("part_id", ["line3-b1-99", "../../etc/passwd", "", "a" * 300])
def test_an_unknown_part_is_refused(tmp_path: Path, part_id: str) -> None:
    with pytest.raises(ZsadError, match=r"no longer there|not the id"):
        RecentParts(tmp_path).find(part_id)


def test_one_pass_in_two_seconds_is_written_and_the_last_ones_are_in_memory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(recent, "PASS_EVERY_S", 60.0)
    monkeypatch.setattr(recent, "FRESH_EVERY_S", 0.0)
    parts = RecentParts(tmp_path)
    fill(parts, 6)
    assert sorted(path.stem for path in tmp_path.glob("*.jpg")) == [f"line3-b1-{seq}" for seq in (1, 2, 4, 6)]
    found = parts.find("line3-b1-5")
    assert (found.facts.verdict, found.facts.score, found.picture.image().shape) == ("ok", 0.9, VIEW.shape)
    monkeypatch.setattr(recent, "MAX_FRESH_BYTES", found.bytes)
    fill(parts, 9)
    assert parts.find("line3-b1-9").facts.verdict == "ok"
    with pytest.raises(ZsadError, match="no longer there"):
        parts.find("line3-b1-5")


def test_a_line_that_runs_free_does_not_encode_every_pass(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(recent, "PASS_EVERY_S", 60.0)
    monkeypatch.setattr(recent, "FRESH_EVERY_S", 60.0)
    parts = RecentParts(tmp_path)
    fill(parts, 6)
    assert parts.find("line3-b1-3").facts.verdict == "ok"
    with pytest.raises(ZsadError, match="no longer there"):
        parts.find("line3-b1-5")


def test_a_removed_folder_is_made_again_and_a_full_disk_fails_for_every_pass(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    parts = RecentParts(tmp_path / "recent")
    fill(parts, 2)
    shutil.rmtree(tmp_path / "recent")
    parts.keep(make_result(3, verdict=Verdict.ANOMALOUS), VIEW, MAP, 0.9)
    assert parts.find("line3-b1-3").facts.verdict == "anomalous"
    monkeypatch.setattr(recent, "PASS_EVERY_S", 60.0)
    monkeypatch.setattr(np, "save", full)
    parts = RecentParts(tmp_path / "recent")
    for seq in (5, 7):
        with pytest.raises(OSError, match="No space left"):
            parts.keep(make_result(seq, verdict=Verdict.OK), VIEW, MAP, 0.1)
    assert sorted({path.stem for path in (tmp_path / "recent").iterdir()}) == ["line3-b1-3"]


def full(*_: object) -> None:
    raise OSError(errno.ENOSPC, "No space left on device")
