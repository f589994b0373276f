"""Every layout that is read is compared with an independent decoder; every other one is refused by name."""

import io
import itertools
import random
import re
import resource
import struct
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest
import tifffile
from cracked_parts import masked_bmp, saved, tiff, with_size
from PIL import Image, ImageOps

from zsad_core.errors import ImageError
from zsad_core.picture import decode_image, read_image, to_bgr8

HEIGHT, WIDTH = 96, 120
Y, X = np.mgrid[0:HEIGHT, 0:WIDTH]
RGB = np.stack([X * 2, Y * 2, 255 - X - Y], axis=-1).astype(np.uint8)  # no symmetry, no two equal channels
RGB[10:30, 20:50] = (250, 10, 30)
GREY = RGB[..., 0]
PICTURE = Image.fromarray(RGB)
LOSSY_LEVELS = 3  # between two decoders of the same JPEG

JPEG_QUALITY: dict[str, dict[str, object]] = {"JPEG": {"quality": 95}}


class Case(NamedTuple):
    name: str
    data: bytes
    expected: np.ndarray  # uint8 RGB [H, W, 3]
    levels: int = 1  # highest difference that rounding explains
    refused: str | None = None  # a part of the message if it is not read


def grey(values: np.ndarray) -> np.ndarray:
    return np.repeat(values.astype(np.uint8)[..., None], 3, axis=2)


def by_pillow(data: bytes) -> np.ndarray:
    return np.asarray(ImageOps.exif_transpose(Image.open(io.BytesIO(data))).convert("RGB"))


def pillow_cases() -> Iterator[Case]:
    """Formats x channels x compression x orientation."""
    modes = ("1", "L", "LA", "P", "RGB", "RGBA", "CMYK", "YCbCr", "I;16")
    formats = ("AVIF", "BMP", "GIF", "JPEG", "JPEG2000", "PNG", "PPM", "TIFF", "WEBP")
    for kind, mode in itertools.product(formats, modes):
        picture = Image.fromarray(GREY.astype(np.uint16) * 257) if mode == "I;16" else PICTURE.convert(mode)
        if mode == "LA":
            picture.putalpha(Image.fromarray(GREY))
        try:
            data = saved(picture, kind, **JPEG_QUALITY.get(kind, {}))
        except (OSError, ValueError):  # Pillow does not write this mode in this format
            continue
        if mode == "I;16" and kind in ("GIF", "JPEG"):  # Pillow clips it to 8 bits
            continue
        refused = {("GIF", "RGBA"): "transparent", ("PPM", "1"): "binary PGM or PPM", ("TIFF", "YCbCr"): "YCbCr"}.get(
            (kind, mode), "transparent" if (kind, mode) == ("PNG", "LA") else None
        )
        refused = "is not read: save it as PNG" if kind in ("AVIF", "JPEG2000", "WEBP") else refused
        expected = grey(GREY) if mode == "I;16" else by_pillow(data)
        yield Case(f"{kind}-{mode}", data, expected, LOSSY_LEVELS if kind == "JPEG" else 2, refused)
    for compression, mode in itertools.product(
        ("raw", "tiff_lzw", "tiff_adobe_deflate", "packbits", "jpeg", "group4"),
        ("1", "L", "RGB", "CMYK", "RGBA", "LAB"),
    ):
        if (compression == "group4") != (mode == "1") or (compression == "jpeg" and mode in ("LAB", "CMYK")):
            continue
        number = {"packbits": 32773, "jpeg": 7, "group4": 4}.get(compression)
        refused = "CIELab" if mode == "LAB" else f"compression {number}" if number else None
        picture = Image.fromarray(RGB, "LAB") if mode == "LAB" else PICTURE.convert(mode)
        data = saved(picture, "TIFF", compression=compression)
        yield Case(f"TIFF-{mode}-{compression}", data, by_pillow(data), LOSSY_LEVELS, refused)
    for kind, orientation in itertools.product(("JPEG", "PNG", "TIFF"), range(1, 9)):
        exif = Image.Exif()
        exif[0x112] = orientation
        data = saved(PICTURE, kind, exif=exif, **JPEG_QUALITY.get(kind, {}))
        yield Case(f"{kind}-orientation{orientation}", data, by_pillow(data), LOSSY_LEVELS)
    for more in ({"progressive": True}, {"subsampling": 0}, {"keep_rgb": True}, {"restart_marker_rows": 1}):
        data = saved(PICTURE, "JPEG", quality=95, **more)
        yield Case(f"JPEG-{next(iter(more))}", data, by_pillow(data), LOSSY_LEVELS)


def tifffile_cases() -> Iterator[Case]:
    """Depth x photometric x planes x compression x byte order x pieces."""
    for bits, photometric, compression, order, piece in itertools.product(
        (8, 16),
        ("rgb", "planes", "minisblack", "miniswhite"),
        (None, "zlib"),
        "<>",
        ("strip", "strips", "tiles", "big"),
    ):
        values = RGB if photometric in ("rgb", "planes") else GREY
        values = values if bits == 8 else values.astype(np.uint16) * 257
        more: dict[str, object] = {"photometric": photometric, "compression": compression, "byteorder": order}
        if photometric == "planes":
            values = np.moveaxis(values, -1, 0)
            more |= {"photometric": "rgb", "planarconfig": "separate"}
        more |= {"strip": {}, "strips": {"rowsperstrip": 7}, "tiles": {"tile": (32, 32)}, "big": {"bigtiff": True}}[
            piece
        ]
        expected = RGB if photometric in ("rgb", "planes") else grey(255 - GREY if "white" in photometric else GREY)
        refused = "in tiles" if piece == "tiles" else None
        refused = "a plane for each colour" if photometric == "planes" else refused
        refused = "white as 0" if photometric == "miniswhite" and bits == 16 else refused
        yield Case(
            f"tiff-{bits}-{photometric}-{compression}-{order}-{piece}", tiff(values, **more), expected, 1, refused
        )
    for bits, channels, extra in itertools.product((8, 16), (1, 3), ("unspecified", "assocalpha", "unassalpha")):
        values = np.dstack([GREY if channels == 1 else RGB, GREY // 2])
        data = tiff(
            values if bits == 8 else values.astype(np.uint16) * 257,
            photometric="minisblack" if channels == 1 else "rgb",
            extrasamples=[extra],
            planarconfig="contig",
        )
        expected, refused = (RGB, "transparent") if channels == 3 else (grey(GREY), None)
        yield Case(f"tiff-{bits}-{channels}+{extra}", data, expected, refused=refused)
    palette = np.stack([np.arange(256)[::-1], np.arange(256), np.full(256, 7)]).astype(np.uint16) * 257
    painted = np.stack([255 - GREY, GREY, np.full_like(GREY, 7)], axis=-1)
    yield Case("tiff-palette", tiff(GREY, photometric="palette", colormap=palette), painted)
    for name, values, more, refused in (
        ("cielab", RGB, {"photometric": "cielab"}, "CIELab"),
        ("cfa", GREY, {"photometric": "cfa"}, "CFA"),
        ("float", GREY.astype(np.float32), {}, "floating-point"),
        ("signed", GREY.astype(np.int16), {}, "signed"),
        ("channels", np.dstack([RGB, RGB]), {"photometric": "rgb", "planarconfig": "contig"}, "6 channels"),
        ("grey3", RGB, {"photometric": "minisblack", "planarconfig": "contig"}, "3 channels"),
        ("pages", np.stack([GREY, GREY]), {"photometric": "minisblack"}, "more than one image"),
        ("preview", GREY, {"subfiletype": 1}, "preview"),
        ("dng", GREY, {"extratags": [(50706, 1, 4, (1, 4, 0, 0), True)]}, "DNG"),
    ):
        yield Case(f"tiff-{name}", tiff(values, **more), grey(GREY), refused=refused)


def packed_tiff(values: np.ndarray, bits: int) -> bytes:
    """An uncompressed little-endian TIFF of grey values that are not aligned to bytes."""
    text = ["".join(f"{value:0{bits}b}" for value in row) for row in values]
    rows = b"".join(int(row, 2).to_bytes(len(row) // 8, "big") for row in text)
    height, width = values.shape
    tags = {256: width, 257: height, 258: bits, 259: 1, 262: 1, 273: 8, 277: 1, 278: height, 279: len(rows)}
    entries = b"".join(struct.pack("<HHII", tag, 4, 1, value) for tag, value in tags.items())
    return b"II*\0" + struct.pack("<I", 8 + len(rows)) + rows + struct.pack("<H", len(tags)) + entries + bytes(4)


def depth_cases() -> Iterator[Case]:
    """Depths that the format states."""
    for bits in (10, 12, 14):
        values = GREY.astype(np.uint32) * ((1 << bits) - 1) // 255
        yield Case(f"tiff-packed{bits}", packed_tiff(values, bits), grey(GREY))
        tagged = tiff(values.astype(np.uint16), extratags=[(281, 3, 1, (1 << bits) - 1, True)])
        yield Case(f"tiff-maximum{bits}", tagged, grey(GREY))
    for maximum, (kind, values) in itertools.product((1, 100, 255, 256, 1023, 4095, 65_535), ((5, GREY), (6, RGB))):
        scaled = values.astype(np.uint32) * maximum // 255
        data = b"P%d # a comment 9\n%d %d\n%d\n" % (kind, WIDTH, HEIGHT, maximum)
        data += scaled.astype("u1" if maximum < 256 else ">u2").tobytes()
        expected = (scaled * 255 // maximum).astype(np.uint8)
        yield Case(f"pnm{kind}-{maximum}", data, expected if kind == 6 else grey(expected))
    for bits in (1, 2, 4):
        values = GREY >> (8 - bits)
        rows = [
            b"\0" + int("".join(f"{v:0{bits}b}" for v in row), 2).to_bytes(WIDTH * bits // 8, "big") for row in values
        ]
        yield Case(f"png-grey{bits}", png(b"".join(rows), bits, 0), grey(values * (255 // ((1 << bits) - 1))))
    wide = b"".join(b"\0" + row.tobytes() for row in RGB.astype(">u2") * 257)
    for name, body in ((b"gAMA", struct.pack(">I", 22_000)), (b"sBIT", bytes([10] * 3)), (b"tRNS", bytes(6))):
        yield Case(f"png16-{name.decode()}", png(wide, 16, 2, chunk(name, body)), RGB)


def chunk(name: bytes, body: bytes) -> bytes:
    return struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body))


def png(rows: bytes, bits: int, colour: int, before: bytes = b"") -> bytes:
    header = struct.pack(">IIBBBBB", WIDTH, HEIGHT, bits, colour, 0, 0, 0)
    body = chunk(b"IHDR", header) + before + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + body


def bmp_cases() -> Iterator[Case]:
    masks = {
        "bgrx": (0xFF0000, 0xFF00, 0xFF),
        "rgbx": (0xFF, 0xFF00, 0xFF0000),
        "argb": (0xFF00, 0xFF0000, 0xFF000000),
        "ten-bits": (0x3FF00000, 0xFFC00, 0x3FF),
    }
    for (name, mask), header in itertools.product(masks.items(), (40, 52, 56, 108, 124)):
        yield Case(f"bmp-{name}-{header}", masked_bmp(RGB, mask, 32, header), RGB)
    for name, mask in {"565": (0xF800, 0x7E0, 0x1F), "555": (0x7C00, 0x3E0, 0x1F), "444": (0xF00, 0xF0, 0xF)}.items():
        for header in (40, 108):
            yield Case(f"bmp-{name}-{header}", masked_bmp(RGB[:, :-1], mask, 16, header), RGB[:, :-1], 9)
    plain = saved(PICTURE, "BMP")
    upside_down = plain[:22] + struct.pack("<i", -HEIGHT) + plain[26:]
    yield Case("bmp-top-down", upside_down, RGB[::-1])
    os2 = b"BM" + struct.pack("<IHHI", 0, 0, 0, 26) + struct.pack("<IHHHH", 12, WIDTH, HEIGHT, 1, 24) + plain[54:]
    yield Case("bmp-os2", os2, RGB)
    yield Case("bmp-rle", plain[:30] + struct.pack("<I", 1) + plain[34:], RGB, refused="compressed BMP")
    yield Case("bmp-no-palette", plain[:28] + struct.pack("<H", 8) + plain[30:], RGB, refused="colour table")
    yield Case("bmp-mask-gap", masked_bmp(RGB, (0xFF, 0xFF00, 0x5F0000), 32), RGB, refused="mask 0x5f0000")


CASES = [*pillow_cases(), *tifffile_cases(), *depth_cases(), *bmp_cases()]


def test_matrix_is_large_and_most_of_it_is_read() -> None:
    assert len(CASES) > 250
    assert sum(case.refused is None for case in CASES) > 180


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_picture_is_decoded_as_by_an_independent_decoder_or_refused_by_name(case: Case) -> None:
    encoded = np.frombuffer(case.data, np.uint8)
    if case.refused is not None:
        with pytest.raises(ImageError, match=f"a-file: .*{case.refused}"):
            decode_image(encoded, "a-file", strict=True)
        return
    decoded = decode_image(encoded, "a-file", strict=True)[..., ::-1].astype(int)
    assert decoded.shape == case.expected.shape
    assert np.abs(decoded - case.expected).max() <= case.levels


@pytest.mark.parametrize(
    "case",
    [case for case in CASES if case.refused is None and "orientation" not in case.name],
    ids=lambda case: case.name,
)
def test_truncated_picture_is_never_decoded_in_part(case: Case) -> None:
    for share in (0.1, 0.4, 0.8, 0.99):
        cut = np.frombuffer(case.data[: int(len(case.data) * share)], np.uint8)
        try:
            decoded = decode_image(cut, "cut", strict=True)
        except ImageError:
            continue
        whole = decode_image(np.frombuffer(case.data, np.uint8), "whole")
        assert np.array_equal(decoded, whole), share  # nothing was missing


def test_metadata_after_a_bmp_is_ignored_if_the_header_states_the_size_without_it() -> None:
    bmp = saved(PICTURE, "BMP")
    decoded = decode_image(np.frombuffer(bmp + bytes(4096), np.uint8), "a", strict=True)
    assert np.array_equal(decoded[..., ::-1], RGB)
    longer = np.frombuffer(with_size(bmp, "height", HEIGHT // 2) + bytes(4096), np.uint8)
    with pytest.raises(ImageError, match="the BMP holds more or less data"):
        decode_image(longer, "a", strict=True)


@pytest.mark.parametrize("height", [100, 240, 320])
def test_height_that_all_fields_of_an_uncompressed_file_state_alike_and_wrongly_is_refused(height: int) -> None:
    picture = PICTURE.resize((480, 640))
    bmp = with_size(saved(picture, "BMP"), "height", height)
    bmp = bmp[:2] + struct.pack("<I", 54 + 1440 * height) + bmp[6:34] + struct.pack("<I", 1440 * height) + bmp[38:]
    plain = saved(picture, "TIFF")
    with tifffile.TiffFile(io.BytesIO(plain)) as file:
        tags = [file.pages[0].tags[number] for number in (257, 278, 279)]  # type: ignore[union-attr]
    for tag, value in zip(tags, (height, height, 1440 * height), strict=True):
        packed = value.to_bytes(tag.valuebytecount, "little")
        plain = plain[: tag.valueoffset] + packed + plain[tag.valueoffset + len(packed) :]
    for data in (bmp, plain):
        with pytest.raises(ImageError, match="more or less data"):
            decode_image(np.frombuffer(data, np.uint8), "a")


def test_unusual_header_of_a_camera_neither_refuses_a_jpeg_nor_hides_its_damage() -> None:
    jpeg = saved(PICTURE, "JPEG")
    scan = jpeg.index(b"\xff\xda") + 11  # of three components: then first and last coefficient, and precision
    unusual = jpeg[:11] + b"\2" + jpeg[12:scan] + bytes(3) + jpeg[scan + 3 :]  # JFIF 2, and no last coefficient
    decoded = decode_image(np.frombuffer(unusual, np.uint8), "a", strict=True)
    assert np.array_equal(decoded, decode_image(np.frombuffer(jpeg, np.uint8), "a"))
    cut = unusual[: (scan + len(unusual)) // 2] + b"\xff\xd9"
    with pytest.raises(ImageError, match="premature end of data"):
        decode_image(np.frombuffer(cut, np.uint8), "a", strict=True)


@pytest.mark.parametrize("stated", [17, 64, 95, 97, 119, 121, 500])
@pytest.mark.parametrize(
    "data",
    [
        pytest.param(saved(PICTURE.resize((120, 96)), "JPEG", quality=95), id="jpeg"),
        pytest.param(saved(PICTURE, "JPEG", progressive=True), id="progressive-jpeg"),
        pytest.param(saved(PICTURE, "PNG"), id="png"),
        pytest.param(saved(PICTURE, "BMP"), id="bmp"),
        pytest.param(tiff(RGB, photometric="rgb"), id="tiff"),
        pytest.param(tiff(RGB, photometric="rgb", compression="zlib"), id="tiff-deflate"),
        pytest.param(saved(PICTURE, "TIFF", compression="tiff_lzw"), id="tiff-lzw"),
    ],
)
def test_header_with_another_size_is_refused(data: bytes, stated: int) -> None:
    for side, true in (("width", WIDTH), ("height", HEIGHT)):
        if data.startswith(b"\xff\xd8") and -(-stated // 16) == -(-true // 16):
            continue  # a JPEG consists of blocks of 16 pixels: only pixels of the last block are added or lost
        if data.startswith(b"BM") and (side, stated) == ("width", 119):
            continue  # a BMP's rows are padded to four bytes: only the last column is lost
        with pytest.raises(ImageError):
            decode_image(np.frombuffer(with_size(data, side, stated), np.uint8), "misdeclared", strict=True)


def test_strips_of_a_tiff_that_overlap_or_are_out_of_order_are_refused() -> None:
    for compression in (None, "zlib"):
        data = tiff(GREY, compression=compression, rowsperstrip=24)
        with tifffile.TiffFile(io.BytesIO(data)) as file:
            tag = file.pages[0].tags[273]  # type: ignore[union-attr]
        for offsets in ([tag.value[0]] * 4, tag.value[::-1], [0, *tag.value[1:]]):
            packed = b"".join(offset.to_bytes(tag.valuebytecount // 4, "little") for offset in offsets)
            wrong = data[: tag.valueoffset] + packed + data[tag.valueoffset + len(packed) :]
            with pytest.raises(ImageError, match=r"strips overlap, or are not in order|truncated"):
                decode_image(np.frombuffer(wrong, np.uint8), "a")


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "BMP", "PPM", "GIF", "TIFF"])
def test_picture_that_follows_another_one_in_the_file_is_not_passed_over(kind: str) -> None:
    data = saved(PICTURE, kind)
    with pytest.raises(ImageError, match="several images"):
        decode_image(np.frombuffer(data + saved(PICTURE.rotate(180), kind), np.uint8), "a")


def test_progressive_jpeg_whose_last_scans_are_missing_is_refused() -> None:
    jpeg = saved(PICTURE, "JPEG", progressive=True)
    scans = [found.start() for found in re.finditer(rb"\xff\xda", jpeg)]
    assert len(scans) > 5
    for scan in scans[1:]:
        with pytest.raises(ImageError, match="its last scans are missing"):
            decode_image(np.frombuffer(jpeg[:scan] + b"\xff\xd9", np.uint8), "a")
    decode_image(np.frombuffer(jpeg, np.uint8), "a")


def test_damaged_strip_of_a_tiff_is_refused_although_opencv_reports_nothing() -> None:
    for compression in ("tiff_lzw", "tiff_adobe_deflate"):
        data = bytearray(saved(PICTURE.resize((480, 384)).convert("L"), "TIFF", compression=compression))
        with tifffile.TiffFile(io.BytesIO(bytes(data))) as file:
            start = file.pages[0].dataoffsets[0]  # type: ignore[union-attr]
        data[start + 500 : start + 700] = bytes(200)
        with pytest.raises(ImageError, match="more or less data"):
            decode_image(np.frombuffer(bytes(data), np.uint8), "a")


def test_jpeg_with_missing_or_foreign_bytes_inside_is_refused(tmp_path: Path) -> None:
    whole = saved(PICTURE.resize((480, 384)), "JPEG", quality=95)
    half = len(whole) // 2
    for name, data in (("gap", whole[:half] + whole[half + 900 :]), ("inserted", whole[:-2] + bytes(900) + whole[-2:])):
        (tmp_path / name).write_bytes(data)
        with pytest.raises(ImageError, match=f"{name}: the JPEG is damaged, or its header states a wrong size"):
            read_image(tmp_path / name)
    (tmp_path / "padded").write_bytes(whole[:-2] + bytes(7) + whole[-2:])  # as some hardware encoders do
    assert read_image(tmp_path / "padded").shape == (384, 480, 3)


def test_progressive_jpeg_that_claims_a_huge_size_is_refused_before_memory_is_taken() -> None:
    huge = with_size(with_size(saved(PICTURE, "JPEG", progressive=True), "width", 65_000), "height", 65_000)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss  # kB
    with pytest.raises(ImageError, match="65000x65000 pixels, at most 100000000"):
        decode_image(np.frombuffer(huge, np.uint8), "a", strict=True)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss < before + 100_000


def test_several_jpegs_in_one_file_are_refused_but_not_a_second_view() -> None:
    jpeg = saved(PICTURE, "JPEG")
    with pytest.raises(ImageError, match=r"several images.*\.mjpeg.*interlaced video must be deinterlaced"):
        decode_image(np.frombuffer(jpeg + jpeg, np.uint8), "a")
    views = saved(PICTURE, "MPO", save_all=True, append_images=[PICTURE.rotate(180)])
    assert np.array_equal(decode_image(np.frombuffer(views, np.uint8), "a")[..., ::-1], by_pillow(views))


@pytest.mark.parametrize("bits", [8, 10, 12, 14])
def test_low_bits_of_a_16_bit_file_are_the_picture_with_their_depth(tmp_path: Path, bits: int) -> None:
    values = GREY.astype(np.uint32) * ((1 << bits) - 1) // 255
    for name, kind in (("a.png", "PNG"), ("a.tif", "TIFF"), ("a.pgm", "PPM")):
        (tmp_path / name).write_bytes(saved(Image.fromarray(values.astype(np.uint16)), kind))
        found = read_image(tmp_path / name, bits)[..., 0].astype(int)
        assert np.abs(found - GREY).max() <= 1
        assert read_image(tmp_path / name).max() <= values.max() // 257  # without it: all 16 bits


def test_depth_that_the_file_states_wins_and_8_bit_files_have_no_other(tmp_path: Path) -> None:
    values = GREY.astype(np.uint32) * 4095 // 255
    (tmp_path / "a.tif").write_bytes(packed_tiff(values, 12))
    (tmp_path / "b.png").write_bytes(saved(PICTURE, "PNG"))
    assert np.abs(read_image(tmp_path / "a.tif", 12)[..., 0].astype(int) - GREY).max() <= 1
    assert np.array_equal(read_image(tmp_path / "b.png", 10)[..., ::-1], RGB)


def test_values_above_white_are_refused() -> None:
    with pytest.raises(ImageError, match=r"values up to 1024, above white, 1023"):
        to_bgr8(np.full((4, 4), 1024, np.uint16), 1023)
    assert to_bgr8(np.array([[0, 511, 1023]], np.uint16), 1023)[0, :, 0].tolist() == [0, 127, 255]


@pytest.mark.parametrize("seed", range(4))
def test_changed_bytes_lead_to_no_other_error_than_a_refusal(seed: int) -> None:
    chance = random.Random(seed)
    for _ in range(600):
        data = bytearray(chance.choice(CASES).data)
        for _ in range(chance.randrange(1, 6)):
            at = chance.choice(
                [chance.randrange(len(data)), chance.randrange(100), len(data) - chance.randrange(1, 250)]
            )
            data[at % len(data)] = chance.choice([0, 1, 0x7F, 0xFF, chance.randrange(256)])
        try:
            decoded = decode_image(np.frombuffer(bytes(data), np.uint8), "a", chance.choice([None, 10]), strict=True)
        except ImageError as error:
            assert str(error).isprintable()
        else:
            assert decoded.dtype == np.uint8 and decoded.ndim == 3


@pytest.mark.parametrize("head", [b"II+\0" + b"\xff" * 40, b"MM\0*" + b"\xff" * 40, b"BM" + b"\xff" * 60, b"GIF89a"])
def test_absurd_header_is_refused(head: bytes) -> None:
    with pytest.raises(ImageError, match=r"truncated or damaged|not read|not an image"):
        decode_image(np.frombuffer(head, np.uint8), "a")
