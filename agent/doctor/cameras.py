"""The cameras of this machine, and whether the sources of the config give pictures."""

import fcntl
import getpass
import os
import struct
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from zsad_agent.config import AgentConfig, CameraConfig
from zsad_agent.doctor.finding import Finding, State
from zsad_agent.doctor.network import agent_runs
from zsad_agent.probing import Device, list_devices, list_genicam
from zsad_agent.sources import Source, make_source
from zsad_core.errors import ImageError, SourceError
from zsad_core.redaction import redacted

MEASURE_S = 2.0  # for the frame rate
RECEIVE_BYTES, JUMBO_BYTES = 33_554_432, 8_000  # that a GigE Vision camera should have
_ENUM_FORMAT, _ENUM_SIZE = 0xC0405602, 0xC02C564A  # linux/videodev2.h
_FORMAT_BYTES, _SIZE_BYTES = 64, 44
_CAPTURE, _DISCRETE = 1, 1
MAX_LISTED = 64  # formats of a camera, sizes of a format


def check_devices(
    devices: Callable[[], list[Device]] = list_devices, genicam: Callable[[], list[Device]] = list_genicam
) -> Iterator[Finding]:
    """Every V4L2 camera: formats and permission. Every GenICam camera that answers."""
    found, answering = devices(), genicam()
    for device in answering:
        yield Finding(check=f"camera {device.id}", state="ok", text=f"{device.name}: answers, aravis: {device.id}")
    if not found and not answering:
        advice = "if one is plugged in: try another port or cable, and read dmesg. A stream needs no camera here"
        yield Finding(check="cameras", state="warn", text="no V4L2 camera found", advice=advice)
    for device in found:
        name = f"camera {device.path}"
        if not os.access(device.path, os.R_OK | os.W_OK):
            advice = f"sudo usermod -aG video {getpass.getuser()}, then log in again"
            yield Finding(check=name, state="fail", text=f"{device.name}: no permission", advice=advice)
            continue
        formats = "; ".join(formats_of(device.path)) or "lists no formats"
        yield Finding(check=name, state="ok", text=f"{device.name}: {formats}")


def check_receiving(
    rmem_max: Path = Path("/proc/sys/net/core/rmem_max"), interfaces: Path = Path("/sys/class/net")
) -> Iterator[Finding]:
    """Whether this machine can receive a GigE Vision camera without losing packets."""
    buffer_bytes = int(rmem_max.read_text())
    mtus = {path.parent.name: int(path.read_text()) for path in sorted(interfaces.glob("*/mtu"))}
    mtus.pop("lo", None)
    shown = ", ".join(f"{name} {mtu}" for name, mtu in mtus.items()) or "no interface"
    text = f"receive buffers up to {buffer_bytes // 1_000_000} MB; MTU: {shown}"
    advice = []
    if buffer_bytes < RECEIVE_BYTES:
        advice.append(f"sudo sysctl -w net.core.rmem_max={RECEIVE_BYTES}")
    if not any(mtu >= JUMBO_BYTES for mtu in mtus.values()):
        advice.append("set MTU 9000 on the camera's interface and switch, for fewer packets")
    state: State = "warn" if advice else "ok"
    yield Finding(check="GigE Vision", state=state, text=text, advice="; ".join(advice))


def formats_of(path: str) -> list[str]:
    """E.g. `MJPG 1280x720 640x480`."""
    node = os.open(path, os.O_RDWR | os.O_NONBLOCK | os.O_CLOEXEC)
    try:
        return [" ".join([code.decode("ascii", "replace").strip(), *_sizes(node, code)]) for code in _codes(node)]
    finally:
        os.close(node)


def _codes(node: int) -> Iterator[bytes]:
    """The four letters of each format."""
    for index in range(MAX_LISTED):
        entry = bytearray(struct.pack("II", index, _CAPTURE).ljust(_FORMAT_BYTES, b"\0"))
        try:
            fcntl.ioctl(node, _ENUM_FORMAT, entry)
        except OSError:  # the end of the list
            return
        yield bytes(entry[44:48])


def _sizes(node: int, code: bytes) -> Iterator[str]:
    for index in range(MAX_LISTED):
        entry = bytearray(struct.pack("I4s", index, code).ljust(_SIZE_BYTES, b"\0"))
        try:
            fcntl.ioctl(node, _ENUM_SIZE, entry)
        except OSError:
            return
        kind, *numbers = struct.unpack_from("7I", entry, 8)
        if kind != _DISCRETE:
            least_w, most_w, _, least_h, most_h, _ = numbers
            yield f"{least_w}x{least_h} to {most_w}x{most_h}"
            return
        yield f"{numbers[0]}x{numbers[1]}"


def check_source(camera: CameraConfig, config: AgentConfig) -> Iterator[Finding]:
    """Opens the source of a camera of the config; a live one's frame rate is measured."""
    name = f"source {camera.name}"
    try:
        yield _watched(camera, name) if camera.trigger == "folder" else _opened(camera, name)
    except SourceError as error:
        if (camera.camera or camera.aravis) is not None and agent_runs(config):  # it holds its cameras
            advice = "stop the agent to measure it: systemctl stop zsad-agent"
            yield Finding(check=name, state="warn", text="in use by the agent, not measured", advice=advice)
        else:
            advice = "check cable, power and address, and source in the config"
            yield Finding(check=name, state="fail", text=str(error), advice=advice)


def _watched(camera: CameraConfig, name: str) -> Finding:
    folder = Path(camera.source or "").expanduser()
    make_source(camera)
    if not os.access(folder, os.W_OK):
        advice = "inspected pictures are moved: let this user write there; for the service see docs/operation.md"
        return Finding(check=name, state="fail", text=f"{folder}: this user cannot write there", advice=advice)
    return Finding(check=name, state="ok", text=f"watches {folder}")


def _opened(camera: CameraConfig, name: str) -> Finding:
    with make_source(camera) as source:
        what = redacted(source.description)
        if camera.has_hardware_trigger:
            return Finding(check=name, state="ok", text=f"{what}: opens; its frames come with its hardware trigger")
        first = _picture(source)
        h, w = first
        if not source.endless:
            return Finding(check=name, state="ok", text=f"{what}: opens, {w} x {h}")
        begun_s = time.monotonic()
        frames = 0
        while (measured_s := time.monotonic() - begun_s) < MEASURE_S:
            _picture(source)
            frames += 1
    rate = frames / measured_s
    text = f"{what}: {w} x {h}, {rate:.1f} frames a second"
    if camera.fps is not None and rate < 0.8 * camera.fps:
        advice = "more light (a long exposure lowers the rate), a smaller size, or a USB 3 port"
        return Finding(check=name, state="warn", text=f"{text}, fewer than fps: {camera.fps:g}", advice=advice)
    return Finding(check=name, state="ok", text=text)


def _picture(source: Source) -> tuple[int, int]:
    """Height and width of the next one that is not damaged."""
    for _ in range(MAX_LISTED):
        try:
            picture = source.read()
        except ImageError:
            continue
        if picture is None:
            break
        h, w = picture.image.shape[:2]
        return h, w
    raise SourceError(f"{source.description}: gives no picture that can be read")
