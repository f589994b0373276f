"""Which files of a watched folder are read, when, and where they are moved."""

import errno
import os
from collections.abc import Callable
from functools import partial
from pathlib import Path

import cv2
import numpy as np
import pytest
from watched_folder_tools import level, names, write_picture

from zsad_agent.config import SourceConfig
from zsad_agent.sources import LOOK_EVERY_S, DamagedPicture, FolderDropSource, ReceiptError, make_source
from zsad_agent.sources import watched_folder as folder_drop
from zsad_core.errors import ConfigError, ImageError, SourceError
from zsad_core.types import Verdict


class Clock:
    def __init__(self) -> None:
        self.now_s = 0.0

    def __call__(self) -> float:
        return self.now_s


class Drop:
    """A watched folder; each `look` lists it again after the source's pause."""

    def __init__(self, folder: Path, grace_s: float = 5.0) -> None:
        self.folder = folder
        self.clock = Clock()
        self.source = FolderDropSource(folder, stale_after_s=30.0, grace_s=grace_s, clock=self.clock)
        self.receipt: Callable[[], None] = lambda: None  # of the latest picture, with the verdict ok
        self.source.__enter__()

    def look(self) -> np.ndarray | None:
        self.clock.now_s += 1.01 * LOOK_EVERY_S
        try:
            picture = self.source.read()
        except DamagedPicture as error:
            assert error.receipt is not None
            self.receipt = partial(error.receipt, Verdict.UNKNOWN)
            raise
        if picture is None:
            return None
        assert picture.receipt is not None
        self.receipt = partial(picture.receipt, Verdict.OK)
        return picture.image

    def put(self, name: str, level: int = 90, mtime: float | None = None) -> Path:
        path = write_picture(self.folder / name, level)
        if mtime is not None:
            os.utime(path, (mtime, mtime))
        return path


@pytest.fixture
def drop(tmp_path: Path) -> Drop:
    return Drop(tmp_path)


def test_picture_is_read_at_the_second_listing_and_moved_when_its_result_is_stored(drop: Drop) -> None:
    drop.put("a.png", 30)
    assert drop.look() is None
    assert level(drop.look()) == 30
    assert names(drop.folder) == ["a.png"]
    drop.receipt()
    assert names(drop.folder) == ["inspected"]
    assert names(drop.folder / "inspected") == ["a.png"]
    assert drop.look() is None


def test_two_reads_between_two_listings_list_the_folder_once(drop: Drop) -> None:
    drop.put("a.png")
    assert drop.look() is None
    assert drop.source.read() is None


def test_pictures_are_read_in_order_of_arrival_then_name(drop: Drop) -> None:
    drop.put("c.png", 10, mtime=100)
    drop.put("b.png", 30, mtime=200)
    drop.put("a.png", 20, mtime=200)
    drop.look()
    assert [level(drop.look()) for _ in range(4)] == [10, 20, 30, None]


def test_picture_without_a_stored_result_is_read_again_only_by_the_next_process(drop: Drop) -> None:
    drop.put("a.png", 30)
    drop.look()
    assert level(drop.look()) == 30
    assert [drop.look() for _ in range(5)] == [None] * 5
    restarted = Drop(drop.folder)
    restarted.look()
    assert level(restarted.look()) == 30


def test_growing_file_is_not_read_yet(drop: Drop) -> None:
    whole = write_picture(drop.folder / "whole.bmp", 30).read_bytes()
    (drop.folder / "whole.bmp").unlink()
    path = drop.folder / "a.bmp"
    for end in (100, 200, 300):
        path.write_bytes(whole[:end])
        assert drop.look() is None
    path.write_bytes(whole)
    assert drop.look() is None
    assert level(drop.look()) == 30


@pytest.mark.parametrize("suffix", [".png", ".jpg", ".bmp", ".tif"])
def test_incomplete_picture_is_not_read_while_its_writer_pauses(drop: Drop, suffix: str) -> None:
    image = np.random.default_rng(0).integers(0, 255, (60, 60, 3), np.uint8)
    cv2.imwrite(str(drop.folder / f"a{suffix}"), image)
    whole = (drop.folder / f"a{suffix}").read_bytes()
    (drop.folder / f"a{suffix}").write_bytes(whole[: len(whole) // 2])
    assert [drop.look() for _ in range(5)] == [None] * 5
    (drop.folder / f"a{suffix}").write_bytes(whole)
    drop.look()
    assert drop.look() is not None


def test_picture_that_never_decodes_is_an_error_after_the_grace_time_and_set_aside(drop: Drop) -> None:
    (drop.folder / "bad.jpg").write_bytes(b"\xff\xd8 not really")
    looks = 0
    with pytest.raises(ImageError, match=r"bad\.jpg: the JPEG is truncated"):
        while looks < 100:
            assert drop.look() is None
            looks += 1
    assert 5.0 <= looks * LOOK_EVERY_S < 6.0
    drop.receipt()
    assert names(drop.folder) == ["unreadable"] and names(drop.folder / "unreadable") == ["bad.jpg"]
    assert drop.look() is None


def test_bad_picture_does_not_delay_good_ones(drop: Drop) -> None:
    (drop.folder / "a.jpg").write_bytes(b"")
    drop.put("b.png", 30)
    drop.look()
    assert level(drop.look()) == 30


@pytest.mark.parametrize("name", [".hidden.png", "a.png.part", "a.png.tmp", "a.png~"])
def test_unfinished_pictures_are_not_touched(drop: Drop, name: str) -> None:
    written = drop.put("picture.png").rename(drop.folder / name)
    assert [drop.look() for _ in range(3)] == [None] * 3
    written.rename(drop.folder / "done.png")
    drop.look()
    assert drop.look() is not None


def test_picture_is_recognised_by_its_content_and_other_files_are_reported_once(
    drop: Drop, caplog: pytest.LogCaptureFixture
) -> None:
    drop.put("a.png", 30).rename(drop.folder / "a")
    for name in ("notes.txt", "more.txt", "empty"):
        (drop.folder / name).write_text("two\n" if name != "empty" else "")
    drop.look()
    assert level(drop.look()) == 30
    assert [drop.look() for _ in range(60)] == [None] * 60
    said = [record.getMessage().split(" is not")[0] for record in caplog.records]
    assert sorted(Path(path).suffix for path in said) == ["", ".txt"]


class SlowWriter:
    """A program that reserves the space of a picture, then writes it in parts."""

    def __init__(self, folder: Path, name: str) -> None:
        uncompressed = [cv2.IMWRITE_TIFF_COMPRESSION, 1] if name.endswith("tif") else []
        assert cv2.imwrite(str(folder / f".{name}"), NOISE, uncompressed)
        self.whole = (folder / f".{name}").read_bytes()
        (folder / f".{name}").unlink()
        self.path = folder / name
        self.file = self.path.open("wb", buffering=0)
        self.file.truncate(len(self.whole))
        self.to(0.4)

    def to(self, share: float) -> None:
        self.file.write(self.whole[self.file.tell() : int(share * len(self.whole))])


NOISE = np.random.default_rng(0).integers(0, 255, (60, 60, 3), np.uint8)


@pytest.fixture
def share(monkeypatch: pytest.MonkeyPatch) -> None:
    """The folder is on another machine: the kernel reports nothing."""
    monkeypatch.setattr(folder_drop.WriteEvents, "update", lambda self, folder: None)


@pytest.mark.parametrize("name", ["a.bmp", "a.tif", "a.ppm"])
def test_picture_of_reserved_size_waits_for_its_writer_to_close_it(drop: Drop, name: str) -> None:
    writer = SlowWriter(drop.folder, name)
    for part in (0.5, 0.7, 1.0):
        assert [drop.look() for _ in range(100)] == [None] * 100  # 20 s
        writer.to(part)
    assert [drop.look() for _ in range(20)] == [None] * 20
    writer.file.close()
    np.testing.assert_array_equal(drop.look(), NOISE)


def test_picture_whose_writer_stops_in_the_middle_is_unknown_and_inspected_when_it_is_complete(drop: Drop) -> None:
    writer, looks = SlowWriter(drop.folder, "a.bmp"), 0
    with pytest.raises(DamagedPicture, match=r"a\.bmp: the program that writes it has it open"):
        while looks < 1000:
            assert drop.look() is None
            looks += 1
    assert 29.0 <= looks * LOOK_EVERY_S < 31.0
    drop.receipt()
    assert names(drop.folder / "unreadable") == ["a.bmp"]
    writer.to(1.0)
    writer.file.close()
    images = [drop.look() for _ in range(60)]
    assert [image is not None for image in images].count(True) == 1
    np.testing.assert_array_equal(next(image for image in images if image is not None), NOISE)
    drop.receipt()
    assert names(drop.folder / "inspected") == ["a.bmp"]


def test_complete_jpeg_that_its_writer_never_closes_is_inspected(drop: Drop) -> None:
    writer = SlowWriter(drop.folder, "a.jpg")
    writer.to(1.0)
    assert any(drop.look() is not None for _ in range(160))


@pytest.mark.usefixtures("share")
def test_picture_on_a_share_is_inspected_when_its_content_no_longer_changes(drop: Drop) -> None:
    writer = SlowWriter(drop.folder, "a.bmp")
    found = writer.path.stat()
    for part in (0.5, 0.7):
        assert [drop.look() for _ in range(100)] == [None] * 100
        writer.to(part)
        os.utime(writer.path, ns=(found.st_mtime_ns, found.st_mtime_ns))  # the server shows the old time
    assert [drop.look() for _ in range(50)] == [None] * 50
    writer.to(1.0)
    looks = [drop.look() is not None for _ in range(60)]
    assert looks.count(True) == 1 and 5.0 <= looks.index(True) * LOOK_EVERY_S < 6.0


@pytest.mark.usefixtures("share")
def test_incomplete_picture_on_a_share_is_unknown_and_inspected_once_it_is_complete(drop: Drop) -> None:
    writer, looks = SlowWriter(drop.folder, "a.bmp"), 0
    with pytest.raises(DamagedPicture, match=r"a\.bmp: the BMP is damaged: its last rows are empty"):
        while looks < 1000:
            assert drop.look() is None
            looks += 1
    assert looks * LOOK_EVERY_S > 29.0
    drop.receipt()
    writer.to(0.9)
    while names(drop.folder / "unreadable"):
        assert drop.look() is None
    writer.to(1.0)
    writer.file.close()
    images = [image for _ in range(100) if (image := drop.look()) is not None]
    assert len(images) == 1
    np.testing.assert_array_equal(images[0], NOISE)


@pytest.mark.usefixtures("share")
def test_format_with_an_end_marker_is_inspected_at_once_on_a_share(drop: Drop) -> None:
    drop.put("a.png", 30)
    drop.look()
    assert level(drop.look()) == 30


def test_picture_that_changes_is_inspected_again_before_and_after_its_move(drop: Drop) -> None:
    path = drop.put("a.png", 10)
    drop.look()
    assert level(drop.look()) == 10
    drop.put("a.png", 20)
    drop.receipt()  # of the first
    drop.look()
    assert level(drop.look()) == 20
    drop.receipt()
    assert names(drop.folder / "inspected") == ["a.png"]
    drop.put("a.png", 30)
    (drop.folder / "inspected" / "a.png").write_bytes(path.read_bytes())
    shades = [level(image) for _ in range(60) if (image := drop.look()) is not None]
    assert shades == [30, 30]
    assert len(names(drop.folder)) == 2 + len(["inspected"])


def test_picture_that_is_overwritten_before_it_is_read_is_read_completely(drop: Drop) -> None:
    for name in ("a.bmp", "b.bmp"):
        drop.put(name, 10, mtime=100)
    drop.look()
    assert level(drop.look()) == 10
    with (drop.folder / "b.bmp").open("r+b", buffering=0) as file:
        file.write((drop.folder / "a.bmp").read_bytes()[:60])
        os.utime(file.fileno(), (100, 100))
        assert [drop.look() for _ in range(20)] == [None] * 20
    assert level(drop.look()) == 10


def test_files_that_are_not_ready_do_not_block_the_reader(tmp_path: Path) -> None:
    class SlowDisk(Clock):
        def __call__(self) -> float:
            self.now_s += 0.03
            return self.now_s

    for number in range(20):
        write_picture(tmp_path / f"{number}.bmp", 10)
    source = FolderDropSource(tmp_path, stale_after_s=30.0, clock=SlowDisk())
    with source:
        while not source._ready:
            assert source.read() is None
        left = len(source._ready)
        assert 10 < left < 20
        assert source.read() is None and len(source._ready) < left


def test_without_events_a_file_is_read_after_a_time_without_changes(drop: Drop) -> None:
    drop.put("a.bmp", 10)
    for number in range(20_000):  # more than the kernel keeps
        (drop.folder / f".{number % 10}").touch()
        (drop.folder / f".{number % 10}").unlink()
    looks = [drop.look() is not None for _ in range(60)]
    assert looks.count(True) == 1 and 4.9 <= looks.index(True) * LOOK_EVERY_S < 6.0


def test_folders_and_pipes_with_picture_names_are_ignored(drop: Drop) -> None:
    (drop.folder / "folder.png").mkdir()
    os.mkfifo(drop.folder / "pipe.png")
    assert [drop.look() for _ in range(3)] == [None] * 3


def test_second_picture_with_the_same_name_is_moved_under_another_name(drop: Drop) -> None:
    for count, shade in enumerate((10, 20, 30)):
        drop.put("a.png", shade, mtime=100)  # the same second too
        drop.look()
        assert level(drop.look()) == shade
        drop.receipt()
        assert len(names(drop.folder / "inspected")) == count + 1
    kept = sorted(level(cv2.imread(str(path))) or 0 for path in (drop.folder / "inspected").iterdir())
    assert kept == [10, 20, 30]


def test_long_name_is_shortened_when_it_is_moved(drop: Drop) -> None:
    name = "ä" * 125 + ".png"  # 254 bytes
    for _ in range(2):
        drop.put(name)
        drop.look()
        assert drop.look() is not None
        drop.receipt()
    moved = names(drop.folder / "inspected")
    assert len(moved) == 2 and all(len(os.fsencode(one)) <= 255 for one in moved)


def test_picture_that_replaces_one_during_its_inspection_is_also_inspected(drop: Drop) -> None:
    drop.put("a.png", 10)
    drop.look()
    assert level(drop.look()) == 10
    receipt = drop.receipt
    write_picture(drop.folder / "new.png", 20).replace(drop.folder / "a.png")
    receipt()
    assert names(drop.folder) == ["a.png"]
    drop.look()
    assert level(drop.look()) == 20


def test_picture_that_was_deleted_gives_no_result(drop: Drop) -> None:
    path = drop.put("a.png")
    drop.look()
    path.unlink()
    assert [drop.look() for _ in range(30)] == [None] * 30
    drop.put("b.png", 20)
    drop.look()
    assert level(drop.look()) == 20
    (drop.folder / "b.png").unlink()
    drop.receipt()  # another program has deleted it


def test_picture_that_cannot_be_moved_is_an_error_and_moved_at_a_later_call(drop: Drop) -> None:
    (drop.folder / "inspected").write_text("a file where the folder should be")
    drop.put("a.png", 10, mtime=100)
    drop.put("b.png", 20, mtime=200)
    drop.look()
    drop.look()
    first = drop.receipt
    with pytest.raises(ReceiptError, match=r"a\.png: its result is safe, but it cannot be moved to inspected/"):
        first()
    assert level(drop.look()) == 20
    (drop.folder / "inspected").unlink()
    drop.receipt()
    first()
    assert names(drop.folder / "inspected") == ["a.png", "b.png"]
    assert drop.look() is None


def test_error_of_a_read_only_folder_names_the_setting_of_the_unit(drop: Drop, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise OSError(errno.EROFS, "Read-only file system")

    drop.put("a.png")
    drop.look()
    drop.look()
    monkeypatch.setattr(os, "rename", refuse)
    with pytest.raises(SourceError, match="ReadWritePaths"):
        drop.receipt()


def test_broken_link_does_not_delay_pictures(drop: Drop) -> None:
    (drop.folder / "circle.png").symlink_to("circle.png")
    (drop.folder / "gone.png").symlink_to("nowhere.png")
    drop.put("b.png", 20)
    drop.look()
    assert level(drop.look()) == 20


def test_folder_may_be_created_after_the_start(tmp_path: Path) -> None:
    config = SourceConfig(source=str(tmp_path / "later"), trigger="folder")
    source = make_source(config, may_come_later=True)
    with pytest.raises(SourceError, match="cannot be listed"), source:
        pass
    (tmp_path / "later").mkdir()
    with source:
        assert source.read() is None
    (tmp_path / "file").touch()
    with pytest.raises(SourceError, match="no such folder to watch"):
        make_source(SourceConfig(source=str(tmp_path / "file"), trigger="folder"), may_come_later=True)


def test_folder_that_is_not_there_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(SourceError, match="nix: no such folder to watch"):
        make_source(SourceConfig(source=str(tmp_path / "nix"), trigger="folder"))
    with pytest.raises(ConfigError, match="needs the path of a folder"):
        make_source(SourceConfig(source="rtsp://host/x", trigger="folder"))
    with pytest.raises(SourceError, match="cannot be listed"), FolderDropSource(tmp_path / "nix", stale_after_s=5.0):
        pass


def test_link_instead_of_the_folder_inspected_is_not_followed(drop: Drop, tmp_path: Path) -> None:
    """Another user may write into the folder; that user must not be able to move files with the agent's rights."""
    elsewhere = tmp_path.with_name(tmp_path.name + "-elsewhere")
    elsewhere.mkdir()
    (drop.folder / "inspected").symlink_to(elsewhere)
    drop.put("a.png", 10)
    drop.look()
    drop.look()
    with pytest.raises(SourceError, match="cannot be moved to inspected/"):
        drop.receipt()
    assert names(elsewhere) == []
