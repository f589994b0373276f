"""GenICam's pixel formats (PFNC): raw bytes to a picture, scaled by the true depth of the format."""

from dataclasses import dataclass
from enum import Enum

import cv2
import numpy as np

from zsad_core.errors import ImageError
from zsad_core.picture import to_bgr8


class _Packing(Enum):
    PLAIN = ""  # whole bytes, little endian, the value in the low bits
    P = "p"  # a stream of bits, the lowest first
    PACKED = "Packed"  # GigE Vision: two pixels in three bytes, their high bits in the first and the third


@dataclass(frozen=True, slots=True)
class _Format:
    name: str
    bits: int  # of one value
    packing: _Packing
    bits_stored: int  # of one pixel
    to_bgr: int | None  # OpenCV's conversion; None: grey or BGR
    channels: int = 1


# The first letters of the pattern's first row, in the order of the codes of all formats except the ones with `p`.
_BAYER = {
    "GR": cv2.COLOR_BayerGRBG2BGR,
    "RG": cv2.COLOR_BayerRGGB2BGR,
    "GB": cv2.COLOR_BayerGBRG2BGR,
    "BG": cv2.COLOR_BayerBGGR2BGR,
}
_MONO = (
    (0x0108_0001, 8, _Packing.PLAIN),
    (0x0110_0003, 10, _Packing.PLAIN),
    (0x0110_0005, 12, _Packing.PLAIN),
    (0x0110_0025, 14, _Packing.PLAIN),
    (0x0110_0007, 16, _Packing.PLAIN),
    (0x010A_0046, 10, _Packing.P),
    (0x010C_0047, 12, _Packing.P),
    (0x010C_0004, 10, _Packing.PACKED),
    (0x010C_0006, 12, _Packing.PACKED),
)
_BAYER_CODES = (  # of GR; the other patterns follow in steps of one
    (0x0108_0008, 8, _Packing.PLAIN),
    (0x0110_000C, 10, _Packing.PLAIN),
    (0x0110_0010, 12, _Packing.PLAIN),
    (0x0110_002E, 16, _Packing.PLAIN),
    (0x010C_0026, 10, _Packing.PACKED),
    (0x010C_002A, 12, _Packing.PACKED),
)
_BAYER_P = {"BG": 0x52, "GB": 0x54, "GR": 0x56, "RG": 0x58}  # of 10p; 12p follows each


def _stored(code: int) -> int:
    return code >> 16 & 0xFF


def _all_formats() -> dict[int, _Format]:
    formats = {
        code: _Format(f"Mono{bits}{packing.value}", bits, packing, _stored(code), None) for code, bits, packing in _MONO
    }
    bayer = [
        (first + step, bits, packing, pattern)
        for first, bits, packing in _BAYER_CODES
        for step, pattern in enumerate(_BAYER)
    ]
    for pattern, number in _BAYER_P.items():
        bayer += [(0x010A_0000 + number, 10, _Packing.P, pattern), (0x010C_0001 + number, 12, _Packing.P, pattern)]
    for code, bits, packing, pattern in bayer:
        name = f"Bayer{pattern}{bits}{packing.value}"
        formats[code] = _Format(name, bits, packing, _stored(code), _BAYER[pattern])
    formats[0x0218_0014] = _Format("RGB8", 8, _Packing.PLAIN, 24, cv2.COLOR_RGB2BGR, 3)
    formats[0x0218_0015] = _Format("BGR8", 8, _Packing.PLAIN, 24, None, 3)
    return formats


_FORMATS = _all_formats()
FORMAT_NAMES = tuple(each.name for each in _FORMATS.values())


def is_read(code: int) -> bool:
    """Whether `image_of` reads the format."""
    return code in _FORMATS


def image_of(
    data: bytes, code: int, wh: tuple[int, int], *, row_padding: int = 0, bit_depth: int | None = None
) -> np.ndarray:
    """uint8 BGR [H, W, 3] of a camera's buffer.

    Values of 10, 12 and 14 bits are scaled by their depth. Bayer patterns are interpolated in full depth before.

    Args:
        data: the buffer; what follows the picture is ignored.
        code: the pixel format's code of PFNC.
        wh: width and height in pixels.
        row_padding: unused bytes after each row.
        bit_depth: low bits of a 16-bit format that hold the picture; None: all.

    Raises:
        ImageError: the format is not read, bytes are missing, or a value is above the depth.
    """
    form = _FORMATS.get(code)
    if form is None:
        raise ImageError(f"the pixel format 0x{code:08X} is not read. Choose one of {', '.join(FORMAT_NAMES)}")
    w, h = wh
    if row_padding and form.packing is not _Packing.PLAIN:
        raise ImageError(f"{form.name} with unused bytes after each row is not read. Choose another pixel format")
    row_bytes = w * form.bits_stored // 8 + row_padding
    needed = row_bytes * h if form.packing is _Packing.PLAIN else (w * h * form.bits_stored + 7) // 8
    if needed == 0 or len(data) < needed:
        raise ImageError(f"{len(data)} of {needed} bytes arrived")
    raw = np.frombuffer(data, np.uint8, needed)
    if form.packing is _Packing.PLAIN:
        rows = raw.reshape(h, row_bytes)[:, : row_bytes - row_padding]
        values = np.ascontiguousarray(rows).view(np.uint8 if form.bits == 8 else "<u2")
    else:
        values = _unpacked(raw, w * h, form)
    image = values.reshape((h, w) if form.channels == 1 else (h, w, form.channels))
    if form.to_bgr is not None:
        image = cv2.cvtColor(image, form.to_bgr)
    bits = bit_depth if form.bits == 16 and bit_depth is not None else form.bits
    return to_bgr8(image, (1 << bits) - 1)


def _unpacked(raw: np.ndarray, count: int, form: _Format) -> np.ndarray:
    """uint16 [count] of pixels that share bytes."""
    group = 5 if form.packing is _Packing.P and form.bits == 10 else 3  # bytes that hold whole pixels
    padded = np.zeros(-(-raw.size // group) * group, np.uint8)
    padded[: raw.size] = raw
    b = padded.reshape(-1, group).T.astype(np.uint16)
    if group == 5:
        pixels = [
            b[0] | (b[1] & 0x03) << 8,
            b[1] >> 2 | (b[2] & 0x0F) << 6,
            b[2] >> 4 | (b[3] & 0x3F) << 4,
            b[3] >> 6 | b[4] << 2,
        ]
    elif form.packing is _Packing.P:
        pixels = [b[0] | (b[1] & 0x0F) << 8, b[1] >> 4 | b[2] << 4]
    elif form.bits == 12:
        pixels = [b[0] << 4 | b[1] & 0x0F, b[2] << 4 | b[1] >> 4]
    else:
        pixels = [b[0] << 2 | b[1] & 0x03, b[2] << 2 | b[1] >> 4 & 0x03]
    return np.stack(pixels, axis=1).reshape(-1)[:count]
