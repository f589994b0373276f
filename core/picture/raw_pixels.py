"""Finds missing data in uncompressed pixels. They have no checksum, so the pixels themselves must show it."""

from typing import Final, NamedTuple

import numpy as np

_SECTOR: Final = 512  # bytes; disks and copies lose whole sectors
_FILLS: Final = (0, 0xFF)  # bytes of reserved and of erased space
_FADE: Final = 8  # rows; a gradient more than doubles over them
_NARROW: Final = 64  # a row with fewer of its bytes lit, 1/64, is too narrow to show that the next row is missing


class RawPixels(NamedTuple):
    """The uncompressed pixels of a file."""

    data: bytes  # rows in the file's order, all of the same length
    rows: int


def find_missing(pixels: RawPixels, file: bytes) -> str | None:
    """Why the picture is incomplete; None if it looks whole. A black or white border looks whole."""
    rows = np.frombuffer(pixels.data, np.uint8).reshape(pixels.rows, -1)
    if _stops(rows):
        return "its last rows are empty, as of a file that is only half written"
    if _has_hole(file):
        return "a part of it is zeros, as of a file that was not copied completely"
    return None


def _stops(rows: np.ndarray) -> bool:
    """Whether the rows, uint8 [H, bytes], end in a fill that begins at once.

    The edge of a part fades into a black background, or narrows, and a drawn gradient fades. Where writing stopped,
    the last written row, or the part of it, is as bright as the rows before.
    """
    fill = rows[-1, -1]
    if fill not in _FILLS:
        return False
    lit = rows ^ fill  # 0: filled
    widths = np.count_nonzero(lit, axis=1)
    written = np.flatnonzero(widths)
    last = written[-1] if written.size else 0
    if not 2 <= last < len(rows) - 1:
        return False
    until = np.flatnonzero(lit[last])[-1] + 1
    if until < rows.shape[1] / _NARROW:  # too few pixels to compare: take the last whole row
        last, until = last - 1, rows.shape[1]
    here, before, earlier = (int(lit[max(0, row), :until].sum()) for row in (last, last - 1, last - _FADE))
    wide = max(np.median(widths[written]) / 2, rows.shape[1] / _NARROW)
    return bool(4 * here > 3 * before and 2 * here > earlier and widths[last - 1] > wide)


def _has_hole(file: bytes) -> bool:
    """Whether whole sectors of the file are zeros, and the bytes on both sides are not."""
    content = np.frombuffer(file, np.uint8)
    sectors = content[: content.size // _SECTOR * _SECTOR].reshape(-1, _SECTOR)
    is_empty = np.concatenate([[False], ~sectors.any(axis=1), [False]])
    starts, ends = (np.flatnonzero(is_empty[1:] != is_empty[:-1]).reshape(-1, 2) * _SECTOR).T
    inside = (starts > 0) & (ends < content.size)
    return bool((content[starts[inside] - 1].astype(bool) & content[ends[inside]].astype(bool)).any())
