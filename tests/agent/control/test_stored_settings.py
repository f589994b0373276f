import json
import logging
import os
import shutil
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from mqtt_listener import wait_until

from zsad_agent.control import CameraSettings, StoredSettings
from zsad_agent.spool import SpoolClock, Stamp

NOW_S = 1_800_000_000.0


def settings(folder: Path, now_s: float = NOW_S) -> StoredSettings:
    clock = SpoolClock(wall_s=lambda: now_s, boot_s=lambda: now_s - NOW_S, boot_id="boot")
    return StoredSettings(folder / "settings.json", clock=clock)


def now(now_s: float = NOW_S) -> Stamp:
    return Stamp(wall_s=now_s, boot_s=now_s - NOW_S, boot_id="boot")


def test_without_a_file_there_are_no_settings_and_no_fault(tmp_path: Path) -> None:
    stored = settings(tmp_path / "not-there")
    assert (stored.camera("cam0"), stored.fault, stored.damage) == (CameraSettings(), None, None)
    assert stored.guard.forgotten_up_to_s(now(NOW_S + 5)) == NOW_S  # a command sent before this start may be a replay


def test_settings_and_ids_are_read_after_a_restart(tmp_path: Path) -> None:
    stored = settings(tmp_path / "made")
    stored.set_camera("cam0", CameraSettings(threshold=0.4, product="bottle"))
    stored.set_camera("gone", CameraSettings(paused=False))
    stored.guard.accept("a", NOW_S + 2, now(NOW_S + 2), 30)
    assert stored.save()
    again = settings(tmp_path / "made", NOW_S + 9)
    assert again.camera("cam0") == CameraSettings(threshold=0.4, product="bottle")
    assert again.camera("gone") == CameraSettings(paused=False)
    assert (again.guard.seen, again.guard.anchor) == ({"a": NOW_S + 2}, now(NOW_S + 2))
    assert again.guard.forgotten_up_to_s(now(NOW_S + 10)) == NOW_S
    assert [path.name for path in stored.path.parent.iterdir()] == ["settings.json"]


def test_file_of_an_earlier_version_is_read(tmp_path: Path) -> None:
    (tmp_path / "settings.json").write_text(json.dumps(VALID | {"seen": {"a": NOW_S}, "forgotten_up_to_s": NOW_S - 60}))
    guard = settings(tmp_path).guard
    assert (guard.seen, guard.anchor, guard.forgotten_up_to_s(now())) == ({"a": NOW_S}, None, NOW_S - 60)


VALID = {"format": 1, "cameras": {}, "seen": {}, "forgotten_up_to_s": 0.0}


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"\x00" * 100,
        b"\xff\xfe",
        b"[]",
        b"[" * 100_000,
        json.dumps(VALID).encode()[:-1],
        json.dumps(VALID | {"format": 2}).encode(),
        json.dumps(VALID | {"colour": "red"}).encode(),
        json.dumps(VALID | {"cameras": {"a/b": {}}}).encode(),
        json.dumps(VALID | {"cameras": {"cam0": {"threshold": 1.5}}}).encode(),
        json.dumps(VALID | {"cameras": {"cam0": {"threshold": "0.5"}}}).encode(),
        json.dumps(VALID | {"cameras": {"cam0": {"paused": 1}}}).encode(),
        json.dumps(VALID | {"seen": {"a": float("nan")}}).encode(),
        json.dumps(VALID | {"anchor": {"wall_s": float("nan"), "boot_s": 0.0, "boot_id": "b"}}).encode(),
        json.dumps(VALID | {"anchor": {"wall_s": "1"}}).encode(),
        json.dumps(VALID | {"anchor": {"hue": 1.0}}).encode(),
        b" " * 4_000_001,
    ],
)
def test_damaged_file_is_renamed_and_reported(tmp_path: Path, content: bytes, caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / "settings.json").write_bytes(content)
    stored = settings(tmp_path)
    assert stored.camera("cam0") == CameraSettings()
    assert stored.fault is not None and "cannot be used" in stored.fault and "the config's values" in stored.fault
    assert len(caplog.records) == 1 and len(caplog.text) < 1000
    assert (tmp_path / "settings.json.corrupt").read_bytes() == content
    assert stored.save() and stored.fault is None and stored.damage is not None
    assert settings(tmp_path).fault is None


def test_file_cut_at_any_byte_is_detected(tmp_path: Path) -> None:
    stored = settings(tmp_path)
    stored.set_camera("cam0", CameraSettings(threshold=0.25))
    stored.save()
    whole = stored.path.read_bytes()
    for length in range(len(whole)):
        stored.path.write_bytes(whole[:length])
        cut = settings(tmp_path)
        assert cut.damage is not None and cut.camera("cam0") == CameraSettings()


def test_folder_in_place_of_the_file_is_renamed(tmp_path: Path) -> None:
    (tmp_path / "settings.json").mkdir()
    stored = settings(tmp_path)
    assert stored.damage is not None
    assert stored.save()


def test_full_disk_is_a_fault_that_is_logged_once_and_ends(tiny_disk: Path, caplog: pytest.LogCaptureFixture) -> None:
    stored = settings(tiny_disk)
    stored.set_camera("cam0", CameraSettings(threshold=0.25))
    assert stored.save()
    filler = tiny_disk / "filler"
    with filler.open("wb", buffering=0) as file, pytest.raises(OSError):
        while True:
            file.write(bytes(65536))
    stored.set_camera("cam0", CameraSettings(threshold=0.75))
    with caplog.at_level(logging.WARNING):
        assert not stored.save() and not stored.save()
        assert stored.fault is not None and "No space left" in stored.fault
        assert settings(tiny_disk).camera("cam0").threshold == 0.25  # the old file is complete
        filler.unlink()
        assert stored.save() and stored.fault is None
    assert [record.levelname for record in caplog.records] == ["ERROR", "WARNING"]
    assert settings(tiny_disk).camera("cam0").threshold == 0.75
    assert not list(tiny_disk.glob(".*.part"))


def test_read_only_folder_is_a_fault(tmp_path: Path) -> None:
    if os.geteuid() == 0:
        (tmp_path / "file").touch()
        stored = StoredSettings(tmp_path / "file" / "settings.json")  # a file where the folder should be
    else:
        tmp_path.chmod(0o500)
        stored = settings(tmp_path)
    assert not stored.save() and stored.fault is not None


def test_nothing_is_written_after_closing(tmp_path: Path) -> None:
    stored = settings(tmp_path)
    stored.close()
    assert not stored.save()
    assert not stored.path.exists()


def test_closing_does_not_wait_for_a_write_that_hangs(tmp_path: Path) -> None:
    stored = settings(tmp_path)
    os.mkfifo(tmp_path / ".settings.json.part")  # opening it for writing hangs until it is opened for reading
    writer = threading.Thread(target=stored.save, daemon=True)
    writer.start()
    wait_until(stored._lock.locked)
    started_s = time.monotonic()
    stored.close()
    assert time.monotonic() - started_s < 20
    assert writer.is_alive()
    reader = os.open(tmp_path / ".settings.json.part", os.O_RDONLY | os.O_NONBLOCK)
    writer.join(60)
    os.close(reader)
    assert not writer.is_alive()


def remove_folder(path: Path) -> None:
    shutil.rmtree(path.parent)


def replace_by_older_file(path: Path) -> None:
    (path.parent / "older").write_text(json.dumps(VALID))
    (path.parent / "older").rename(path)


def damage_in_place(path: Path) -> None:
    path.write_bytes(b"\0" * path.stat().st_size)


@pytest.mark.parametrize("change", [remove_folder, replace_by_older_file, damage_in_place])
def test_file_that_another_program_changed_is_written_again_and_this_is_logged_once(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, change: Callable[[Path], None]
) -> None:
    stored = settings(tmp_path / "state")
    stored.check()
    assert not stored.path.exists()
    stored.set_camera("cam0", CameraSettings(threshold=0.25))
    assert stored.save()
    for path in (stored.path, stored.path):
        stored.check()
        assert not caplog.records
        change(path)
        stored.check()
        assert settings(path.parent).camera("cam0").threshold == 0.25
        assert [record.levelname for record in caplog.records] == ["ERROR"]
        assert stored.fault is None
        caplog.clear()


def test_file_that_cannot_be_written_again_is_a_fault_until_it_is(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    stored = settings(tmp_path / "state")
    stored.set_camera("cam0", CameraSettings(threshold=0.25))
    assert stored.save()
    shutil.rmtree(stored.path.parent)
    stored.path.parent.touch()
    for _ in range(3):
        stored.check()
        assert stored.fault is not None and "File exists" in stored.fault
    stored.path.parent.unlink()
    stored.check()
    assert stored.fault is None and settings(stored.path.parent).camera("cam0").threshold == 0.25
    assert [record.levelname for record in caplog.records] == ["ERROR", "ERROR", "WARNING"]


def test_renaming_a_damaged_file_is_not_reported_as_a_change(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / "settings.json").write_text("{")
    stored = settings(tmp_path)
    caplog.clear()
    stored.check()
    assert not caplog.records and not stored.path.exists()
