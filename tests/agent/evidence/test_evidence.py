import contextlib
import errno
import json
import logging
import os
import subprocess
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from result_maker import make_result as result

from zsad_agent.config import EvidenceConfig
from zsad_agent.evidence import EvidenceSet, EvidenceStore, Ledger, Place, Pruner
from zsad_agent.evidence import files as evidence_files
from zsad_agent.evidence.files import delete_set, write_set
from zsad_agent.evidence.store import RETRY_S
from zsad_core.types import Verdict

PICTURE = np.random.default_rng(0).integers(0, 255, (48, 64, 3), dtype=np.uint8)
HOUR_S, DAY_S = 3600.0, 86_400.0
NOON_S = 1_795_608_000.0  # 2026-11-25T12:00:00Z


def config(**changes: Any) -> EvidenceConfig:
    return EvidenceConfig(**({"enabled": True, "min_free_bytes": 0} | changes))


def files(folder: Path) -> list[str]:
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if not path.is_dir())


def wait_for(met: Callable[[], bool], timeout_s: float = 30.0) -> None:
    end_s = time.monotonic() + timeout_s
    while not met():
        assert time.monotonic() < end_s, "did not happen"
        time.sleep(0.01)


def put_set(folder: Path, day: str, time_of_day: str = "120000.000", size: int = 100, camera: str = "cam0") -> Path:
    path = folder / camera / day / f"{time_of_day}-line3-b0-1.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(b"x" * size)
    return path


class Clock:
    """Wall and monotonic seconds, moved by the test."""

    def __init__(self) -> None:
        self.wall_s, self.monotonic_s = NOON_S, 1000.0

    def go(self, seconds: float) -> None:
        self.wall_s += seconds
        self.monotonic_s += seconds


def pruner_at(clock: Clock, folder: Path, **changes: Any) -> Pruner:
    return Pruner(config(**changes), folder, wall_s=lambda: clock.wall_s, monotonic_s=lambda: clock.monotonic_s)


def test_reject_is_kept_as_picture_overlay_and_result(tmp_path: Path) -> None:
    with EvidenceStore(config(), tmp_path / "new" / "folder") as store:
        store.keep(result(7), PICTURE, b"overlay")
        wait_for(lambda: store.stats.kept == 1)
    stem = tmp_path / "new/folder/cam0/2026-11-25/102803.007-line3-b1-7"
    assert json.loads(Path(f"{stem}.json").read_bytes()) == json.loads(result(7).encode())
    assert Path(f"{stem}.overlay.jpg").read_bytes() == b"overlay"
    picture = cv2.imread(f"{stem}.jpg")
    assert picture is not None and picture.shape == PICTURE.shape
    assert len(files(tmp_path)) == 3
    assert store.stats.bytes == sum(path.stat().st_size for path in stem.parent.iterdir())


def test_unknown_without_picture_is_kept_as_a_result_only(tmp_path: Path) -> None:
    with EvidenceStore(config(), tmp_path) as store:
        store.keep(result(verdict=Verdict.UNKNOWN, reason="camera\nlost ../.."), None, None)
        wait_for(lambda: store.stats.kept == 1)
    assert files(tmp_path) == ["cam0/2026-11-25/102803.001-line3-b1-1.json"]


@pytest.mark.parametrize(("every", "kept"), [(0, []), (1, [1, 2, 3, 4, 5, 6]), (3, [3, 6])])
def test_every_nth_pass_of_each_camera_is_kept(tmp_path: Path, every: int, kept: list[int]) -> None:
    with EvidenceStore(config(passes_every=every), tmp_path) as store:
        for seq in range(1, 7):
            for camera in ("a", "b"):
                store.keep(result(seq, verdict=Verdict.OK, camera=camera), None, None)
    for camera in ("a", "b"):
        assert files(tmp_path / camera) == [f"2026-11-25/102803.00{seq}-line3-b1-{seq}.json" for seq in kept]


@pytest.mark.parametrize("text", ["..", "../../etc/passwd", "/etc", "a\0b\n", ".hidden", "ü" * 300, "x.overlay"])
def test_names_stay_inside_the_folder_and_are_found_again(tmp_path: Path, text: str) -> None:
    folder = tmp_path / "evidence"
    with EvidenceStore(config(), folder) as store:
        store.keep(result(id=text, camera=".." if text.startswith(".") else "cam0"), PICTURE, b"overlay")
        wait_for(lambda: store.stats.kept == 1)
    assert len(files(folder)) == 3
    assert [path.name for path in tmp_path.iterdir()] == ["evidence"]
    pruner = pruner_at(Clock(), folder)
    pruner.make_room(0)
    assert pruner.ledger.bytes == store.stats.bytes
    pruner.delete(1)
    assert (files(folder), pruner.pruned) == ([], 1)


def test_json_exists_only_while_its_set_is_complete(tmp_path: Path) -> None:
    seen: list[bool] = []
    done = threading.Event()

    def look() -> None:
        while not done.is_set():
            for path in tmp_path.glob("*/*/*.json"):
                stem = str(path).removesuffix(".json")
                try:
                    json.loads(path.read_bytes())
                except FileNotFoundError:  # pruned meanwhile
                    continue
                whole = Path(f"{stem}.jpg").exists() and Path(f"{stem}.overlay.jpg").exists()
                seen.append(whole or not path.exists())

    watcher = threading.Thread(target=look)
    watcher.start()
    with EvidenceStore(config(max_bytes=1_000_000), tmp_path) as store:
        for seq in range(150):
            store.keep(result(seq), PICTURE, b"o" * 20_000)
        wait_for(lambda: store.stats.kept == 150)
    done.set()
    watcher.join()
    assert seen and all(seen)
    assert store.stats.pruned > 0


def test_queue_overflow_is_counted_and_logged_once(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    store = EvidenceStore(config(), tmp_path, queue_bytes=20_000)  # one picture and its result are 13 kB
    with caplog.at_level(logging.WARNING):
        started_s = time.monotonic()
        for seq in range(100):  # nobody takes from the queue before it is entered
            store.keep(result(seq), PICTURE, None)
        assert time.monotonic() - started_s < 1
        with store:
            wait_for(lambda: store.stats.kept == 1)
            store.keep(result(200), PICTURE, None)
            wait_for(lambda: store.stats.kept == 2)
    assert (store.stats.dropped, store.fault) == (99, None)
    assert [record.message.split(":")[0] for record in caplog.records] == [
        "evidence is left out",
        "evidence keeps up again; left out so far",
    ]


def test_picture_larger_than_the_queue_is_kept_when_it_comes_alone(tmp_path: Path) -> None:
    with EvidenceStore(config(), tmp_path, queue_bytes=10) as store:
        store.keep(result(), PICTURE, None)
        wait_for(lambda: store.stats.kept == 1)


def test_picture_longer_than_a_jpeg_can_be_is_kept_smaller(tmp_path: Path) -> None:
    with EvidenceStore(config(), tmp_path) as store:
        store.keep(result(1), np.zeros((1, 70_000, 3), np.uint8), None)
        wait_for(lambda: store.stats.kept == 1)
    (kept,) = tmp_path.rglob("*.jpg")
    assert cv2.imread(str(kept)).shape == (1, 65_500, 3)


def test_picture_that_cannot_be_encoded_is_a_fault_and_the_next_of_its_camera_is_kept(tmp_path: Path) -> None:
    with EvidenceStore(config(), tmp_path) as store:
        store.keep(result(1), np.zeros((4, 4, 7), np.uint8), None)
        wait_for(lambda: store.stats.dropped == 1)
        assert store.fault is not None and "OpenCV" in store.fault
        store.keep(result(2), PICTURE, None)
        wait_for(lambda: store.stats.kept == 1)
        assert store.fault is None


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


def test_nothing_is_written_into_a_camera_folder_that_is_a_link(tmp_path: Path) -> None:
    folder, outside = tmp_path / "evidence", tmp_path / "outside"
    folder.mkdir()
    outside.mkdir()
    (folder / "cam0").symlink_to(outside)
    with EvidenceStore(config(), folder) as store:
        store.keep(result(1), PICTURE, None)
        store.keep(result(2, camera="cam1"), PICTURE, None)
        wait_for(lambda: store.stats.kept == 1 and store.stats.dropped == 1)
        assert store.fault is not None
    assert list(outside.iterdir()) == []


def test_half_a_set_of_a_killed_process_is_deleted_with_its_date(tmp_path: Path) -> None:
    half = put_set(tmp_path, "2026-11-02").parent / ".130000.000-line3-b0-2.jpg.tmp"
    half.write_bytes(b"x" * 50)
    pruner = pruner_at(Clock(), tmp_path)
    pruner.make_room(0)
    assert pruner.ledger.bytes == 150
    pruner.delete(150)
    assert files(tmp_path) == []


def test_files_deleted_by_people_are_not_an_error_and_not_counted_for_ever(tmp_path: Path) -> None:
    clock = Clock()
    old, new = put_set(tmp_path, "2026-11-02", size=600_000), put_set(tmp_path, "2026-11-03", size=300_000)
    pruner = pruner_at(clock, tmp_path, max_bytes=1_000_000)
    pruner.make_room(0)
    old.unlink()
    pruner.make_room(200_000)  # the sum says too much: the day is looked at, and nothing need go
    assert new.exists() or pruner.pruned == 1
    put_set(tmp_path, "2026-11-04", size=100_000)
    clock.go(7 * HOUR_S)
    pruner.ledger.add("2026-11-25", 900_000)  # this too was taken away
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
    clock.go(0.99 * HOUR_S)
    pruner.delete_aged()
    assert pruner.pruned == 0
    deleted = []
    for _ in range(4):
        clock.go(1.01 * HOUR_S)
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
    clock.go(2 * HOUR_S)
    pruner.delete_aged()
    clock.wall_s += step_s
    with caplog.at_level(logging.WARNING):
        for _ in range(50):
            clock.go(60)
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
        clock.go(60)
        pruner.delete_aged()
    assert pruner.pruned == 4
    assert not (tmp_path / "cam0/2026-11-04").exists() and (tmp_path / "cam0/2026-11-05").exists()


def test_sets_written_with_a_late_clock_are_not_deleted_first(tmp_path: Path) -> None:
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


def test_more_free_bytes_than_the_disk_has_delete_nothing_and_are_a_fault(tmp_path: Path) -> None:
    put_set(tmp_path, "2026-11-23")
    with EvidenceStore(config(min_free_bytes=10**13), tmp_path) as store:
        store.keep(result(), PICTURE, None)
        wait_for(lambda: store.stats.dropped == 1)
        assert store.fault is not None and "lower it" in store.fault
    assert len(files(tmp_path)) == 1


def test_disk_never_falls_below_its_free_bytes(tiny_disk: Path) -> None:
    with EvidenceStore(config(min_free_bytes=300_000), tiny_disk / "evidence") as store:
        for seq in range(100):
            store.keep(result(seq), None, b"o" * 40_000)
        wait_for(lambda: store.stats.kept + store.stats.dropped == 100)
        assert (store.stats.dropped, store.fault) == (0, None)
        disk = os.statvfs(tiny_disk)
        assert disk.f_bavail * disk.f_frsize >= 300_000 - 3 * 4096  # whole blocks, and a folder's own
    names = files(tiny_disk / "evidence")
    assert names[-1].endswith("line3-b1-99.overlay.jpg") and 20 < len(names) < 200


def seqs_on(folder: Path) -> list[int]:
    """The numbers of the complete sets."""
    return sorted(int(name.removesuffix(".json").rsplit("-", 1)[1]) for name in files(folder) if name.endswith(".json"))


def test_newest_evidence_is_kept_when_other_files_fill_the_disk(
    tiny_disk: Path, caplog: pytest.LogCaptureFixture
) -> None:
    folder, other = tiny_disk / "evidence", tiny_disk / "other"
    with caplog.at_level(logging.WARNING), EvidenceStore(config(min_free_bytes=500_000), folder) as store:
        for seq in range(20):
            store.keep(result(seq), None, b"o" * 8_000)
        wait_for(lambda: store.stats.kept == 20)
        assert (seqs_on(folder), store.fault) == (list(range(20)), None)
        with contextlib.suppress(OSError), other.open("wb", buffering=0) as file:
            while True:
                file.write(bytes(4096))
        for seq in range(20, 60):
            store.keep(result(seq), None, b"o" * 8_000)
        wait_for(lambda: store.stats.kept == 60)  # each in the place of an older one
        kept = seqs_on(folder)
        assert kept == list(range(60 - len(kept), 60)) and 3 <= len(kept) <= 6  # a tenth of min_free_bytes
        assert store.fault is not None and "other programs fill the disk" in store.fault
        other.unlink()
        for seq in range(60, 70):
            store.keep(result(seq), None, b"o" * 8_000)
        wait_for(lambda: store.stats.kept == 70)
        assert (seqs_on(folder), store.fault, store.stats.dropped) == ([*kept, *range(60, 70)], None, 0)
    assert [record.levelname for record in caplog.records] == ["ERROR", "WARNING"]


def test_evidence_stays_when_another_program_takes_what_it_gives_up(tmp_path: Path) -> None:
    clock = Clock()
    for number in range(100):
        put_set(tmp_path, "2026-11-23", f"1200{number:02}.000")
    pruner = pruner_at(clock, tmp_path)
    pruner.make_room(0)

    def replace_for(seconds: int) -> None:
        for _ in range(seconds):
            with contextlib.suppress(OSError):
                pruner.replace_oldest(100)
            clock.go(1)

    replace_for(24 * 3600)  # no set can be written in the place of the deleted ones
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


def test_evidence_makes_room_on_a_disk_without_inodes(tiny_disk: Path) -> None:
    """Inodes run out before bytes do."""
    with EvidenceStore(config(), tiny_disk / "evidence") as store:
        store.keep(result(1), None, b"o")
        store.keep(result(2), None, b"o")
        wait_for(lambda: store.stats.kept == 2)
        subprocess.run(["mount", "-o", "remount,nr_inodes=30", str(tiny_disk)], check=True)
        with pytest.raises(OSError):
            for index in range(40):
                (tiny_disk / str(index)).touch()
        store.keep(result(3), None, b"o")
        wait_for(lambda: store.stats.kept + store.stats.dropped == 3)
        assert (store.stats.kept, store.fault) == (3, None)
    assert files(tiny_disk / "evidence")[-1].endswith("line3-b1-3.overlay.jpg")


def test_set_that_does_not_fit_leaves_no_file(tiny_disk: Path) -> None:
    place = Place("cam0", "2026-11-25", "102803.123-line3-b1-1")
    with pytest.raises(OSError):
        write_set(tiny_disk, place, {"jpg": b"x" * 1000, "overlay.jpg": b"x" * 2_000_000, "json": b"{}"})
    assert files(tiny_disk) == []


def test_json_of_a_set_is_deleted_first(tmp_path: Path) -> None:
    path = put_set(tmp_path, "2026-11-25")
    stem = path.name.removesuffix(".json")
    (path.parent / f"{stem}.jpg").mkdir()  # where the deletion breaks off
    found = EvidenceSet(Place("cam0", "2026-11-25", stem), (f"{stem}.jpg", path.name), 100)
    with pytest.raises(OSError):
        delete_set(tmp_path, found)
    assert not path.exists()


def test_folder_that_cannot_be_created_is_a_fault_logged_once(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / "file").touch()
    with caplog.at_level(logging.WARNING), EvidenceStore(config(), tmp_path / "file" / "folder") as store:
        for seq in range(4):
            store.keep(result(seq), PICTURE, None)
            time.sleep(RETRY_S / 2)  # so that it is tried more than once
        wait_for(lambda: store.stats.dropped == 4)
        assert store.fault is not None and "Not a directory" in store.fault
    assert len([record for record in caplog.records if "of cam0 lost" in record.message]) == 1


def test_stop_does_not_wait_for_the_queue(tmp_path: Path) -> None:
    store = EvidenceStore(config(), tmp_path)
    large = np.zeros((1000, 1000, 3), np.uint8)
    for seq in range(20):
        store.keep(result(seq), large, None)
    started_s = time.monotonic()
    with store:
        pass
    assert time.monotonic() - started_s < 5
    wait_for(lambda: not any(thread.name == "zsad-evidence" for thread in threading.enumerate()))
    assert store.stats.kept + store.stats.dropped >= 20
    store.keep(result(99), None, None)  # too late, and no error
