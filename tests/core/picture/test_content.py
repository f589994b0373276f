import os
from pathlib import Path

import numpy as np
import pytest
from cracked_parts import NOT_READ, encodings, saved
from PIL import Image

from zsad_core.errors import ImageError
from zsad_core.picture import HEAD_BYTES, READ_FORMATS, find_files, format_of, is_picture, is_temporary, read_image

PICTURE = Image.new("RGB", (40, 30), (200, 30, 90))


@pytest.mark.parametrize("name", ["a", "a.dat", "a.jfif", "a.mp4", "a.txt"])
def test_picture_is_known_by_its_content_whatever_its_name(tmp_path: Path, name: str) -> None:
    for kind, data in encodings(PICTURE).items():
        (tmp_path / name).write_bytes(data)
        assert find_files(tmp_path) == ([tmp_path / name], [])
        if kind in NOT_READ:
            with pytest.raises(ImageError, match=f"{name}: .* is not read: save it as"):
                read_image(tmp_path / name)
        else:
            assert format_of(data[:HEAD_BYTES]) in READ_FORMATS, kind
            assert read_image(tmp_path / name).shape == (30, 40, 3)


@pytest.mark.parametrize(
    ("name", "head"),
    [
        ("AVIF", b"\0\0\0\x1cftypavif\0\0\0\0avifmif1"),
        ("JPEG 2000", b"\xff\x4f\xff\x51\0\x2f"),
        ("WebP", b"RIFF\x24\0\0\0WEBPVP8L"),
        ("HEIC", b"\0\0\0\x18ftypheic\0\0\0\0mif1heic"),
        ("HEIC", b"\0\0\0\x18ftypmif1\0\0\0\0mif1heic"),
        ("JPEG XL", b"\xff\x0a\xfa\x1f"),
        ("JPEG XL", b"\0\0\0\x0cJXL \r\n\x87\n"),
        ("camera raw", b"IIRO\x08\0\0\0"),
        ("DICOM", bytes(128) + b"DICM"),
        ("FITS", b"SIMPLE  =                    T"),
        ("OpenEXR", b"\x76\x2f\x31\x01\x02\0\0\0"),
        ("PFM", b"PF\n640 480\n-1.0\n"),
        ("PAM", b"P7\nWIDTH 3\n"),
        ("Photoshop", b"8BPS\0\x01"),
        ("Radiance HDR", b"#?RADIANCE\n"),
        ("DDS", b"DDS |\0\0\0"),
    ],
)
def test_picture_of_a_format_that_is_not_read_is_named(tmp_path: Path, name: str, head: bytes) -> None:
    (tmp_path / "part").write_bytes(head + bytes(500))
    assert format_of(head) == name
    assert find_files(tmp_path).pictures == [tmp_path / "part"]
    with pytest.raises(ImageError, match=f"part: {name} is not read: save it as PNG, TIFF or JPEG"):
        read_image(tmp_path / "part")


@pytest.mark.parametrize(
    "content",
    [b"", b"BMW, 3 parts, line 2\n", b"P5 is the fifth part\n", b"II. second shift\n", b"\x93NUMPY\x01\0", b"GIF files",
     b"\0\0\0\x20ftypisom\0\0\x02\0isomiso2avc1mp41", b"RIFF\0\0\0\0AVI LIST", b"\x1aE\xdf\xa3\x01", b"%PDF-1.7\n",
     b"PK\x03\x04", "Prüfbericht".encode("utf-16")],
)  # fmt: skip
def test_other_files_are_not_pictures_unless_their_name_says_so(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "notes").write_bytes(content)
    (tmp_path / "b.JPeG").write_bytes(content)
    assert find_files(tmp_path) == ([tmp_path / "b.JPeG"], [tmp_path / "notes"])


def test_temporary_names_of_writers_are_left_out(tmp_path: Path) -> None:
    jpeg = saved(PICTURE, "JPEG")
    names = ["a.jpg.part", "a.jpg.tmp", "a.PARTIAL", "a.crdownload", "a.filepart", "a.jpg~"]
    for name in [*names, ".a.jpg", "a.jpg"]:
        (tmp_path / name).write_bytes(jpeg)
    assert find_files(tmp_path) == ([tmp_path / "a.jpg"], sorted(tmp_path / name for name in names))
    assert is_temporary(".a.jpg") and not is_temporary("part.jpg")
    assert is_picture("a.jpg.part", jpeg)  # by its content, where a user names it


def test_skipped_files_are_told_in_one_line(tmp_path: Path) -> None:
    assert find_files(tmp_path).note == ""
    (tmp_path / "a.txt").touch()
    assert find_files(tmp_path).note == f"1 file is not a picture and is skipped: {tmp_path}/a.txt"
    (tmp_path / "b.npy").touch()
    assert find_files(tmp_path).note == f"2 files are not pictures and are skipped, for example {tmp_path}/a.txt"


def test_file_that_cannot_be_opened_may_be_a_picture(tmp_path: Path) -> None:
    np.save(tmp_path / "locked", np.zeros(3))
    (tmp_path / "locked.npy").chmod(0)
    os.mkfifo(tmp_path / "pipe.png")
    if os.access(tmp_path / "locked.npy", os.R_OK):
        pytest.skip("this user may read everything")
    assert find_files(tmp_path) == ([tmp_path / "locked.npy"], [tmp_path / "pipe.png"])
