import os
import struct
import zlib
from pathlib import Path

import cv2
import numpy as np
import pytest

from zsad_core.errors import ImageError
from zsad_core.picture import decode_image, find_images, read_image, read_mask, resize_map, resize_to_input, to_bgr8

ENCODINGS = [
    pytest.param(".jpg", [], id="jpeg"),
    pytest.param(".jpg", [cv2.IMWRITE_JPEG_PROGRESSIVE, 1], id="progressive-jpeg"),
    pytest.param(".jpg", [cv2.IMWRITE_JPEG_RST_INTERVAL, 4], id="jpeg-with-restarts"),
    pytest.param(".png", [], id="png"),
    pytest.param(".bmp", [], id="bmp"),
    pytest.param(".tiff", [cv2.IMWRITE_TIFF_COMPRESSION, 1], id="tiff"),
    pytest.param(".tiff", [cv2.IMWRITE_TIFF_COMPRESSION, 5], id="tiff-lzw"),
    pytest.param(".tiff", [cv2.IMWRITE_TIFF_COMPRESSION, 8], id="tiff-deflate"),
]


def picture(height: int = 120, width: int = 160) -> np.ndarray:
    noise = np.random.default_rng(0).integers(0, 255, (height, width, 3), dtype=np.uint8)
    return cv2.GaussianBlur(noise, (9, 9), 3)


def encode(suffix: str, options: list[int], image: np.ndarray | None = None) -> bytes:
    encoded, data = cv2.imencode(suffix, picture() if image is None else image, options)
    assert encoded
    return data.tobytes()


def with_thumbnail(jpeg: bytes, thumbnail: bytes) -> bytes:
    """A JPEG with a complete second JPEG in an APP1 segment, as cameras write it."""
    return jpeg[:2] + b"\xff\xe1" + struct.pack(">H", len(thumbnail) + 2) + thumbnail + jpeg[2:]


@pytest.mark.parametrize(("suffix", "options"), ENCODINGS)
def test_complete_file_is_read(tmp_path: Path, suffix: str, options: list[int]) -> None:
    (tmp_path / f"a{suffix}").write_bytes(encode(suffix, options))
    assert read_image(tmp_path / f"a{suffix}").shape == (120, 160, 3)


@pytest.mark.parametrize("share", [0.02, 0.3, 0.6, 0.95, 0.999])
@pytest.mark.parametrize(("suffix", "options"), ENCODINGS)
def test_truncated_file_is_refused(tmp_path: Path, suffix: str, options: list[int], share: float) -> None:
    whole = encode(suffix, options)
    (tmp_path / f"a{suffix}").write_bytes(whole[: min(len(whole) - 1, int(len(whole) * share))])
    with pytest.raises(ImageError, match=r"truncated|not an image|cannot be decoded"):
        read_image(tmp_path / f"a{suffix}")


def test_end_marker_of_a_thumbnail_does_not_hide_a_truncated_jpeg(tmp_path: Path) -> None:
    thumbnail = encode(".jpg", [], picture(24, 32))
    jpeg = with_thumbnail(encode(".jpg", []), thumbnail)
    (tmp_path / "whole.jpg").write_bytes(jpeg)
    (tmp_path / "cut.jpg").write_bytes(jpeg[: len(thumbnail) + 2500])
    assert read_image(tmp_path / "whole.jpg").shape == (120, 160, 3)
    with pytest.raises(ImageError, match="truncated"):
        read_image(tmp_path / "cut.jpg")


@pytest.mark.parametrize("suffix", [".jpg", ".png"])
def test_data_after_the_image_is_accepted(tmp_path: Path, suffix: str) -> None:
    (tmp_path / f"a{suffix}").write_bytes(encode(suffix, []) + bytes(10_000))
    assert read_image(tmp_path / f"a{suffix}").shape == (120, 160, 3)


@pytest.mark.parametrize("content", [b"", b"\xff\xd8", b"\x89PNG\r\n\x1a\n", b"BM", b"hello", b"\xff" * 5000])
def test_garbage_is_refused_with_the_file_named(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "a.jpg").write_bytes(content)
    with pytest.raises(ImageError, match=r"a\.jpg: "):
        read_image(tmp_path / "a.jpg")


def test_missing_file_and_folder_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ImageError, match="No such file"):
        read_image(tmp_path / "nix.png")
    with pytest.raises(ImageError, match="cannot be read"):
        read_image(tmp_path)


def test_png_that_claims_a_huge_size_is_refused(tmp_path: Path) -> None:
    def chunk(kind: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    header = chunk(b"IHDR", struct.pack(">IIBBBBB", 60_000, 60_000, 8, 2, 0, 0, 0))
    png = b"\x89PNG\r\n\x1a\n" + header + chunk(b"IDAT", zlib.compress(bytes(1000))) + chunk(b"IEND", b"")
    (tmp_path / "bomb.png").write_bytes(png)
    with pytest.raises(ImageError, match=r"bomb\.png"):
        read_image(tmp_path / "bomb.png")


def test_png_whose_last_chunk_states_gigabytes_is_truncated() -> None:
    png = cv2.imencode(".png", np.full((8, 8, 3), 90, np.uint8))[1]
    png[-12:-8] = (0x7F, 0xFF, 0xFF, 0xFF)  # OpenCV takes this much memory
    with pytest.raises(ImageError, match="the PNG is truncated"):
        decode_image(png, "part")


def test_sixteen_bits_keep_their_brightness(tmp_path: Path) -> None:
    dim = np.full((20, 30), 257 * 40, np.uint16)  # scaling to the image's maximum would make this white
    cv2.imwrite(str(tmp_path / "dim.png"), dim)
    assert (read_image(tmp_path / "dim.png") == 40).all()


def test_grey_and_alpha_become_bgr(tmp_path: Path) -> None:
    cv2.imwrite(str(tmp_path / "grey.png"), np.full((20, 30), 7, np.uint8))
    cv2.imwrite(str(tmp_path / "alpha.png"), np.full((20, 30, 4), (1, 2, 3, 0), np.uint8))
    assert (read_image(tmp_path / "grey.png") == 7).all()
    assert (read_image(tmp_path / "alpha.png") == (1, 2, 3)).all()


@pytest.mark.parametrize("shape", [(0, 5, 3), (5, 5, 2), (5, 5, 5), (5,), (1, 2, 3, 3)])
def test_arrays_of_other_shapes_are_refused(shape: tuple[int, ...]) -> None:
    with pytest.raises(ImageError, match="expected an image"):
        to_bgr8(np.zeros(shape, np.uint8))


def test_floats_are_refused() -> None:
    with pytest.raises(ImageError, match="float32"):
        to_bgr8(np.zeros((5, 5, 3), np.float32))


def test_mask_is_one_except_where_black(tmp_path: Path) -> None:
    mask = np.zeros((5, 6), np.uint8)
    mask[2, 3] = 1
    cv2.imwrite(str(tmp_path / "mask.png"), mask)
    assert read_mask(tmp_path / "mask.png").sum() == 1


@pytest.mark.parametrize("value", [1, 200, 255, 256, 257, 65_535])
def test_mask_of_16_bits_is_one_except_where_black(tmp_path: Path, value: int) -> None:
    mask = np.zeros((5, 6), np.uint16)
    mask[2, 3] = value
    cv2.imwrite(str(tmp_path / "mask.png"), mask)
    assert read_mask(tmp_path / "mask.png").tolist() == (mask > 0).astype(int).tolist()


def test_a_jpeg_mask_is_one_above_127(tmp_path):
    mask = np.zeros((32, 32), np.uint8)
    mask[5:20, 7:23] = 255  # not at the edges of JPEG's blocks, so compression leaves marks beside it
    cv2.imwrite(str(tmp_path / "mask.jpg"), mask, [cv2.IMWRITE_JPEG_QUALITY, 75])
    assert (read_image(tmp_path / "mask.jpg")[..., 0] > 0).sum() > mask.astype(bool).sum()
    np.testing.assert_array_equal(read_mask(tmp_path / "mask.jpg"), mask > 0)


def test_images_are_found_by_name_without_hidden_ones(tmp_path: Path) -> None:
    for name in ("b/x.png", "a.JPG", "b/.hidden.png", ".git/y.png", "notes.txt"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    assert [path.relative_to(tmp_path).as_posix() for path in find_images(tmp_path)] == ["a.JPG", "b/x.png"]


def test_thin_scratch_survives_the_resize() -> None:
    large = np.zeros((1000, 1000, 3), np.uint8)
    large[:, 501] = 255  # one column, which bilinear sampling at a tenth of the size would miss
    assert resize_to_input(large, (100, 100)).max() > 20


@pytest.mark.parametrize("hw", [(512, 1024), (720, 1280), (1080, 1920), (721, 1281), (2048, 2448)])
def test_halving_first_gives_nearly_the_same_average(hw: tuple[int, int]) -> None:
    height, width = hw
    large = cv2.resize(picture(width // 8, height // 8), (width, height), interpolation=cv2.INTER_CUBIC)
    found = resize_to_input(large, (128, 128)).astype(int)
    at_once = cv2.resize(large, (128, 128), interpolation=cv2.INTER_AREA).astype(int)
    assert np.abs(found - at_once).mean() < 1.5  # levels
    buffer = np.empty((128, 128, 3), np.uint8)
    assert resize_to_input(large, (128, 128), out=buffer) is buffer
    assert np.array_equal(buffer, found)
    large[:] = 0
    large[:, -1] = 255  # the last column of an odd width must count too
    assert resize_to_input(large, (128, 128))[:, -1].min() > 0


def test_image_of_input_size_is_unchanged() -> None:
    image = picture(64, 64)
    assert np.array_equal(resize_to_input(image, (64, 64)), image)


@pytest.mark.parametrize("hw", [(1, 1), (1, 500), (3000, 2)])
def test_any_size_is_scaled_to_the_input_size(hw: tuple[int, int]) -> None:
    assert resize_to_input(np.zeros((*hw, 3), np.uint8), (64, 96)).shape == (64, 96, 3)


def test_map_covers_the_whole_image() -> None:
    assert resize_map(np.ones((4, 4), np.float32), (30, 20)).shape == (20, 30)


def animation(suffix: str) -> bytes:
    frames = cv2.Animation()
    frames.frames = [picture(40, 50), picture(40, 50)[::-1].copy()]
    frames.durations = [100, 100]
    encoded, data = cv2.imencodeanimation(suffix, frames)
    assert encoded
    return data.tobytes()


@pytest.mark.parametrize("suffix", [".png", ".gif"])
def test_animation_is_refused_because_only_its_first_image_would_be_read(tmp_path: Path, suffix: str) -> None:
    (tmp_path / f"a{suffix}").write_bytes(animation(suffix))
    with pytest.raises(ImageError, match=r"only the first (image )?would be read"):
        read_image(tmp_path / f"a{suffix}")


def test_tiff_with_several_pages_is_refused(tmp_path: Path) -> None:
    assert cv2.imwritemulti(str(tmp_path / "a.tif"), [picture(), picture()])
    with pytest.raises(ImageError, match="holds more than one image"):
        read_image(tmp_path / "a.tif")


def test_named_pipe_is_refused_without_waiting(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "a.png")
    with pytest.raises(ImageError, match=r"a\.png: not a regular file"):
        read_image(tmp_path / "a.png")


def test_name_with_a_null_byte_is_an_image_error() -> None:
    with pytest.raises(ImageError, match="cannot be read: embedded null byte"):
        read_image(Path("a\0.png"))


def test_too_large_file_is_refused_unread(tmp_path: Path) -> None:
    with (tmp_path / "a.png").open("wb") as file:
        file.truncate(200_000_000_000)  # a sparse file, which takes no space on disk
    with pytest.raises(ImageError, match=r"200000000000 bytes, at most 1000000000"):
        read_image(tmp_path / "a.png")


def test_broken_links_are_found_and_refused(tmp_path: Path) -> None:
    (tmp_path / "gone.png").symlink_to("nowhere.png")
    (tmp_path / "loop.png").symlink_to("loop.png")
    (tmp_path / "folder.png").mkdir()
    (tmp_path / "down").symlink_to("..")
    found = find_images(tmp_path)
    assert [path.name for path in found] == ["gone.png", "loop.png"]
    for path in found:
        with pytest.raises(ImageError, match="cannot be read"):
            read_image(path)


def test_folder_that_cannot_be_listed_is_not_skipped(tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(encode(".png", []))
    (tmp_path / "locked").mkdir(0o000)
    if os.access(tmp_path / "locked", os.R_OK):
        pytest.skip("this user may read everything")
    assert [path.name for path in find_images(tmp_path)] == ["a.png", "locked"]
    with pytest.raises(ImageError, match="cannot be read"):
        read_image(tmp_path / "locked")
