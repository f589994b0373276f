"""The cameras that the kernel knows, and those that aravis finds."""

import contextlib
import fcntl
import json
import os
import re
import struct
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

_NODE = re.compile(r"video([0-9]{1,6})")
_QUERYCAP, _CAPABILITY_BYTES, _DEVICE_CAPS_AT = 0x80685600, 104, 88  # linux/videodev2.h
_CAPTURES = 0x1 | 0x1000  # VIDEO_CAPTURE and VIDEO_CAPTURE_MPLANE
_LIBRARIES = Path("/etc/ld.so.cache")  # the names of all that are installed
_LIST = "import json; from zsad_agent.cameras import load_aravis; print(json.dumps(load_aravis().device_ids()))"
_LIST_S = 10.0  # a second, on a machine without other work


@dataclass(frozen=True, kw_only=True)
class Device:
    """A camera."""

    key: Literal["camera", "aravis"] = "camera"  # in the config
    id: str  # its value there
    path: str  # of a GenICam camera: its id
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


def list_genicam() -> list[Device]:
    """The GenICam cameras that answer on the networks and USB ports. Takes a second if libaravis is installed.

    It runs in a process of its own, because a driver may hang or crash.
    """
    try:
        if b"libaravis-0.8.so.0" not in _LIBRARIES.read_bytes():
            return []
        command = [sys.executable, "-P", "-c", _LIST]  # -P: do not import from the current folder
        told = subprocess.run(
            command, stdin=subprocess.DEVNULL, capture_output=True, timeout=_LIST_S, check=True
        ).stdout
        ids = json.loads(told.splitlines()[-1])
    except (OSError, subprocess.SubprocessError, ValueError, IndexError):
        return []
    return [Device(key="aravis", id=each, path=each, by_id=None, name="GenICam") for each in ids]


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
