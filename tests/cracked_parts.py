"""Files of one cracked part: truncated, with a wrong header or name, and of unusual layouts. A seed makes each."""

import io
import random
import re
import struct
import zlib
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import tifffile
from PIL import Image

CRACKED = Path(__file__).parents[1] / "demo" / "stream" / "08-cracked.jpg"
SAVE_OPTIONS: dict[str, tuple[str, str, dict[str, object]]] = {  # name -> mode, format, options of Pillow
    "baseline.jpg": ("RGB", "JPEG", {"quality": 90}),
    "progressive.jpg": ("RGB", "JPEG", {"quality": 90, "progressive": True}),
    "restarts.jpg": ("RGB", "JPEG", {"quality": 90, "restart_marker_rows": 1}),
    "cmyk.jpg": ("CMYK", "JPEG", {"quality": 90}),
    "rgb.png": ("RGB", "PNG", {}),
    "rgba.png": ("RGBA", "PNG", {}),
    "grey.bmp": ("L", "BMP", {}),
    "rgb.bmp": ("RGB", "BMP", {}),
    "plain.tif": ("RGB", "TIFF", {}),
    "lzw.tif": ("RGB", "TIFF", {"compression": "tiff_lzw"}),
    "deflate.tif": ("RGB", "TIFF", {"compression": "tiff_adobe_deflate"}),
    "packbits.tif": ("RGB", "TIFF", {"compression": "packbits"}),
    "jpeg.tif": ("RGB", "TIFF", {"compression": "jpeg"}),
    "lossy.webp": ("RGB", "WEBP", {"quality": 90}),
    "lossless.webp": ("RGB", "WEBP", {"lossless": True}),
    "a.gif": ("P", "GIF", {}),
    "a.jp2": ("RGB", "JPEG2000", {}),
    "a.j2k": ("RGB", "JPEG2000", {"no_jp2": True}),
    "a.avif": ("RGB", "AVIF", {"quality": 90}),
    "a.ppm": ("RGB", "PPM", {}),
    "a.pgm": ("L", "PPM", {}),
}


def cracked_parts(seed: int = 0) -> Iterator[tuple[str, bytes]]:
    """(file name, content) of each."""
    chance = random.Random(seed)
    picture = Image.open(CRACKED).convert("RGB")
    whole = {name: saved(picture.convert(mode), kind, **more) for name, (mode, kind, more) in SAVE_OPTIONS.items()}
    for name, data in whole.items():
        yield f"whole-{name}", data
        yield f"renamed-{name}{chance.choice(['.jpg', '.png', '.tif', '.bmp', '', '.dat', '.mp4'])}", data
        for number in range(4):
            yield f"cut{number}-{name}", data[: chance.randrange(10, len(data))]
        at = chance.randrange(len(data) // 2, len(data))
        yield f"zeros-{name}", data[:at] + bytes(len(data) - at)
        at, length = chance.randrange(1000, len(data) - 1000), chance.randrange(200, 20_000)
        yield f"gap-{name}", data[:at] + data[at + length :]
    yield from _wrong_sizes(whole, chance)
    yield from _unusual(np.asarray(picture))


def saved(picture: Image.Image, kind: str, **more: object) -> bytes:
    """The content of the file that Pillow writes."""
    file = io.BytesIO()
    picture.save(file, kind, **more)
    return file.getvalue()


def _wrong_sizes(whole: dict[str, bytes], chance: random.Random) -> Iterator[tuple[str, bytes]]:
    """Headers that state another width or height than the data has."""
    for name in (
        "baseline.jpg",
        "progressive.jpg",
        "rgb.bmp",
        "rgb.png",
        "plain.tif",
        "deflate.tif",
        "lzw.tif",
        "packbits.tif",
        "jpeg.tif",
        "a.ppm",
    ):
        for stated in (64, 320, 479, 481, 639, 641, 1280, chance.randrange(100, 600)):
            for side in ("width", "height"):
                yield f"{side}{stated}-{name}", with_size(whole[name], side, stated)


def with_size(data: bytes, side: str, stated: int) -> bytes:
    """The file with another width or height in its header; a PNG's checksum is made right."""
    is_width = side == "width"
    if data.startswith(b"\xff\xd8"):
        header = re.search(rb"\xff[\xc0-\xc2]\0.\x08", data, re.DOTALL)
        assert header is not None
        return _replaced(data, header.end() + 2 * is_width, struct.pack(">H", stated))
    if data.startswith(b"BM"):
        return _replaced(data, 18 if is_width else 22, struct.pack("<i", stated))
    if data.startswith(b"\x89PNG"):
        data = _replaced(data, 16 if is_width else 20, struct.pack(">I", stated))
        return _replaced(data, 29, struct.pack(">I", zlib.crc32(data[12:29])))
    if data.startswith(b"II*"):
        with tifffile.TiffFile(io.BytesIO(data)) as file:
            tag = file.pages[0].tags[256 if is_width else 257]  # type: ignore[union-attr]
        return _replaced(data, tag.valueoffset, stated.to_bytes(tag.valuebytecount, "little"))
    width, height = (stated, 640) if is_width else (480, stated)
    assert b"480 640" in data[:20]
    return data.replace(b"480 640", b"%d %d" % (width, height), 1)


def _replaced(data: bytes, at: int, new: bytes) -> bytes:
    return data[:at] + new + data[at + len(new) :]


def _unusual(rgb: np.ndarray) -> Iterator[tuple[str, bytes]]:
    grey = np.asarray(Image.fromarray(rgb).convert("L"))
    for bits in (10, 12, 14, 16):
        values = (grey.astype(np.uint32) * ((1 << bits) - 1) // 255).astype(np.uint16)
        yield f"mono{bits}.png", saved(Image.fromarray(values), "PNG")
        yield f"mono{bits}.tif", tiff(values)
        yield f"white0-{bits}.tif", tiff(values, photometric="miniswhite")
    yield "planes.tif", tiff(np.moveaxis(rgb, -1, 0), photometric="rgb", planarconfig="separate")
    yield "planes16.tif", tiff(np.moveaxis(rgb, -1, 0).astype(np.uint16) * 257, photometric="rgb")
    yield "alpha.tif", tiff(np.dstack([rgb, grey]), photometric="rgb", extrasamples=["unassalpha"])
    yield "lab.tif", tiff(rgb, photometric="cielab")
    yield "float.tif", tiff(grey.astype(np.float32) / 255)
    yield "signed.tif", tiff(grey.astype(np.int16))
    yield "pages.tif", tiff(np.stack([grey, grey]), photometric="minisblack")
    yield "preview.tif", tiff(grey, subfiletype=1)
    yield "tiles.tif", tiff(rgb, photometric="rgb", tile=(64, 64))
    yield "big.tif", tiff(rgb, photometric="rgb", bigtiff=True)
    yield "big-endian.tif", tiff(rgb, photometric="rgb", byteorder=">")
    for name, masks in (
        ("rgbx", (0xFF, 0xFF00, 0xFF0000)),
        ("argb", (0xFF00, 0xFF0000, 0xFF000000)),
        ("ten-bits", (0x3FF00000, 0xFFC00, 0x3FF)),
    ):
        yield f"{name}.bmp", masked_bmp(rgb, masks, 32)
    yield "565.bmp", masked_bmp(rgb, (0xF800, 0x7E0, 0x1F), 16)
    jpeg = saved(Image.fromarray(rgb), "JPEG")
    yield "twice.jpg", jpeg + jpeg
    yield (
        "animated.webp",
        saved(Image.fromarray(rgb), "WEBP", save_all=True, append_images=[Image.fromarray(rgb[::-1])]),
    )
    yield "mono12.pgm", b"P5\n480 640\n4095\n" + (grey.astype(np.uint16) * 16).astype(">u2").tobytes()


def tiff(array: np.ndarray, **more: object) -> bytes:
    """The content of the file that tifffile writes."""
    file = io.BytesIO()
    tifffile.imwrite(file, array, **more)  # type: ignore[arg-type]
    return file.getvalue()


def masked_bmp(rgb: np.ndarray, masks: tuple[int, int, int], bits: int, header_bytes: int = 40) -> bytes:
    """A BMP whose bit masks say where red, green and blue are. Rows are padded to four bytes."""
    height, width = rgb.shape[:2]
    values = np.zeros((height, -(-width * bits // 32) * 32 // bits), np.uint32)
    for channel, mask in enumerate(masks):
        lowest = mask & -mask
        steps = mask // lowest
        scaled = (rgb[..., channel].astype(np.uint64) * steps + 127) // 255
        values[:, :width] |= (scaled * lowest).astype(np.uint32)
    rows = values[::-1].astype(f"<u{bits // 8}").tobytes()
    header = struct.pack("<IiiHHIIiiII", header_bytes, width, height, 1, bits, 3, len(rows), 2835, 2835, 0, 0)
    header = (header + struct.pack("<III", *masks)).ljust(max(header_bytes, 52), b"\0")
    start = 14 + len(header)
    return b"BM" + struct.pack("<IHHI", start + len(rows), 0, 0, start) + header + rows
