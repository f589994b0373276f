"""Checks the bytes of an image file before it is decoded."""

import re

_JPEG_MARKER = re.compile(rb"\xff[^\x00\xd0-\xd7\xff]", re.DOTALL)  # not a stuffed byte, restart or fill
_JPEG_START, _JPEG_END = 0xD8, 0xD9


def find_fault(encoded: bytes) -> str | None:
    """A fault that OpenCV does not report; None if there is none.

    OpenCV fills the missing part of a truncated JPEG or PNG with grey and reports no error; it refuses other truncated
    formats itself. It reads only the first frame of an animated PNG, and does not count the other frames as images.
    Bytes after the image's end (a phone's video, further images that the first one declares) are not a fault.
    """
    if encoded.startswith(b"\xff\xd8"):
        end = _jpeg_end(encoded)
        if end is None:
            return "the JPEG is truncated: it has no end-of-image marker"
        if encoded.startswith(b"\xff\xd8\xff", end) and b"MPF\0" not in encoded[:end]:
            return "several JPEGs, of which only the first would be read: split it, or give it the suffix .mjpeg"
    if encoded.startswith(b"\x89PNG"):
        chunks = _png_chunks(encoded)
        if b"IEND" not in chunks:
            return "the PNG is truncated: it has no IEND chunk"
        if b"acTL" in chunks:
            return "an animated PNG, of which only the first image would be read: split it"
    return None


def _jpeg_end(encoded: bytes) -> int | None:
    """The position after the JPEG's own end marker (ITU-T T.81, annex B); None if it has none.

    It skips whole segments, so the end marker of an embedded thumbnail does not count. If another image starts before
    this one has ended, because a connection lost bytes, that image's end marker does not count either.
    """
    position = 2
    while found := _JPEG_MARKER.search(encoded, position):
        marker, position = found[0][-1], found.end()
        if marker == _JPEG_END:
            return position
        if marker == _JPEG_START:
            return None
        if marker != 0x01:  # TEM has no length field
            position += int.from_bytes(encoded[position : position + 2], "big")
    return None


def _png_chunks(encoded: bytes) -> set[bytes]:
    """The types of the complete chunks, up to the end of the image."""
    types: set[bytes] = set()
    position = 8
    while position + 12 <= len(encoded) and b"IEND" not in types:
        types.add(encoded[position + 4 : position + 8])
        position += 12 + int.from_bytes(encoded[position : position + 4], "big")
    return types
