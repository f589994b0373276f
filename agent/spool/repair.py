"""Reads SQLite's write-ahead log, because SQLite skips its damaged parts without an error.

Layout: https://www.sqlite.org/fileformat2.html#the_write_ahead_log
"""

import struct
from pathlib import Path

_HEADER = struct.Struct(">IIIIIIII")  # magic, version, page size, checkpoint number, two salts, two checksums
_FRAME = struct.Struct(">IIII")  # page, pages of the file after a commit (0: no commit), two salts
_FRAME_HEADER_BYTES = 24
_MAGIC = (0x377F0682, 0x377F0683)
_PAGE_SIZES = [1 << power for power in range(9, 17)]


def committed_frames(wal: Path) -> int | None:
    """Number of frames up to the last commit, with correct checksums or not; None when the log's header is damaged.

    Frames from before the last checkpoint, which SQLite overwrites one by one, have other salts and do not count.

    Raises:
        OSError: the log cannot be read.
    """
    try:
        file = wal.open("rb")
    except FileNotFoundError:
        return 0
    with file:
        header = file.read(_HEADER.size)
        if not header.strip(b"\0"):
            return 0  # empty, or a power cut came before it was written
        if len(header) < _HEADER.size:
            return None
        magic, _, page_size, _, *salts, sum_1, sum_2 = _HEADER.unpack(header)
        if magic not in _MAGIC or page_size not in _PAGE_SIZES or _checksum(header[:24], magic) != (sum_1, sum_2):
            return None
        committed = number = 0
        while len(start := file.read(_FRAME.size)) == _FRAME.size:
            _, pages_after, *frame_salts = _FRAME.unpack(start)
            number += 1
            if pages_after and frame_salts == salts:
                committed = number
            file.seek(_HEADER.size + number * (_FRAME_HEADER_BYTES + page_size))
        return committed


def _checksum(content: bytes, magic: int) -> tuple[int, int]:
    """Checksum over pairs of 32-bit words; `magic` gives their byte order."""
    words = struct.unpack(f"{'>' if magic & 1 else '<'}{len(content) // 4}I", content)
    sum_1 = sum_2 = 0
    for even, odd in zip(words[::2], words[1::2], strict=True):
        sum_1 = (sum_1 + even + sum_2) & 0xFFFFFFFF
        sum_2 = (sum_2 + odd + sum_1) & 0xFFFFFFFF
    return sum_1, sum_2
