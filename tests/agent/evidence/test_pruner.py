"""Which evidence is deleted: the oldest, above the limits of bytes and age."""

import contextlib
import errno
import logging
from pathlib import Path
from typing import Any

import pytest
from evidence_tools import PICTURE, config, files, put_set
from mqtt_listener import wait_until
from result_maker import make_result as result

from zsad_agent.evidence import EvidenceSet, EvidenceStore, Ledger, Place, Pruner
from zsad_agent.evidence import files as evidence_files
from zsad_agent.evidence.files import delete_set

HOUR_S, DAY_S = 3600.0, 86_400.0
NOON_S = 1_795_608_000.0  # 2026-11-25T12:00:00Z


class Clock:
    """Wall clock and monotonic clock; the test sets them."""

    def __init__(self) -> None:
        self.wall_s, self.monotonic_s = NOON_S, 1000.0

    def advance(self, seconds: float) -> None:
        self.wall_s += seconds
        self.monotonic_s += seconds


def pruner_at(clock: Clock, folder: Path, **changes: Any) -> Pruner:
    return Pruner(config(**changes), folder, wall_s=lambda: clock.wall_s, monotonic_s=lambda: clock.monotonic_s)


@pytest.mark.parametrize("text", ["..", "../../etc/passwd", "/etc", "a\0b\n", ".hidden", "ü" * 300, "x.overlay"])
def test_names_stay_inside_the_folder_and_are_found_again(tmp_path: Path, text: str) -> None:
    folder = tmp_path / "evidence"
    with EvidenceStore(config(), folder) as store:
        store.keep(result(id=text, camera=".." if text.startswith(".") else "cam0"), PICTURE, b"overlay")
        wait_until(lambda: store.stats.kept == 1)
    assert len(files(folder)) == 3
    assert [path.name for path in tmp_path.iterdir()] == ["evidence"]
    pruner = pruner_at(Clock(), folder)
    pruner.make_room(0)
    assert pruner.ledger.bytes == store.stats.bytes
    pruner.delete(1)
    assert (files(folder), pruner.pruned) == ([], 1)


def test_oldest_sets_of_all_cameras_are_deleted_above_max_bytes(tmp_path: Path) -> None:
    for camera, day in (("a", "2026-11-20"), ("b", "2026-11-19"), ("a", "2026-11-18"), ("b", "2026-11-21")):
        put_set(tmp_path, day, size=300_000, camera=camera)
    pruner = pruner_at(Clock(), tmp_path, max_bytes=1_000_000)
    pruner.make_room(300_000)
    assert (pruner.ledger.bytes, pruner.pruned) == (600_000, 2)
    assert [name[:12] for name in files(tmp_path)] == ["a/2026-11-20", "b/2026-11-21"]
    assert not (tmp_path / "a/2026-11-18").exists()


def test_sets_that_cannot_be_deleted_do_not_stop_the_deletion_of_others(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def refuse(folder: Path, found: EvidenceSet) -> None:
        if found.place.camera == "a":
            raise PermissionError(errno.EACCES, "Permission denied")
        delete(folder, found)

    for hour in range(10, 15):
        for camera in ("a", "b"):
            put_set(tmp_path, "2026-11-20", f"{hour}0000.000", size=300_000, camera=camera)
    delete = evidence_files.delete_set
    monkeypatch.setattr(evidence_files, "delete_set", refuse)
    pruner = pruner_at(Clock(), tmp_path, max_bytes=1_000_000)
    pruner.make_room(100_000)
    assert (pruner.ledger.bytes, pruner.pruned) == (900_000, 2)
    assert [name[:1] for name in files(tmp_path)] == ["a"] * 5 + ["b"] * 3
    assert caplog.text.count("cannot be deleted and is no longer counted") == 1


def test_only_our_files_are_counted_and_deleted_and_no_link_is_followed(tmp_path: Path) -> None:
    folder, outside = tmp_path / "evidence", tmp_path / "outside"
    put_set(outside, "2026-11-01", size=500)
    ours = put_set(folder, "2026-11-02")
    day = ours.parent
    foreign = [
        day / "holiday.jpg",
        day / "120000.000-x.png",
        day / "256000.000-x.jpg",
        folder / "cam0" / "notes.json",
        folder / "120000.000-x.json",
        folder / "cam0" / "2026-13-45" / "120000.000-x.json",
        day / "120000.000-folder.json" / "x",
    ]
    for path in foreign:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("keep")
    (folder / "cam1").symlink_to(outside / "cam0")
    (folder / "cam0" / "2026-11-01").symlink_to(outside / "cam0" / "2026-11-01")
    (day / "110000.000-link.json").symlink_to(outside / "cam0" / "2026-11-01" / "120000.000-line3-b0-1.json")
    pruner = pruner_at(Clock(), folder)
    pruner.make_room(0)
    assert pruner.ledger.bytes == 100
    pruner.delete(10**9)
    assert not ours.exists()
    assert all(path.read_text() == "keep" for path in foreign)
    assert (day / "110000.000-link.json").is_symlink()
    assert len(files(outside)) == 1


def test_incomplete_set_of_a_killed_process_is_deleted_with_its_date(tmp_path: Path) -> None:
    half = put_set(tmp_path, "2026-11-02").parent / ".130000.000-line3-b0-2.jpg.tmp"
    half.write_bytes(b"x" * 50)
    pruner = pruner_at(Clock(), tmp_path)
    pruner.make_room(0)
    assert pruner.ledger.bytes == 150
    pruner.delete(150)
    assert files(tmp_path) == []


def test_files_deleted_by_a_user_are_no_error_and_are_no_longer_counted(tmp_path: Path) -> None:
    clock = Clock()
    old, new = put_set(tmp_path, "2026-11-02", size=600_000), put_set(tmp_path, "2026-11-03", size=300_000)
    pruner = pruner_at(clock, tmp_path, max_bytes=1_000_000)
    pruner.make_room(0)
    old.unlink()
    pruner.make_room(200_000)  # the counted sum is too high; counting again shows that nothing must be deleted
    assert new.exists() and pruner.pruned == 0
    put_set(tmp_path, "2026-11-04", size=100_000)
    clock.advance(7 * HOUR_S)
    pruner.ledger.add("2026-11-25", 900_000)  # another program has deleted these too
    pruner.make_room(500_000)
    assert (tmp_path / "cam0/2026-11-04").exists()
    assert pruner.ledger.bytes <= 400_000


def test_age_limit_applies_when_the_clock_had_no_step_for_an_hour(tmp_path: Path) -> None:
    clock = Clock()
    for day in ("2026-11-20", "2026-11-21", "2026-11-25"):
        put_set(tmp_path, day)
    young = put_set(tmp_path, "2026-11-23", "200000.000")
    put_set(tmp_path, "2026-11-23", "110000.000")
    pruner = pruner_at(clock, tmp_path, max_days=2)
    pruner.make_room(0)
    pruner.delete_aged()
    assert pruner.pruned == 0
    clock.advance(0.99 * HOUR_S)
    pruner.delete_aged()
    assert pruner.pruned == 0
    deleted = []
    for _ in range(4):
        clock.advance(1.01 * HOUR_S)
        pruner.delete_aged()
        deleted.append(pruner.pruned)
    assert deleted == [1, 2, 3, 3]
    assert young.exists() and (tmp_path / "cam0/2026-11-25").exists()


@pytest.mark.parametrize("step_s", [20 * 365 * DAY_S, -20 * 365 * DAY_S, 40 * DAY_S])
def test_clock_step_deletes_nothing_and_is_logged(
    tmp_path: Path, step_s: float, caplog: pytest.LogCaptureFixture
) -> None:
    clock = Clock()
    for day in range(1, 26):
        put_set(tmp_path, f"2026-11-{day:02}")
    pruner = pruner_at(clock, tmp_path, max_days=30)
    pruner.make_room(0)
    clock.advance(2 * HOUR_S)
    pruner.delete_aged()
    clock.wall_s += step_s
    with caplog.at_level(logging.WARNING):
        for _ in range(50):
            clock.advance(60)
            pruner.delete_aged()
            pruner.make_room(1000)
    assert (pruner.pruned, len(files(tmp_path))) == (0, 25)
    assert len(caplog.records) == 1 and caplog.records[0].message.startswith(f"the clock was set by {step_s:+.0f} s")


def test_wrong_clock_deletes_one_date_an_hour(tmp_path: Path) -> None:
    clock = Clock()
    for day in range(1, 26):
        put_set(tmp_path, f"2026-11-{day:02}")
    clock.wall_s += 3650 * DAY_S
    pruner = pruner_at(clock, tmp_path, max_days=30)
    pruner.make_room(0)
    for _ in range(4 * 60):
        clock.advance(60)
        pruner.delete_aged()
    assert pruner.pruned == 4
    assert not (tmp_path / "cam0/2026-11-04").exists() and (tmp_path / "cam0/2026-11-05").exists()


def test_sets_written_with_a_clock_that_is_behind_are_not_deleted_first(tmp_path: Path) -> None:
    clock = Clock()
    for day in ("2026-11-23", "2026-11-24"):
        put_set(tmp_path, day, size=400_000)
    pruner = pruner_at(clock, tmp_path, max_bytes=1_000_000)
    pruner.make_room(0)
    put_set(tmp_path, "1970-01-01", size=400_000)
    pruner.ledger.add("1970-01-01", 400_000)
    pruner.make_room(0)
    assert [name[5:15] for name in files(tmp_path)] == ["1970-01-01", "2026-11-24"]


def test_future_dates_are_deleted_first(tmp_path: Path) -> None:
    for day in ("2026-11-24", "2099-01-01", "2026-11-23"):
        put_set(tmp_path, day)
    ledger = Ledger(tmp_path)
    ledger.walk("2026-11-25", lambda: False)
    assert ledger.dates == ["2099-01-01", "2026-11-23", "2026-11-24"]


def test_date_that_cannot_be_read_is_not_counted_and_not_deleted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def fail(folder: Path, camera: str, day: str) -> list[EvidenceSet]:
        if day == "2026-11-22":
            raise OSError(errno.EIO, "Input/output error")
        return read(folder, camera, day)

    for day in ("2026-11-22", "2026-11-23"):
        put_set(tmp_path, day, size=600_000)
    read = evidence_files.sets_of
    monkeypatch.setattr(evidence_files, "sets_of", fail)
    pruner = pruner_at(Clock(), tmp_path, max_bytes=1_000_000)
    pruner.make_room(500_000)
    assert [name[5:15] for name in files(tmp_path)] == ["2026-11-22"]
    assert f"evidence {tmp_path}/cam0/2026-11-22 is not counted: Input/output error" in caplog.text


def test_date_written_by_this_process_is_deleted_last(tmp_path: Path) -> None:
    for day in ("2026-11-22", "2026-11-23", "2026-11-24"):
        put_set(tmp_path, day)
    ledger = Ledger(tmp_path)
    ledger.walk("2026-11-25", lambda: False)
    ledger.add("2026-11-22", 50)
    assert ledger.dates == ["2026-11-23", "2026-11-24", "2026-11-22"]
    ledger.walk("2026-11-25", lambda: False)
    assert ledger.dates == ["2026-11-23", "2026-11-24", "2026-11-22"]
    assert ledger.bytes == 300


def test_result_larger_than_the_limit_deletes_nothing(tmp_path: Path) -> None:
    put_set(tmp_path, "2026-11-23")
    pruner = pruner_at(Clock(), tmp_path, max_bytes=1_000_000)
    with pytest.raises(OSError, match=r"evidence\.max_bytes = 1000000"):
        pruner.make_room(1_000_001)
    assert len(files(tmp_path)) == 1


def test_evidence_is_not_deleted_without_end_when_another_program_uses_the_freed_space(tmp_path: Path) -> None:
    clock = Clock()
    for number in range(100):
        put_set(tmp_path, "2026-11-23", f"1200{number:02}.000")
    pruner = pruner_at(clock, tmp_path)
    pruner.make_room(0)

    def replace_for(seconds: int) -> None:
        for _ in range(seconds):
            with contextlib.suppress(OSError):
                pruner.replace_oldest(100)
            clock.advance(1)

    replace_for(24 * 3600)  # no set can be written in place of the deleted ones
    assert 20 < pruner.pruned < 50
    names = files(tmp_path)
    assert len(names) == 100 - pruner.pruned and "/120099" in names[-1]
    with pytest.raises(OSError, match="other programs"):
        pruner.replace_oldest(100)
    pruner.replaced()
    before = pruner.pruned
    for _ in range(10):
        pruner.replace_oldest(100)
        pruner.replaced()
    assert pruner.pruned == before + 10


def test_json_of_a_set_is_deleted_first(tmp_path: Path) -> None:
    path = put_set(tmp_path, "2026-11-25")
    stem = path.name.removesuffix(".json")
    (path.parent / f"{stem}.jpg").mkdir()  # a folder: its deletion fails
    found = EvidenceSet(Place("cam0", "2026-11-25", stem), (f"{stem}.jpg", path.name), 100)
    with pytest.raises(OSError):
        delete_set(tmp_path, found)
    assert not path.exists()
