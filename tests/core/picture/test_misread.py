"""A picture that a wrong header turned into torn rows, noise or repeated strips is refused, and no other one."""

import io
import struct

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


@pytest.mark.parametrize("values", [GREY, RGB, DEEP], ids=["8 bits", "colour", "16 bits"])
@pytest.mark.parametrize("width", [HEIGHT if HEIGHT != WIDTH else 1280, 120, 240, 320, 400, 512, 960, 1280, 1920])
def test_width_that_fits_the_data_is_refused_unless_it_is_right(values: np.ndarray, width: int) -> None:
    torn = values.reshape(-1, width, *values.shape[2:])
    for data in (saved(Image.fromarray(torn), "PNG"), tiff(torn), tiff(torn, compression="adobe_deflate")):
        with pytest.raises(ImageError, match="wrong width"):
            read(data)
    assert read(saved(Image.fromarray(values), "PNG")).shape == (HEIGHT, WIDTH, 3)


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


def test_other_byte_order_depth_or_palette_is_refused() -> None:
    shuffled = np.random.default_rng(0).permutation(256).astype(np.uint8)
    header = b"P5\n%d %d\n65535\n" % (WIDTH, HEIGHT)
    for data, fault in (
        (header + DEEP.astype("<u2").tobytes(), "noise"),
        (saved(Image.fromarray(shuffled[GREY]), "PNG"), "noise"),
        (saved(Image.fromarray(DEEP.view(np.uint8)), "PNG"), "16 bits that are read as 8"),
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
        read(saved(Image.fromarray(strip), "PNG"))
    drawing = np.tile(np.linspace(0, 255, WIDTH).astype(np.uint8), (HEIGHT, 1))
    drawing[100:200, 50:300] = 30
    assert np.array_equal(read(saved(Image.fromarray(drawing), "PNG"))[..., 0], drawing)


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
