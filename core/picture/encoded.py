"""What can be said of a picture file from its bytes alone, before anything decodes it."""

import re

_JPEG_MARKER = re.compile(rb"\xff[^\x00\xd0-\xd7\xff]", re.DOTALL)  # not a stuffed byte, restart or fill
_JPEG_START, _JPEG_END = 0xD8, 0xD9


def find_fault(encoded: bytes) -> str | None:
    """Why a file's content must not be scored though OpenCV would read it; None where nothing speaks against it.

    OpenCV fills the missing part of a cut JPEG or PNG with grey and calls it read; other cut formats it refuses by
    itself. Of an animated PNG it reads the first frame alone, and does not count the others as pictures. What follows a
    picture's own end (a second one, a phone's film) is no fault.
    """
    if encoded.startswith(b"\xff\xd8") and not _jpeg_ends(encoded):
        return "the JPEG is truncated: it has no end-of-image marker"
    if encoded.startswith(b"\x89PNG"):
        chunks = _png_chunks(encoded)
        if b"IEND" not in chunks:
            return "the PNG is truncated: it has no IEND chunk"
        if b"acTL" in chunks:
            return "an animated PNG, of which only the first picture would be seen: split it"
    return None


def _jpeg_ends(encoded: bytes) -> bool:
    """Walks the segments, so that the end marker of an embedded thumbnail does not count (ITU-T T.81, annex B).

    Nor does that of a picture that begins before this one has ended, as where a connection lost bytes.
    """
    position = 2
    while found := _JPEG_MARKER.search(encoded, position):
        marker, position = found[0][-1], found.end()
        if marker == _JPEG_END:
            return True
        if marker == _JPEG_START:
            return False
        if marker != 0x01:  # which has no length
            position += int.from_bytes(encoded[position : position + 2], "big")
    return False


def _png_chunks(encoded: bytes) -> set[bytes]:
    """The types of the whole chunks, up to the end of the picture."""
    types: set[bytes] = set()
    position = 8
    while position + 12 <= len(encoded) and b"IEND" not in types:
        types.add(encoded[position + 4 : position + 8])
        position += 12 + int.from_bytes(encoded[position : position + 4], "big")
    return types
