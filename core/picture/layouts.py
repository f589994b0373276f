"""Reads the headers of picture files: refuses the layouts that OpenCV decodes wrongly, and reads the value of white.

Each layout that is let through is compared with independent decoders by `tests/core/picture/test_file_layouts.py`.
"""

import re
import struct
from dataclasses import dataclass
from enum import IntEnum
from math import ceil
from typing import Final

import numpy as np

from zsad_core.errors import ImageError
from zsad_core.picture.content import HEAD_BYTES, format_of
from zsad_core.picture.raw_pixels import RawPixels
from zsad_core.picture.strips import DECODED_LENGTH, inflated_length

FULL_16_BIT: Final = 65_535
MAX_PADDING_BYTES: Final = 16  # after uncompressed data; some writers align the length
_TIFF_TYPES: Final = {1: "B", 3: "H", 4: "I", 16: "Q"}  # the integer types; no other is needed here
_MOST_METADATA: Final = 65_536  # bytes, and an eighth of the pixels, in an uncompressed TIFF
_MOST_VALUES: Final = 1_000_000  # strips or tiles of the largest image
_PHOTOMETRIC: Final = {4: "mask", 6: "YCbCr", 8: "CIELab", 9: "ICCLab", 10: "ITULab", 32803: "CFA", 34892: "raw"}
_UNCOMPRESSED: Final = 1
_UNASSOCIATED_ALPHA: Final = 2
_BGRX: Final = (0xFF0000, 0xFF00, 0xFF)
_ADAM7: Final = ((0, 0, 8, 8), (4, 0, 8, 8), (0, 4, 4, 8), (2, 0, 4, 4), (0, 2, 2, 4), (1, 0, 2, 2), (0, 1, 1, 2))
_SEVERAL: Final = "holds several images, of which only the first would be read: split it"
_OTHER_SIZE: Final = "holds more or less data than an image of the size in its header: the header is wrong, or damaged"


class _Tag(IntEnum):
    """The tags of a TIFF that are read."""

    SUBFILE = 254
    WIDTH = 256
    HEIGHT = 257
    BITS = 258
    COMPRESSION = 259
    PHOTOMETRIC = 262
    STRIP_OFFSETS = 273
    SAMPLES = 277
    ROWS_PER_STRIP = 278
    STRIP_BYTES = 279
    MAX_VALUE = 281
    PLANES = 284
    PREDICTOR = 317
    EXTRA_SAMPLES = 338
    SAMPLE_FORMAT = 339
    DNG_VERSION = 50706


_READ_TAGS: Final = frozenset(_Tag)
_Tags = dict[int, tuple[tuple[int, ...], int]]  # tag -> (its whole numbers, their position in the file)


@dataclass(frozen=True, kw_only=True)
class Layout:
    """What the header says and OpenCV does not use."""

    white: int | None = None  # the decoded value of white; None: not stated
    zero_at: int | None = None  # position of two bytes to set to 0 before OpenCV decodes the file
    image: np.ndarray | None = None  # uint8 BGR [H, W, 3], decoded here; None: OpenCV decodes it
    raw: RawPixels | None = None  # None: compressed
    alpha: bool = False  # it has a channel or a colour of transparency
    predictor: int = 0  # as of `find_misreading`
    interlaced: bool | None = None  # of a GIF; None: no GIF


def read_layout(kind: str, data: bytes) -> Layout:
    """The layout of a file of the format `kind`, a name of `READ_FORMATS`.

    Raises:
        ImageError: OpenCV would decode it wrongly. The text says what to do.
    """
    reader = {
        "BMP": _bmp, "GIF": _gif, "PNG": _png, "PNM": _pnm, "TIFF": _tiff
    }.get(kind)  # fmt: skip
    try:
        return reader(data) if reader is not None else Layout()
    except (struct.error, IndexError, KeyError, OverflowError) as error:
        raise ImageError(f"the {kind} header is truncated or damaged") from error


def _tiff_tags(data: bytes) -> _Tags:
    """The tags of the first image of a TIFF or BigTIFF."""
    order = "<" if data.startswith(b"II") else ">"
    if struct.unpack_from(f"{order}H", data, 2)[0] == 43:
        start = struct.unpack_from(f"{order}Q", data, 8)[0]
        count, first, entry, place = struct.unpack_from(f"{order}Q", data, start)[0], start + 8, "HHQ", "Q"
    else:
        start = struct.unpack_from(f"{order}I", data, 4)[0]
        count, first, entry, place = struct.unpack_from(f"{order}H", data, start)[0], start + 2, "HHI", "I"
    head, inline = struct.calcsize(f"={entry}"), struct.calcsize(f"={place}")
    tags: _Tags = {}
    for index in range(count):
        position = first + index * (head + inline)
        tag, kind, length = struct.unpack_from(f"{order}{entry}", data, position)
        if tag not in _READ_TAGS or kind not in _TIFF_TYPES or length == 0:
            continue
        position += head
        values = f"{order}{length}{_TIFF_TYPES[kind]}"
        if length > _MOST_VALUES:
            raise ImageError(f"the TIFF has {length} values in tag {tag}, at most {_MOST_VALUES} are read")
        if struct.calcsize(values) > inline:
            position = struct.unpack_from(f"{order}{place}", data, position)[0]
        tags[tag] = (struct.unpack_from(values, data, position), position)
    return tags


def _value(tags: _Tags, tag: _Tag, default: int | None = None) -> int:
    """The tag's first number. KeyError if it is missing and has no default."""
    return tags[tag][0][0] if default is None or tag in tags else default


def _tiff(data: bytes) -> Layout:
    tags = _tiff_tags(data)
    bits, alpha = tags.get(_Tag.BITS, ((1,), 0))[0], tags.get(_Tag.EXTRA_SAMPLES, ((), 0))
    photometric, samples = _value(tags, _Tag.PHOTOMETRIC, -1), _value(tags, _Tag.SAMPLES, 1)
    compression, highest = _value(tags, _Tag.COMPRESSION, _UNCOMPRESSED), _value(tags, _Tag.MAX_VALUE, 0)
    fault = None
    if _value(tags, _Tag.SUBFILE, 0) & 5 or _Tag.DNG_VERSION in tags:  # a reduced image or a mask; DNG
        fault = "a TIFF whose first image is a preview (DNG, camera raw)"
    elif photometric not in (0, 1, 2, 3, 5):
        fault = f"a TIFF with {_PHOTOMETRIC.get(photometric, f'unknown colour ({photometric})')} pixels"
    elif photometric == 0 and bits[0] > 8:
        fault = f"a TIFF with {bits[0]} bits and white as 0"
    elif len(set(bits)) > 1 or any(kind != 1 for kind in tags.get(_Tag.SAMPLE_FORMAT, ((1,), 0))[0]):
        fault = "a TIFF with signed, floating-point or mixed values"
    elif samples not in {0: (1, 2), 1: (1, 2), 2: (3, 4), 3: (1,), 5: (4,)}[photometric]:
        fault = f"a TIFF with {samples} channels"
    elif samples > 1 and _value(tags, _Tag.PLANES, 1) != 1:
        fault = "a TIFF with a plane for each colour"
    elif compression not in (_UNCOMPRESSED, *DECODED_LENGTH):
        fault = f"a TIFF with compression {compression}"
    elif _Tag.STRIP_OFFSETS not in tags:
        fault = "a TIFF in tiles"
    if fault:
        raise ImageError(
            f"{fault} is not read: save it as grey or RGB of 8 or 16 bits, interleaved, in strips, "
            "uncompressed or with LZW or Deflate"
        )
    if _another_tiff(data):
        raise ImageError(_SEVERAL)
    raw = _tiff_strips(data, tags, pixel_bits=samples * bits[0])
    white = FULL_16_BIT if 8 < bits[0] < 16 else None  # OpenCV scales these to 16 bits
    if bits[0] == 16 and highest in (1023, 4095, 16_383):  # other values are the brightest of this image
        white = highest
    zero_at = alpha[1] if alpha[0][:1] == (_UNASSOCIATED_ALPHA,) else None
    predictor = _value(tags, _Tag.PREDICTOR, 1) if raw is None else 0
    return Layout(
        white=white, zero_at=zero_at, raw=raw, predictor=predictor, alpha=samples in (2, 4) and photometric != 5
    )


def _another_tiff(data: bytes) -> bool:
    """Whether a second TIFF follows. Where the first one ends cannot be known: its parts are in any order."""
    position = 0
    while (position := data.find(data[:4], position + 1)) > 0:
        try:
            if _Tag.WIDTH in _tiff_tags(data[position:]):
                return True
        except (ImageError, struct.error, OverflowError):
            continue  # the same four bytes by chance
    return False


def _tiff_strips(data: bytes, tags: _Tags, *, pixel_bits: int) -> RawPixels | None:
    """The pixels if they are uncompressed.

    Raises:
        ImageError: a strip is missing, or has more or less data than the size in the header needs.
    """
    height, width = _value(tags, _Tag.HEIGHT), _value(tags, _Tag.WIDTH)
    offsets, counts = tags[_Tag.STRIP_OFFSETS][0], tags[_Tag.STRIP_BYTES][0]
    rows = min(height, _value(tags, _Tag.ROWS_PER_STRIP, height))
    if min(rows, width) < 1:
        raise ImageError(f"the TIFF is damaged: {width}x{height} pixels in strips of {rows} rows")
    if len(offsets) != ceil(height / rows) or len(counts) != len(offsets):
        raise ImageError(f"the TIFF {_OTHER_SIZE}")
    compression, row_bytes = _value(tags, _Tag.COMPRESSION, _UNCOMPRESSED), ceil(width * pixel_bits / 8)
    end, pixels = 8, []
    for number, (offset, count) in enumerate(zip(offsets, counts, strict=True)):
        if offset < end:
            raise ImageError("the TIFF is damaged: its strips overlap, or are not in order")
        if (end := offset + count) > len(data):
            raise ImageError("the TIFF is truncated")
        needed = row_bytes * min(rows, height - number * rows)
        if compression == _UNCOMPRESSED:
            fits = needed <= count <= needed + MAX_PADDING_BYTES
            pixels.append(data[offset : offset + needed])
        else:
            fits = DECODED_LENGTH[compression](data[offset:end], row_bytes * rows) in (row_bytes * rows, needed)
        if not fits:
            raise ImageError(f"the TIFF {_OTHER_SIZE}")
    if not pixels:
        return None
    raw = RawPixels(b"".join(pixels), height)
    if len(data) - len(raw.data) > len(raw.data) // 8 + _MOST_METADATA:  # it would be more strips
        raise ImageError(f"the TIFF {_OTHER_SIZE}")
    return raw


def _png(data: bytes) -> Layout:
    width, height, bits, colour = struct.unpack_from(">IIBB", data, 16)
    pixel_bits = bits * {2: 3, 4: 2, 6: 4}.get(colour, 1)
    passes = _ADAM7 if data[28] else ((0, 0, 1, 1),)
    sizes = [(max(0, ceil((width - x) / dx)), max(0, ceil((height - y) / dy))) for x, y, dx, dy in passes]
    expected = sum(rows * (1 + ceil(columns * pixel_bits / 8)) for columns, rows in sizes if columns)
    position, packed, alpha = 8, [], colour in (4, 6)
    while position + 12 <= len(data):
        length, kind = struct.unpack_from(">I4s", data, position)
        if kind == b"IDAT":
            packed.append(data[position + 8 : position + 8 + length])
        alpha |= kind == b"tRNS"
        position += 12 + length
        if kind == b"IEND" and format_of(data[position : position + HEAD_BYTES]):
            raise ImageError(_SEVERAL)
    if inflated_length(b"".join(packed), expected) != expected:
        raise ImageError(f"the PNG {_OTHER_SIZE}")
    return Layout(alpha=alpha)


def _bmp(data: bytes) -> Layout:
    start, header = struct.unpack_from("<II", data, 10)
    os2 = header == 12
    width, height, _, bits = struct.unpack_from("<HHHH" if os2 else "<iiHH", data, 18)
    compression, _, _, _, colours = (0,) * 5 if os2 else struct.unpack_from("<IIiiI", data, 30)
    if compression not in (0, 3) or (compression == 3 and bits not in (16, 32)) or (header == 64 and compression):
        raise ImageError("a compressed BMP is not read: save it without compression")
    if width <= 0 or height == 0 or bits not in (1, 4, 8, 16, 24, 32):
        raise ImageError(f"a BMP of {width}x{height} pixels with {bits} bits is not read: save it with 24 bits")
    if bits <= 8 and 14 + header + (colours or 1 << bits) * (3 if os2 else 4) > start:
        raise ImageError("the BMP is damaged: its colour table is too short")
    row_bytes = ceil(width * bits / 32) * 4
    left = len(data) - start - row_bytes * abs(height)
    if left < 0:
        raise ImageError("the BMP is truncated")
    beyond = struct.unpack_from("<I", data, 2)[0] - (len(data) - left)  # of the stated file size; then comes metadata
    metadata = left - (struct.unpack_from("<I", data, 130)[0] if header == 124 else 0)  # without a colour profile
    most = row_bytes * abs(height) // 8 if 0 <= beyond <= MAX_PADDING_BYTES else MAX_PADDING_BYTES  # more would be rows
    if metadata > most:
        raise ImageError(f"the BMP {_OTHER_SIZE}, or it holds several images")
    raw = RawPixels(data[start : len(data) - left], abs(height))
    masks = struct.unpack_from("<III", data, 54) if compression == 3 else _BGRX
    image = None if masks == _BGRX else _unmasked(data, (start, width, height, bits), masks)
    return Layout(image=image, raw=raw)


def _unmasked(data: bytes, layout: tuple[int, int, int, int], masks: tuple[int, ...]) -> np.ndarray:
    """uint8 BGR [H, W, 3] of a BMP whose bit masks, red, green and blue, say where each colour is."""
    start, width, height, bits = layout
    row = ceil(width * bits / 32) * 32 // bits  # pixels, with the padding
    pixels = np.frombuffer(data, f"<u{bits // 8}", count=row * abs(height), offset=start).reshape(abs(height), row)
    pixels = pixels[:: -1 if height > 0 else 1, :width].astype(np.uint32)
    channels = []
    for mask in reversed(masks):
        steps = mask // (mask & -mask) if mask else 0  # 2^n - 1 if its bits are next to each other
        if not 0 < steps <= FULL_16_BIT or steps & (steps + 1):
            raise ImageError(f"a BMP with the colour mask {mask:#x} is not read: save it with 24 bits")
        channels.append(((pixels & mask) // (mask & -mask) * 255 // steps).astype(np.uint8))
    return np.dstack(channels)


def _pnm(data: bytes) -> Layout:
    numbers = re.match(rb"P[56]" + 3 * rb"(?:\s|#[^\n]*\n)+(\d+)" + rb"\s", data)
    if numbers is None:
        raise ImageError("a PNM file of this form is not read: save it as binary PGM or PPM")
    width, height, white = map(int, numbers.groups())
    if not 0 < white <= FULL_16_BIT:
        raise ImageError(f"the PNM is damaged: its highest value is {white}")
    pixel_bytes = (3 if data[1] == ord("6") else 1) * (1 if white < 256 else 2)
    left = len(data) - numbers.end() - width * height * pixel_bytes
    if left < 0:
        raise ImageError("the PNM is truncated")
    if left > MAX_PADDING_BYTES or 0 in (width, height):
        raise ImageError(f"the PNM {_OTHER_SIZE}, or it holds several images")
    raw = RawPixels(data[numbers.end() : len(data) - left], height)
    return Layout(white=None if white in (255, FULL_16_BIT) else white, raw=raw)


def _gif(data: bytes) -> Layout:
    def after_table(position: int, flags: int) -> int:
        return position + (3 << ((flags & 7) + 1) if flags & 0x80 else 0)

    position, images, interlaced = after_table(13, data[10]), 0, False
    while data[position] != 0x3B:  # the trailer
        if data[position] == 0x2C:
            images, interlaced = images + 1, bool(data[position + 9] & 0x40)
            position = after_table(position + 10, data[position + 9]) + 1
        elif data[position : position + 2] == b"\x21\xf9" and data[position + 3] & 1:
            raise ImageError("a GIF with transparent pixels is not read: save it as PNG")
        else:
            position += 2
        while data[position]:
            position += data[position] + 1
        position += 1
    if images != 1:
        raise ImageError(f"holds {images} images, of which only the first would be read: split it")
    if format_of(data[position + 1 : position + 1 + HEAD_BYTES]):
        raise ImageError(_SEVERAL)
    return Layout(interlaced=interlaced)
