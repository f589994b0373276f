"""GenICam's pixel formats against buffers that NumPy makes."""

import cv2
import numpy as np
import pytest

from zsad_agent.cameras import image_of
from zsad_core.errors import ImageError

WH = (10, 6)
COUNT = WH[0] * WH[1]


def values(bits: int) -> np.ndarray:
    """uint16 [H, W] with every bit in use."""
    picture = np.random.default_rng(bits).integers(0, 1 << bits, (WH[1], WH[0]), np.uint16)
    picture[0, :2] = 0, (1 << bits) - 1
    return picture


def bit_stream(picture: np.ndarray, bits: int) -> bytes:
    """The formats with `p`: bits one after another, the lowest first."""
    each = picture.reshape(-1, 1) >> np.arange(bits) & 1
    return np.packbits(each.reshape(-1).astype(np.uint8), bitorder="little").tobytes()


def gige_packed(picture: np.ndarray, bits: int) -> bytes:
    """The formats with `Packed`: high 8 bits of the first, low bits of both, high 8 bits of the second."""
    low = bits - 8
    a, b = picture.reshape(-1, 2).T
    mask = (1 << low) - 1
    return np.stack([a >> low, (a & mask) | (b & mask) << 4, b >> low], axis=1).astype(np.uint8).tobytes()


@pytest.mark.parametrize(
    ("code", "bits", "pack"),
    [
        (0x01080001, 8, lambda picture, _: picture.astype(np.uint8).tobytes()),
        (0x01100003, 10, lambda picture, _: picture.astype("<u2").tobytes()),
        (0x01100005, 12, lambda picture, _: picture.astype("<u2").tobytes()),
        (0x01100025, 14, lambda picture, _: picture.astype("<u2").tobytes()),
        (0x01100007, 16, lambda picture, _: picture.astype("<u2").tobytes()),
        (0x010A0046, 10, bit_stream),
        (0x010C0047, 12, bit_stream),
        (0x010C0004, 10, gige_packed),
        (0x010C0006, 12, gige_packed),
    ],
)
def test_grey_is_scaled_by_the_true_depth(code: int, bits: int, pack) -> None:
    picture = values(bits)
    image = image_of(pack(picture, bits) + b"chunk data after the picture", code, WH)
    expected = picture.astype(np.uint32) * 255 // ((1 << bits) - 1)
    assert image.dtype == np.uint8
    assert (image == expected[..., None]).all()
    assert image.max() == 255


@pytest.mark.parametrize(
    ("pattern", "codes"),
    [  # of 8, 10, 12, 16 bits; 10p, 12p; 10Packed, 12Packed
        ("GR", (0x01080008, 0x0110000C, 0x01100010, 0x0110002E, 0x010A0056, 0x010C0057, 0x010C0026, 0x010C002A)),
        ("RG", (0x01080009, 0x0110000D, 0x01100011, 0x0110002F, 0x010A0058, 0x010C0059, 0x010C0027, 0x010C002B)),
        ("GB", (0x0108000A, 0x0110000E, 0x01100012, 0x01100030, 0x010A0054, 0x010C0055, 0x010C0028, 0x010C002C)),
        ("BG", (0x0108000B, 0x0110000F, 0x01100013, 0x01100031, 0x010A0052, 0x010C0053, 0x010C0029, 0x010C002D)),
    ],
)
def test_bayer_patterns_of_each_depth_give_the_colours(pattern: str, codes: tuple[int, ...]) -> None:
    levels = {"R": 0.8, "G": 0.4, "B": 0.1}
    rows = {"GR": ("GR", "BG"), "RG": ("RG", "GB"), "GB": ("GB", "RG"), "BG": ("BG", "GR")}[pattern]
    for code, (bits, pack) in zip(
        codes,
        (
            (8, lambda picture, _: picture.astype(np.uint8).tobytes()),
            *((bits, lambda picture, _: picture.astype("<u2").tobytes()) for bits in (10, 12, 16)),
            *((bits, bit_stream) for bits in (10, 12)),
            *((bits, gige_packed) for bits in (10, 12)),
        ),
        strict=True,
    ):
        white = (1 << bits) - 1
        tile = np.array([[int(levels[letter] * white) for letter in row] for row in rows], np.uint16)
        image = image_of(pack(np.tile(tile, (3, 5)), bits), code, WH)
        assert np.abs(image.reshape(-1, 3) - np.array([25, 102, 204])).max() <= 1, hex(code)


def test_colours_of_rgb8_and_bgr8() -> None:
    picture = np.random.default_rng(1).integers(0, 256, (WH[1], WH[0], 3), np.uint8)
    assert (image_of(picture.tobytes(), 0x02180015, WH) == picture).all()
    assert (image_of(cv2.cvtColor(picture, cv2.COLOR_BGR2RGB).tobytes(), 0x02180014, WH) == picture).all()


def test_bytes_after_each_row_are_left_out() -> None:
    picture = values(12)
    padded = np.pad(picture.astype("<u2"), ((0, 0), (0, 2)), constant_values=0xFFFF)
    expected = image_of(picture.astype("<u2").tobytes(), 0x01100005, WH)
    assert (image_of(padded.tobytes(), 0x01100005, WH, row_padding=4) == expected).all()


def test_12_bits_in_a_16_bit_format_are_read_with_bit_depth() -> None:
    picture = values(12)
    buffer = picture.astype("<u2").tobytes()
    assert image_of(buffer, 0x01100007, WH).max() == 15
    assert (image_of(buffer, 0x01100007, WH, bit_depth=12) == image_of(buffer, 0x01100005, WH)).all()


@pytest.mark.parametrize(
    ("data", "code", "message"),
    [
        (bytes(COUNT - 1), 0x01080001, "59 of 60 bytes"),
        (bytes(89), 0x010C0047, "89 of 90 bytes"),
        (bytes(COUNT), 0x0210001F, "pixel format 0x0210001F is not read. Choose one of Mono8, Mono10"),
        (np.full(COUNT, 4096, "<u2").tobytes(), 0x01100005, "values up to 4096"),
    ],
)
def test_buffer_that_cannot_be_the_picture_is_refused(data: bytes, code: int, message: str) -> None:
    with pytest.raises(ImageError, match=message):
        image_of(data, code, WH)
