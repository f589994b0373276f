"""The cameras that the kernel knows."""

import contextlib
import fcntl
import os
import re
import struct
from dataclasses import dataclass
from pathlib import Path

_NODE = re.compile(r"video([0-9]{1,6})")
_QUERYCAP, _CAPABILITY_BYTES, _DEVICE_CAPS_AT = 0x80685600, 104, 88  # linux/videodev2.h
_CAPTURES = 0x1 | 0x1000  # VIDEO_CAPTURE and VIDEO_CAPTURE_MPLANE


@dataclass(frozen=True, kw_only=True)
class Device:
    """A camera."""

    id: str  # `camera` in the config
    path: str
    by_id: str | None  # a link that stays the same when cameras are plugged in another order
    name: str


def list_devices(sysfs: Path = Path("/sys/class/video4linux"), dev: Path = Path("/dev")) -> list[Device]:
    """Every camera, by number. A node without pictures, for example one for metadata, is left out."""
    numbers = sorted(int(match[1]) for node in _list(sysfs) if (match := _NODE.fullmatch(node.name)))
    links = {os.path.realpath(link): str(link) for link in reversed(_list(dev / "v4l/by-id"))}
    found = []
    for number in numbers:
        path = str(dev / f"video{number}")
        if _gives_pictures(path):
            by_id = links.get(os.path.realpath(path))
            found.append(Device(id=str(number), path=path, by_id=by_id, name=_name(sysfs / f"video{number}")))
    return found


def _list(folder: Path) -> list[Path]:
    try:
        return sorted(folder.iterdir())
    except OSError:
        return []


def _name(node: Path) -> str:
    try:
        text = (node / "name").read_bytes()[:200].decode("utf-8", "replace").strip()
    except OSError:
        text = ""
    return text or node.name


def _gives_pictures(path: str) -> bool:
    """True also if the driver does not answer."""
    answer = bytearray(_CAPABILITY_BYTES)
    with contextlib.suppress(OSError):
        node = os.open(path, os.O_RDWR | os.O_NONBLOCK | os.O_CLOEXEC)
        try:
            fcntl.ioctl(node, _QUERYCAP, answer)
            return bool(struct.unpack_from("I", answer, _DEVICE_CAPS_AT)[0] & _CAPTURES)
        finally:
            os.close(node)
    return True
