"""A picture that a wrong header turned into torn rows, noise or repeated strips is refused, and no other one."""

import io
import struct
from collections.abc import Iterator

import cv2
import numpy as np
import pytest
from cracked_parts import CRACKED, saved, tiff, with_tables
from PIL import Image, JpegPresets

from zsad_core.errors import ImageError
from zsad_core.picture import decode_image

RGB = np.asarray(Image.open(CRACKED).convert("RGB"))
GREY = cv2.cvtColor(RGB, cv2.COLOR_RGB2GRAY)
DEEP = GREY.astype(np.uint16) * 256 + np.random.default_rng(0).integers(0, 256, GREY.shape).astype(np.uint16)
HEIGHT, WIDTH = GREY.shape


def read(data: bytes) -> np.ndarray:
    return decode_image(np.frombuffer(data, np.uint8), "a", strict=True)


def drawings(height: int, width: int) -> Iterator[tuple[str, np.ndarray]]:
    """(name, uint8 [height, width]) of honest pictures that look torn or misread at first sight."""
    rng, (y, x) = np.random.default_rng(0), np.mgrid[:height, :width]
    noise = rng.normal(0, 3, (height, width))
    text = np.full((height, width), 40, np.uint8)
    cv2.putText(text, "abc 123", (2, height // 2), cv2.FONT_HERSHEY_SIMPLEX, height / 120, 255)
    yield "line of text", text
    page = np.full((height, width), 235, np.uint8)
    for bottom in range(10, height, 14):
        cv2.putText(page, f"SN {bottom * 4711} Lot A7 " * 9, (3, bottom), cv2.FONT_HERSHEY_SIMPLEX, 0.4, 20)
    yield "page of text", page
    lines = np.full((height, width), 40, np.uint8)
    for top in range(0, height, 9):
        cv2.line(lines, (0, top), (width, top + width // 8), 180)
    yield "lines", lines
    yield "noise", rng.integers(0, 256, (height, width)).astype(np.uint8)
    for period in (2, 4, 8):
        for name, pattern in (("squares", x // period + y // period), ("bars", x // period), ("rows", y // period)):
            yield f"{name} of {period}", (pattern % 2 * 200 + 20).astype(np.uint8)
    yield "gradient across", (x * 255 // (width - 1)).astype(np.uint8)
    yield "gradient down", (y * 255 // (height - 1)).astype(np.uint8)
    for angle, period in ((0.02, 7), (0.43, 23.5), (1.91, 4), (2.0, 18.4)):
        across, down = x * np.cos(angle) + y * np.sin(angle), y * np.cos(angle) - x * np.sin(angle)
        weave = np.sin(2 * np.pi * across / period) * np.sign(np.sin(np.pi * down / period))
        holes = np.hypot(across % period - period / 2, down % period - period / 2) < period / 3
        for name, pattern in (("fabric", 110 + 50 * weave), ("sheet with holes", 180 - 140 * holes)):
            yield f"{name}, {angle}", np.clip(pattern + noise, 0, 255).astype(np.uint8)


@pytest.mark.parametrize(
    ("height", "width"),
    [(24, 32), (96, 128), (240, 320), (320, 320), pytest.param(600, 800, marks=pytest.mark.chaos)],
)
def test_drawings_and_patterns_are_read(height: int, width: int) -> None:
    refused = []
    for name, drawing in drawings(height, width):
        picture = Image.fromarray(drawing)
        for kind, more in (
            ("PNG", {}), ("JPEG", {}), ("GIF", {"interlace": 0}), ("GIF", {"interlace": 1}), ("BMP", {}), ("PPM", {}),
            ("TIFF", {}), ("TIFF", {"compression": "tiff_adobe_deflate"}), ("TIFF", {"compression": "tiff_lzw"}),
        ):  # fmt: skip
            try:
                read(saved(picture, kind, **more))
            except ImageError as error:
                refused.append((name, kind, more, str(error)))
    assert refused == []


def test_exchanged_sides_of_a_large_picture_are_refused() -> None:
    large = cv2.resize(RGB, (3 * WIDTH, 4 * HEIGHT))
    assert read(tiff(large)).shape == large.shape
    with pytest.raises(ImageError, match="wrong width"):
        read(tiff(large.reshape(3 * WIDTH, 4 * HEIGHT, 3)))


@pytest.mark.parametrize("values", [GREY, RGB, DEEP], ids=["8 bits", "colour", "16 bits"])
@pytest.mark.parametrize("width", [HEIGHT if HEIGHT != WIDTH else 1280, 120, 240, 320, 400, 512, 960, 1280, 1920])
def test_width_that_fits_the_data_is_refused_unless_it_is_right(values: np.ndarray, width: int) -> None:
    torn = values.reshape(-1, width, *values.shape[2:])
    for data in (tiff(torn), tiff(torn, compression="adobe_deflate")):
        with pytest.raises(ImageError, match="wrong width"):
            read(data)
    assert read(tiff(values)).shape == (HEIGHT, WIDTH, 3)


@pytest.mark.parametrize("values", [GREY, RGB, DEEP], ids=["8 bits", "colour", "16 bits"])
@pytest.mark.parametrize("compression", [5, 32946])
def test_wrong_predictor_of_a_tiff_is_refused(values: np.ndarray, compression: int) -> None:
    for stated, other in ((1, 2), (2, 1)):
        options = [cv2.IMWRITE_TIFF_COMPRESSION, compression, cv2.IMWRITE_TIFF_PREDICTOR, stated]
        data = cv2.imencode(".tif", values, options)[1].tobytes()
        assert read(data).shape == (HEIGHT, WIDTH, 3)
        tag = struct.pack("<HHIH", 317, 3, 1, stated)
        assert data.count(tag) == 1
        with pytest.raises(ImageError, match="wrong predictor"):
            read(data.replace(tag, tag[:-2] + struct.pack("<H", other)))


def test_other_byte_order_or_depth_is_refused() -> None:
    header = b"P5\n%d %d\n65535\n" % (WIDTH, HEIGHT)
    for data, fault in (
        (header + DEEP.astype("<u2").tobytes(), "noise"),
        (tiff(DEEP.view(np.uint8)), "16 bits that are read as 8"),
    ):
        with pytest.raises(ImageError, match=fault):
            read(data)
    assert read(header + DEEP.astype(">u2").tobytes()).shape == (HEIGHT, WIDTH, 3)


def test_wrong_interlacing_of_a_gif_is_refused() -> None:
    for interlace in (0, 1):
        data = saved(Image.fromarray(GREY), "GIF", interlace=interlace)
        assert read(data).shape == (HEIGHT, WIDTH, 3)
        flags = data.index(b",\0\0\0\0") + 9
        with pytest.raises(ImageError, match="interlacing"):
            read(data[:flags] + bytes([data[flags] ^ 0x40]) + data[flags + 1 :])


def test_strip_that_is_repeated_is_refused_but_not_a_drawing() -> None:
    strip = np.concatenate([RGB[:100], *[RGB[100:130]] * 5, RGB[250:]])
    with pytest.raises(ImageError, match="repeated exactly"):
        read(saved(Image.fromarray(strip), "BMP"))
    drawing = np.tile(np.linspace(0, 255, WIDTH).astype(np.uint8), (HEIGHT, 1))
    drawing[100:200, 50:300] = 30
    assert np.array_equal(read(saved(Image.fromarray(drawing), "BMP"))[..., 0], drawing)


def test_picture_that_is_partly_transparent_is_refused() -> None:
    alpha = np.full_like(GREY, 255)
    assert np.array_equal(read(saved(Image.fromarray(np.dstack([RGB, alpha])), "PNG"))[..., ::-1], RGB)
    alpha[200:300, 100:200] = 0
    with pytest.raises(ImageError, match="transparent"):
        read(saved(Image.fromarray(np.dstack([RGB, alpha])), "PNG"))


def test_frames_of_an_animation_without_its_header_are_not_passed_over() -> None:
    data = io.BytesIO()
    Image.fromarray(RGB).save(data, "PNG", save_all=True, append_images=[Image.fromarray(RGB[::-1])])
    content = data.getvalue()
    start = content.index(b"acTL") - 4
    with pytest.raises(ImageError, match="animated PNG"):
        read(content[:start] + content[start + 20 :])


@pytest.mark.parametrize("progressive", [False, True])
def test_changed_quantisation_table_is_refused(progressive: bool) -> None:
    data = saved(Image.fromarray(RGB), "JPEG", quality=90, progressive=progressive)
    for table in (bytes([255]) * 64, bytes([64]) * 64, bytes([3]) + bytes([255]) * 63, bytes([255]) + bytes([3]) * 63):
        with pytest.raises(ImageError, match=r"quantisation table|quality"):
            read(with_tables(data, table))
    for place in range(0, 64, 7):
        damaged = bytearray([4]) * 64
        for value in (0, 4 + 64):
            damaged[place] = value
            with pytest.raises(ImageError, match="quantisation table"):
                read(with_tables(data, bytes(damaged)))


def test_every_quality_from_10_of_each_encoder_is_read() -> None:
    picture = Image.fromarray(RGB[:64, :64])
    for quality in range(10, 101):
        for subsampling in (0, 1, 2):
            read(saved(picture, "JPEG", quality=quality, subsampling=subsampling))
        read(cv2.imencode(".jpg", RGB[:64, :64], [cv2.IMWRITE_JPEG_QUALITY, quality])[1].tobytes())
    for preset in JpegPresets.presets:  # of Photoshop
        read(saved(picture, "JPEG", quality=preset))
    with pytest.raises(ImageError, match="quality is below 10"):
        read(saved(picture, "JPEG", quality=5))
