"""Which evidence the store keeps, and what it does on a full disk."""

import contextlib
import json
import logging
import os
import subprocess
import threading
import time
from pathlib import Path

import cv2
import numpy as np
import pytest
from evidence_tools import PICTURE, config, files, put_set
from mqtt_listener import wait_until
from result_maker import make_result as result

from zsad_agent.evidence import EvidenceStore, Place
from zsad_agent.evidence.files import write_set
from zsad_agent.evidence.store import RETRY_S
from zsad_core.types import Verdict


def test_reject_is_kept_as_picture_overlay_and_result(tmp_path: Path) -> None:
    with EvidenceStore(config(), tmp_path / "new" / "folder") as store:
        store.keep(result(7), PICTURE, b"overlay")
        wait_until(lambda: store.stats.kept == 1)
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
        wait_until(lambda: store.stats.kept == 1)
    assert files(tmp_path) == ["cam0/2026-11-25/102803.001-line3-b1-1.json"]


@pytest.mark.parametrize(("every", "kept"), [(0, []), (1, [1, 2, 3, 4, 5, 6]), (3, [3, 6])])
def test_every_nth_pass_of_each_camera_is_kept(tmp_path: Path, every: int, kept: list[int]) -> None:
    with EvidenceStore(config(passes_every=every), tmp_path) as store:
        for seq in range(1, 7):
            for camera in ("a", "b"):
                store.keep(result(seq, verdict=Verdict.OK, camera=camera), None, None)
        wait_until(lambda: store.stats.kept == 2 * len(kept))
    for camera in ("a", "b"):
        assert files(tmp_path / camera) == [f"2026-11-25/102803.00{seq}-line3-b1-{seq}.json" for seq in kept]


def test_json_exists_only_while_its_set_is_complete(tmp_path: Path) -> None:
    seen: list[bool] = []
    done = threading.Event()

    def look() -> None:
        last = False
        while not last:
            last = done.is_set()
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
        wait_until(lambda: store.stats.kept == 150)
    done.set()
    watcher.join()
    assert seen and all(seen)
    assert store.stats.pruned > 0


def test_queue_overflow_is_counted_and_logged_once(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    store = EvidenceStore(config(), tmp_path, queue_bytes=20_000)  # one picture and its result are 13 kB
    with caplog.at_level(logging.WARNING):
        started_s = time.monotonic()
        for seq in range(100):  # the queue is not read before the store is entered
            store.keep(result(seq), PICTURE, None)
        assert time.monotonic() - started_s < 20
        with store:
            wait_until(lambda: store.stats.kept == 1)
            store.keep(result(200), PICTURE, None)
            wait_until(lambda: store.stats.kept == 2)
    assert (store.stats.dropped, store.fault) == (99, None)
    assert [record.message.split(":")[0] for record in caplog.records] == [
        "evidence is left out",
        "evidence keeps up again; left out so far",
    ]


def test_picture_larger_than_the_queue_is_kept_when_it_comes_alone(tmp_path: Path) -> None:
    with EvidenceStore(config(), tmp_path, queue_bytes=10) as store:
        store.keep(result(), PICTURE, None)
        wait_until(lambda: store.stats.kept == 1)


def test_picture_longer_than_a_jpeg_can_be_is_kept_smaller(tmp_path: Path) -> None:
    with EvidenceStore(config(), tmp_path) as store:
        store.keep(result(1), np.zeros((1, 70_000, 3), np.uint8), None)
        wait_until(lambda: store.stats.kept == 1)
    (kept,) = tmp_path.rglob("*.jpg")
    assert cv2.imread(str(kept)).shape == (1, 65_500, 3)


def test_picture_that_cannot_be_encoded_is_a_fault_and_the_next_of_its_camera_is_kept(tmp_path: Path) -> None:
    with EvidenceStore(config(), tmp_path) as store:
        store.keep(result(1), np.zeros((4, 4, 7), np.uint8), None)
        wait_until(lambda: store.stats.dropped == 1)
        assert store.fault is not None and "OpenCV" in store.fault
        store.keep(result(2), PICTURE, None)
        wait_until(lambda: store.stats.kept == 1)
        assert store.fault is None


def test_nothing_is_written_into_a_camera_folder_that_is_a_link(tmp_path: Path) -> None:
    folder, outside = tmp_path / "evidence", tmp_path / "outside"
    folder.mkdir()
    outside.mkdir()
    (folder / "cam0").symlink_to(outside)
    with EvidenceStore(config(), folder) as store:
        store.keep(result(1), PICTURE, None)
        store.keep(result(2, camera="cam1"), PICTURE, None)
        wait_until(lambda: store.stats.kept == 1 and store.stats.dropped == 1)
        assert store.fault is not None
    assert list(outside.iterdir()) == []


def test_more_free_bytes_than_the_disk_has_delete_nothing_and_are_a_fault(tmp_path: Path) -> None:
    put_set(tmp_path, "2026-11-23")
    with EvidenceStore(config(min_free_bytes=10**13), tmp_path) as store:
        store.keep(result(), PICTURE, None)
        wait_until(lambda: store.stats.dropped == 1)
        assert store.fault is not None and "lower it" in store.fault
    assert len(files(tmp_path)) == 1


def test_free_disk_space_never_falls_below_min_free_bytes(tiny_disk: Path) -> None:
    with EvidenceStore(config(min_free_bytes=300_000), tiny_disk / "evidence") as store:
        for seq in range(100):
            store.keep(result(seq), None, b"o" * 40_000)
        wait_until(lambda: store.stats.kept + store.stats.dropped == 100)
        assert (store.stats.dropped, store.fault) == (0, None)
        disk = os.statvfs(tiny_disk)
        assert disk.f_bavail * disk.f_frsize >= 300_000 - 3 * 4096  # files take whole blocks, and a folder takes one
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
        wait_until(lambda: store.stats.kept == 20)
        assert (seqs_on(folder), store.fault) == (list(range(20)), None)
        with contextlib.suppress(OSError), other.open("wb", buffering=0) as file:
            while True:
                file.write(bytes(4096))
        for seq in range(20, 60):
            store.keep(result(seq), None, b"o" * 8_000)
        wait_until(lambda: store.stats.kept == 60)  # each replaces an older one
        kept = seqs_on(folder)
        assert kept == list(range(60 - len(kept), 60)) and 3 <= len(kept) <= 6  # a tenth of min_free_bytes
        assert store.fault is not None and "other programs fill the disk" in store.fault
        other.unlink()
        for seq in range(60, 70):
            store.keep(result(seq), None, b"o" * 8_000)
        wait_until(lambda: store.stats.kept == 70)
        assert (seqs_on(folder), store.fault, store.stats.dropped) == ([*kept, *range(60, 70)], None, 0)
    assert [record.levelname for record in caplog.records] == ["ERROR", "WARNING"]


def test_evidence_makes_room_on_a_disk_without_inodes(tiny_disk: Path) -> None:
    """Inodes run out before bytes do."""
    with EvidenceStore(config(), tiny_disk / "evidence") as store:
        store.keep(result(1), None, b"o")
        store.keep(result(2), None, b"o")
        wait_until(lambda: store.stats.kept == 2)
        subprocess.run(["mount", "-o", "remount,nr_inodes=30", str(tiny_disk)], check=True)
        with pytest.raises(OSError):
            for index in range(40):
                (tiny_disk / str(index)).touch()
        store.keep(result(3), None, b"o")
        wait_until(lambda: store.stats.kept + store.stats.dropped == 3)
        assert (store.stats.kept, store.fault) == (3, None)
    assert files(tiny_disk / "evidence")[-1].endswith("line3-b1-3.overlay.jpg")


def test_set_that_does_not_fit_leaves_no_file(tiny_disk: Path) -> None:
    place = Place("cam0", "2026-11-25", "102803.123-line3-b1-1")
    with pytest.raises(OSError):
        write_set(tiny_disk, place, {"jpg": b"x" * 1000, "overlay.jpg": b"x" * 2_000_000, "json": b"{}"})
    assert files(tiny_disk) == []


def test_folder_that_cannot_be_created_is_a_fault_logged_once(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / "file").touch()
    with caplog.at_level(logging.WARNING), EvidenceStore(config(), tmp_path / "file" / "folder") as store:
        for seq in range(4):
            store.keep(result(seq), PICTURE, None)
            time.sleep(RETRY_S / 2)  # so that the folder is created more than once
        wait_until(lambda: store.stats.dropped == 4)
        assert store.fault is not None and "Not a directory" in store.fault
    assert len([record for record in caplog.records if "of cam0 lost" in record.message]) == 1


def test_fault_ends_when_the_disk_works_again_without_a_further_reject(tmp_path: Path) -> None:
    folder = tmp_path / "folder"
    folder.touch()
    with EvidenceStore(config(), folder) as store:
        store.keep(result(1), PICTURE, None)
        wait_until(lambda: store.stats.dropped == 1)
        assert store.fault is not None
        folder.unlink()
        wait_until(lambda: store.fault is None)
        assert files(folder) == []
        store.keep(result(1), PICTURE, None)
        wait_until(lambda: store.stats.kept == 1)
        day = folder / "cam0/2026-11-25"
        names = files(folder)
        day.rename(folder / "aside")
        day.touch()
        store.keep(result(2), PICTURE, None)
        wait_until(lambda: store.fault is not None)
        day.unlink()
        (folder / "aside").rename(day)
        wait_until(lambda: store.fault is None)
        assert files(folder) == names


def test_stop_does_not_wait_for_the_queue(tmp_path: Path) -> None:
    store = EvidenceStore(config(), tmp_path)
    large = np.zeros((1000, 1000, 3), np.uint8)
    for seq in range(20):
        store.keep(result(seq), large, None)
    started_s = time.monotonic()
    with store:
        pass
    assert time.monotonic() - started_s < 20
    wait_until(lambda: not any(thread.name == "zsad-evidence" for thread in threading.enumerate()))
    assert store.stats.kept + store.stats.dropped >= 20
    store.keep(result(99), None, None)  # after the end: no error
