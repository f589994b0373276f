"""Reads mutated image files in its own process, with limited and measured memory.

    python picture_fuzzer.py FOLDER SEED COUNT

Prints one JSON object: the numbers of files that were read and refused (ImageError), and the peak memory in bytes. Any
other error of the reader ends the process and shows the mutation's number.
"""

import json
import re
import resource
import struct
import sys
import zlib
from pathlib import Path

from zsad_agent.system import prepare_environment

prepare_environment()

import cv2
import numpy as np

from zsad_agent.sources import PicturesSource
from zsad_core.errors import ImageError

SUFFIXES = (".png", ".jpg", ".bmp", ".tiff", ".pgm", ".gif")
SIDES = (0, 1, 7, 0xFFFF, 0x7FFF, 10_000, 100_000, 0x7FFFFFFF, 0xFFFFFFFF)


def originals() -> list[bytes]:
    """Small valid files of every format, grey and colour, 8 and 16 bits."""
    rng = np.random.default_rng(0)
    colour = rng.integers(0, 256, (24, 40, 3), dtype=np.uint8)
    pictures = [colour, colour[..., 0].copy()]
    encoded = [cv2.imencode(suffix, picture) for suffix in SUFFIXES for picture in pictures]
    found = [data.tobytes() for written, data in encoded if written]  # not every format supports grey
    for suffix in (".png", ".tiff"):
        found.append(cv2.imencode(suffix, rng.integers(0, 65536, (24, 40, 3), dtype=np.uint16))[1].tobytes())
    for compression in (1, 5, 8):
        found.append(cv2.imencode(".tiff", colour, [cv2.IMWRITE_TIFF_COMPRESSION, compression])[1].tobytes())
    return found


def mutate(encoded: bytes, rng: np.random.Generator) -> bytes:
    """One mutation: bytes changed, mostly in the header; number overwritten; truncated; doubled; false PNG size."""
    data = bytearray(encoded)
    if data[1:4] == b"PNG" and rng.random() < 0.4:
        data[16:24] = struct.pack(">II", *(int(side) for side in rng.choice(SIDES, 2)))
        data[29:33] = struct.pack(">I", zlib.crc32(data[12:29]))
    for _ in range(int(rng.integers(0, 6))):
        reach = len(data) if rng.random() < 0.3 else min(len(data), 96)
        at = int(rng.integers(0, max(1, reach)))
        choice = rng.random()
        if choice < 0.5:
            data[at : at + 1] = rng.bytes(1)
        elif choice < 0.9:
            form = rng.choice(["<I", ">I", "<H", ">H"])
            number = int(rng.choice(SIDES)) & (0xFFFF if form[1] == "H" else 0xFFFFFFFF)
            data[at : at + struct.calcsize(form)] = struct.pack(form, number)
        else:
            data[at:at] = rng.bytes(int(rng.integers(1, 20)))
    if rng.random() < 0.2:
        del data[int(rng.integers(0, len(data) + 1)) :]
    return bytes(data) * (2 if rng.random() < 0.05 else 1)


def main(folder: Path, seed: int, count: int) -> None:
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    whole = originals()
    read = refused = 0
    path = folder / "part.png"  # the format is detected from the content
    for index in range(count):
        rng = np.random.default_rng((seed, index))
        path.write_bytes(mutate(whole[index % len(whole)], rng))
        print(index, file=sys.stderr)
        with PicturesSource([path], "fuzz") as source:
            try:
                picture = source.read()
            except ImageError as error:
                assert str(error).isprintable() and len(str(error)) < 1000, f"{index}: {error!r}"
                refused += 1
            else:
                assert picture is not None and picture.image.dtype == np.uint8 and picture.image.ndim == 3, index
                read += 1
    # Not getrusage: its peak includes the memory of the parent process.
    peak = re.search(r"VmHWM:\s+(\d+) kB", Path("/proc/self/status").read_text())
    assert peak is not None
    peak_bytes = 1024 * int(peak[1])
    print(json.dumps({"read": read, "refused": refused, "peak_bytes": peak_bytes}))


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]))
