"""Lets several graphs share the constants of one .bin file."""

import hashlib
from xml.etree import ElementTree


class SharedConstants:
    """The content of a .bin file that grows by the constants that it lacks."""

    def __init__(self, ir: tuple[bytes, bytes]) -> None:
        """Starts with the constants of (model.xml, model.bin)."""
        self.content = bytearray(ir[1])
        self._offsets: dict[tuple[int, bytes], int] = {}  # (size, sha256) -> offset
        for data in _constants(ElementTree.fromstring(ir[0])):
            constant, offset = _bytes_of(data, ir[1]), int(data.attrib["offset"])
            self._offsets.setdefault(_key(constant), offset)

    def add(self, ir: tuple[bytes, bytes]) -> bytes:
        """The XML of a graph whose constants lie in `content`; those that are not there yet are appended."""
        root = ElementTree.fromstring(ir[0])
        for data in _constants(root):
            constant = _bytes_of(data, ir[1])
            key = _key(constant)
            if key not in self._offsets:
                self.content += bytes(-len(self.content) % _ALIGNED_TO)
                self._offsets[key] = len(self.content)
                self.content += constant
            data.set("offset", str(self._offsets[key]))
        return b'<?xml version="1.0"?>\n' + ElementTree.tostring(root)


_ALIGNED_TO = 64  # bytes, a line of a CPU's cache


def _constants(root: ElementTree.Element) -> list[ElementTree.Element]:
    """The `data` elements that name a place in the .bin file, also those of nested graphs."""
    return [data for data in root.iter("data") if "offset" in data.attrib and "size" in data.attrib]


def _bytes_of(data: ElementTree.Element, weights: bytes) -> bytes:
    offset, size = int(data.attrib["offset"]), int(data.attrib["size"])
    return weights[offset : offset + size]


def _key(constant: bytes) -> tuple[int, bytes]:
    return len(constant), hashlib.sha256(constant).digest()
