"""Files of one cracked part: truncated, with a wrong header or name, and of unusual layouts. A seed makes each."""

import io
import itertools
import random
import re
import struct
import zlib
from collections.abc import Iterator
from pathlib import Path

import cv2
import numpy as np
import tifffile
from PIL import Image

STREAM = Path(__file__).parents[1] / "demo" / "stream"
CRACKED, WHOLE = STREAM / "08-cracked.jpg", STREAM / "07-whole.jpg"
PARTS = (8, 2, 4, 6, 10, 12)  # numbers of the cracked parts of the stream, for each seed another one
BLOCK = 4096  # bytes that file systems and copies write at a time
SAVE_OPTIONS: dict[str, tuple[str, str, dict[str, object]]] = {  # name -> mode, format, options of Pillow
    "baseline.jpg": ("RGB", "JPEG", {"quality": 90}),
    "progressive.jpg": ("RGB", "JPEG", {"quality": 90, "progressive": True}),
    "restarts.jpg": ("RGB", "JPEG", {"quality": 90, "restart_marker_rows": 1}),
    "cmyk.jpg": ("CMYK", "JPEG", {"quality": 90}),
    "rgb.png": ("RGB", "PNG", {}),
    "rgba.png": ("RGBA", "PNG", {}),
    "grey.bmp": ("L", "BMP", {}),
    "rgb.bmp": ("RGB", "BMP", {}),
    "palette.bmp": ("P", "BMP", {}),
    "palette.png": ("P", "PNG", {}),
    "16.png": ("I;16", "PNG", {}),
    "16.tif": ("I;16", "TIFF", {}),
    "16.pgm": ("I;16", "PPM", {}),
    "strips.tif": ("RGB", "TIFF", {"strip_size": 8192}),
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


NOT_READ = ("jpeg.tif", "packbits.tif", "lossy.webp", "lossless.webp", "a.jp2", "a.j2k", "a.avif")  # of them


def cracked_parts(seed: int = 0) -> Iterator[tuple[str, bytes]]:
    """(file name, content) of each."""
    chance = random.Random(seed)
    number = PARTS[seed % len(PARTS)]
    picture = Image.open(STREAM / f"{number:02}-cracked.jpg").convert("RGB")
    whole, good = encodings(picture), encodings(Image.open(STREAM / f"{number - 1:02}-whole.jpg"))
    for name, data in whole.items():
        yield f"whole-{name}", data
        yield f"renamed-{name}{chance.choice(['.jpg', '.png', '.tif', '.bmp', '', '.dat', '.mp4'])}", data
        for number in range(4):
            yield f"cut{number}-{name}", data[: chance.randrange(10, len(data))]
        at, length = chance.randrange(1000, len(data) - 1000), chance.randrange(200, 20_000)
        yield f"gap-{name}", data[:at] + data[at + length :]
        yield from ((f"{kind}-{name}", damaged) for kind, damaged in _fillings(data, chance))
        yield from ((f"{kind}-{name}", damaged) for kind, damaged in _foreign_data(name, data, good[name], chance))
    for number, scan in enumerate(re.finditer(rb"\xff\xda", whole["progressive.jpg"])):
        yield f"scans{number}-progressive.jpg", whole["progressive.jpg"][: scan.start()] + b"\xff\xd9"
    yield from _wrong_sizes(whole, chance)
    yield from _wrong_headers(whole, chance)
    yield from _unusual(np.asarray(picture))
    yield from _jpeg_fields(whole, chance)
    yield from _other_readings(np.asarray(picture), chance)
    yield from _altered(whole, np.asarray(picture), chance)
    yield from _narrow(np.asarray(picture), chance)


def encodings(picture: Image.Image) -> dict[str, bytes]:
    """The picture in each format of `SAVE_OPTIONS`."""
    picture = picture.convert("RGB")
    wide = Image.fromarray(np.asarray(picture.convert("L")).astype(np.uint16) * 257)
    return {
        name: saved(wide if mode == "I;16" else picture.convert(mode), kind, **more)
        for name, (mode, kind, more) in SAVE_OPTIONS.items()
    }


def _fillings(data: bytes, chance: random.Random) -> Iterator[tuple[str, bytes]]:
    """The space of the file was reserved, or a copy left parts out: zeros, or the 0xFF of erased flash memory."""
    size = len(data)
    ends = [chance.randrange(size // 20, size - 1000) for _ in range(3)]
    for number, at in enumerate(ends):
        yield f"zeros{number}", data[:at] + bytes(size - at)
        block = at // BLOCK * BLOCK
        yield f"zeroblocks{number}", data[:block] + bytes(size - block)
        yield f"erased{number}", data[:at] + b"\xff" * (size - at)
        row = size - at // 1440 * 1440  # a whole number of rows of the uncompressed formats
        yield f"zerorows{number}", data[:row] + bytes(size - row)
    for length in (512, BLOCK, 4 * BLOCK, 40 * BLOCK):
        at = chance.randrange(512, max(513, size - length)) // 512 * 512
        yield f"hole{length}", data[:at] + bytes(min(length, size - at)) + data[at + length :]


def _foreign_data(name: str, data: bytes, good: bytes, chance: random.Random) -> Iterator[tuple[str, bytes]]:
    """Blocks of another file, or files joined. Uncompressed pixels have nothing by which old data could be found."""
    size = len(data)
    at = chance.randrange(0, size - BLOCK) // BLOCK * BLOCK
    yield "lost", data[:at] + data[at + BLOCK :]
    other = chance.randrange(0, size - BLOCK) // BLOCK * BLOCK
    yield "copied", data[:at] + data[other : other + BLOCK] + data[at + BLOCK :]
    yield "twice", data + data
    yield "second", good + data
    yield "tail", data + chance.randbytes(5000)
    if not name.endswith((".bmp", ".ppm", ".pgm", "plain.tif", "16.tif", "strips.tif")):
        for share in (0.2, 0.5, 0.8):
            at = int(size * share) // BLOCK * BLOCK
            yield f"old{share}", data[:at] + good[at:]
            yield f"oldblock{share}", data[:at] + good[at : at + BLOCK] + data[at + BLOCK :]
    for number in range(3):
        at = chance.randrange(size // 10, size)
        yield f"ended{number}", data[:at] + data[-12 if name.endswith(".png") else -2 :]


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
    sides = data.split(maxsplit=3)[1:3]
    return data.replace(
        b" ".join(sides), b"%d %s" % (stated, sides[1]) if is_width else b"%s %d" % (sides[0], stated), 1
    )


def with_tables(data: bytes, table: bytes) -> bytes:
    """The JPEG with this quantisation table, 64 steps of a byte in the file's order, instead of each of its own."""
    end = data.index(b"\xff\xda")
    for found in re.finditer(rb"\xff\xdb(..)", data[:end], re.DOTALL):
        start, after = found.end(), found.start() + 2 + int.from_bytes(found[1], "big")
        for at in range(start, after, 65):
            data = _replaced(data, at + 1, table)
    return data


def _wrong_headers(whole: dict[str, bytes], chance: random.Random) -> Iterator[tuple[str, bytes]]:
    """Other fields that say how the data is to be read; all sizes of a header changed alike."""
    for name in ("rgb.bmp", "grey.bmp", "rgb.png", "plain.tif", "strips.tif", "deflate.tif", "lzw.tif", "a.ppm"):
        for width, height in ((640, 480), (240, 1280), (960, 320), (1440, 640)):
            data = with_size(with_size(whole[name], "height", height), "width", width)
            yield f"sides{width}x{height}-{name}", data
    for name in ("plain.tif", "strips.tif", "deflate.tif", "lzw.tif", "jpeg.tif", "16.tif"):
        for tag in (258, 259, 262, 273, 277, 278, 279):
            with tifffile.TiffFile(io.BytesIO(whole[name])) as file:
                found = file.pages[0].tags.get(tag)  # type: ignore[union-attr]
            if found is None:
                continue
            size = found.valuebytecount // found.count
            values = list(found.value) if isinstance(found.value, tuple) else [int(found.value)]
            many = {"same": values[:1] * len(values), "reversed": values[::-1], "half": [v // 2 for v in values]}
            many["other"] = [max(0, value + chance.randrange(-3000, 3000)) for value in values]
            many["one"] = [1] * len(values)
            for kind, changed in many.items():
                if changed != values and max(changed) < 1 << 8 * size:
                    packed = b"".join(value.to_bytes(size, "little") for value in changed)
                    yield f"tag{tag}{kind}-{name}", _replaced(whole[name], found.valueoffset, packed)
    for bits, colour in ((8, 0), (16, 0), (8, 6), (8, 3), (4, 0), (16, 2)):
        data = _replaced(whole["rgb.png"], 24, bytes([bits, colour]))
        yield f"pixel{bits}-{colour}-rgb.png", _replaced(data, 29, struct.pack(">I", zlib.crc32(data[12:29])))
    for bits in (1, 4, 8, 16, 32):
        yield f"bits{bits}-rgb.bmp", _replaced(whole["rgb.bmp"], 28, struct.pack("<H", bits))
    for start in (0, 20, 1000, 9999):
        yield f"start{start}-rgb.bmp", _replaced(whole["rgb.bmp"], 10, struct.pack("<I", start))
    for stated in (64, 240, 320, 400, 479, 500, 640, 960):
        for side in (0, 1):
            packed = struct.pack("<H", stated)
            gif = _replaced(whole["a.gif"], 6 + 2 * side, packed)
            image = whole["a.gif"].index(b",\0\0\0\0") + 5
            yield f"screen{stated}-{side}-a.gif", gif
            yield f"image{stated}-{side}-a.gif", _replaced(whole["a.gif"], image + 2 * side, packed)
            yield f"both{stated}-{side}-a.gif", _replaced(gif, image + 2 * side, packed)
            for name in ("lossy.webp", "lossless.webp"):
                yield f"stated{stated}-{side}-{name}", _webp_with_size(whole[name], side, stated)
            for name in ("a.jp2", "a.j2k"):
                old, new = struct.pack(">I", (480, 640)[side]), struct.pack(">I", stated)
                head = whole[name][:200].replace(old, new)
                yield f"alike{stated}-{side}-{name}", head + whole[name][200:]
            old, new = struct.pack(">I", (480, 640)[side]), struct.pack(">I", stated)
            yield f"alike{stated}-{side}-a.avif", whole["a.avif"].replace(old, new)


def _webp_with_size(data: bytes, side: int, stated: int) -> bytes:
    if data[12:16] == b"VP8 ":
        return _replaced(data, 26 + 2 * side, struct.pack("<H", stated))
    sides = int.from_bytes(data[21:25], "little")
    sides = sides & ~(0x3FFF << 14 * side) | stated - 1 << 14 * side
    return _replaced(data, 21, sides.to_bytes(4, "little"))


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


def _jpeg_fields(whole: dict[str, bytes], chance: random.Random) -> Iterator[tuple[str, bytes]]:
    """Quantisation tables, sampling, colours and orientation. Values of a table that any encoder may have are left."""
    for name in ("baseline.jpg", "progressive.jpg", "restarts.jpg", "cmyk.jpg"):
        data = whole[name]
        for kind, table in (
            *((f"all{step}", bytes([step]) * 64) for step in (0, 64, 128, 255)),
            ("coarse", bytes([3]) + bytes([255]) * 63),
            ("random", bytes(chance.randrange(1, 256) for _ in range(64))),
            *((f"one{place}", bytes(255 if at == place else 3 for at in range(64))) for place in (0, 1, 2, 5, 30)),
        ):
            yield f"table-{kind}-{name}", with_tables(data, table)
        start = data.index(b"\xff\xdb") + 5
        for number in range(4):
            at = start + chance.randrange(64)
            yield f"table-bit{number}-{name}", _replaced(data, at, bytes([data[at] ^ 0x80]))
        frame = re.search(rb"\xff[\xc0-\xc2]\0.\x08", data, re.DOTALL)
        assert frame is not None
        for sampling in (0x11, 0x12, 0x21, 0x22, 0x44):
            yield f"sampling{sampling:x}-{name}", _replaced(data, frame.end() + 6, bytes([sampling]))
        for transform in (0, 1, 2):
            adobe = b"\xff\xee\0\x0eAdobe\0\x64\0\0\0\0" + bytes([transform])
            yield f"adobe{transform}-{name}", data[:2] + adobe + data[2:]
        for turn in (0, 1, 3, 6, 8, 9, 255, 65535):
            exif = b"Exif\0\0II*\0\x08\0\0\0\x01\0" + struct.pack("<HHIHHI", 0x112, 3, 1, turn, 0, 0)
            yield f"turn{turn}-{name}", data[:2] + b"\xff\xe1" + struct.pack(">H", len(exif) + 2) + exif + data[2:]


def _other_readings(rgb: np.ndarray, chance: random.Random) -> Iterator[tuple[str, bytes]]:
    """Width, depth, byte order, predictor and interlacing are not as the header states them, and no checksum tells."""
    grey = np.asarray(Image.fromarray(rgb).convert("L"))
    height, width = grey.shape
    noise = np.frombuffer(chance.randbytes(grey.size), np.uint8).reshape(grey.shape)
    deep = grey.astype(np.uint16) * 256 + noise
    for name, values in (("8", grey), ("16", deep), ("rgb", rgb)):
        for other in (120, 160, 240, 320, 400, 512, 600, 960, 1280, 1920, height):
            torn = values.reshape(-1, other, *values.shape[2:])
            if other != width:
                yield f"wide{other}-{name}.tif", tiff(torn)
                yield f"wide{other}-{name}-packed.tif", tiff(torn, compression="adobe_deflate")
        for compression, stated in itertools.product((5, 32946), (1, 2)):
            options = [cv2.IMWRITE_TIFF_COMPRESSION, compression, cv2.IMWRITE_TIFF_PREDICTOR, stated]
            data = cv2.imencode(".tif", values, options)[1].tobytes()
            tag = struct.pack("<HHIH", 317, 3, 1, stated)
            yield f"predictor{compression}-{stated}-{name}.tif", data.replace(tag, tag[:-2] + bytes([3 - stated, 0]))
    header = b"P5\n%d %d\n" % (width, height)
    for white, values in ((65535, deep), (4095, deep >> 4), (65535, deep >> 4)):
        yield f"little{white}-{values.max()}.pgm", header + b"%d\n" % white + values.astype("<u2").tobytes()
    for white in (1, 100, 127, 250, 256, 60000):
        yield f"white{white}.pgm", header + b"%d\n" % white + grey.tobytes()
        yield f"white{white}-16.pgm", header + b"%d\n" % white + deep.astype(">u2").tobytes()
    yield "bytes.bmp", saved(Image.fromarray(deep.view(np.uint8)), "BMP")
    yield "bytes.tif", tiff((deep >> 4).view(np.uint8))
    for interlace in (0, 1):
        gif = saved(Image.fromarray(grey), "GIF", interlace=interlace)
        flags = gif.index(b",\0\0\0\0") + 9
        yield f"interlace{interlace}.gif", _replaced(gif, flags, bytes([gif[flags] ^ 0x40]))
    for start in (51, 53, 55, 57, 58, 1494):
        yield f"start{start}.bmp", _replaced(saved(Image.fromarray(rgb), "BMP"), 10, struct.pack("<I", start))
    yield "top-down.bmp", _replaced(saved(Image.fromarray(rgb), "BMP"), 22, struct.pack("<i", -height))


def _altered(whole: dict[str, bytes], rgb: np.ndarray, chance: random.Random) -> Iterator[tuple[str, bytes]]:
    """Text transfers, single bits, chunks of a PNG, transparency, sizes and repeated strips."""
    for name, data in whole.items():
        yield f"crlf-{name}", data.replace(b"\n", b"\r\n")
        yield f"lf-{name}", data.replace(b"\r\n", b"\n")
        yield f"seven-bits-{name}", bytes(byte & 127 for byte in data)
        for number in (1, 4, 30, 300):
            damaged = bytearray(data)
            for _ in range(number):
                damaged[chance.randrange(len(damaged))] ^= 1 << chance.randrange(8)
            yield f"flips{number}-{name}", bytes(damaged)
    png = whole["rgb.png"]
    start = png.index(b"IDAT") - 4
    after = start + 12 + int.from_bytes(png[start : start + 4], "big")
    yield "crc.png", _replaced(png, after - 4, b"\0\0\0\1")
    yield "no-data.png", png[:start] + png[-12:]
    yield "one-chunk-less.png", png[:start] + png[after:]
    frames = io.BytesIO()
    Image.fromarray(rgb[::-1]).save(frames, "PNG", save_all=True, append_images=[Image.fromarray(rgb)])
    yield "animated.png", frames.getvalue()
    clear = np.full(rgb.shape[:2], 255, np.uint8)
    clear[100:400, 100:400] = 0
    yield "clear.png", saved(Image.fromarray(np.dstack([rgb, clear])), "PNG")
    yield "clear.tif", tiff(np.dstack([rgb, clear]), photometric="rgb", extrasamples=["unassalpha"])
    for side in (1, 8, 16, 24):
        yield f"tiny{side}.png", saved(Image.fromarray(rgb).resize((side, side)), "PNG")
    strip = np.concatenate([rgb[:200], *[rgb[200:240]] * 4, rgb[360:]])
    yield "strip.bmp", saved(Image.fromarray(strip), "BMP")
    for bits in (64, 128):
        yield f"one-bit{bits}.png", saved(Image.fromarray(rgb[..., 1] > bits), "PNG")


def narrow_part(rgb: np.ndarray) -> Image.Image:
    """The part, 24 pixels wide, upright on a pure black ground; its edge is soft."""
    ground, mask = np.zeros((480, 640, 3), np.uint8), np.zeros((480, 640), np.float32)
    ground[40:440, 300:324] = cv2.resize(rgb[rgb.shape[0] // 5 : -rgb.shape[0] // 5], (24, 400), interpolation=3)
    mask[40:440, 300:324] = 1
    return Image.fromarray(np.rint(ground * cv2.GaussianBlur(mask, (0, 0), 0.8)[..., None]).astype(np.uint8))


def _narrow(rgb: np.ndarray, chance: random.Random) -> Iterator[tuple[str, bytes]]:
    for kind, mode in itertools.product(("BMP", "PPM", "TIFF"), ("RGB", "L")):
        data = saved(narrow_part(rgb).convert(mode), kind)
        for number in range(4):
            end = len(data) - (chance.randrange(60, 420) * 640 - chance.choice((0, 310))) * len(mode)
            yield f"narrow{number}-{mode}.{kind.lower()}", data[:end] + bytes(len(data) - end)


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
