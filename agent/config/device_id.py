"""The default device id: the host name and a mark of the hardware, because copies of a disk share all else."""

import hashlib
import logging
import re
import socket
from contextlib import suppress
from pathlib import Path

from zsad_agent.config.camera import TopicLevel
from zsad_agent.config.paths import default_state_dir
from zsad_agent.system import read_json, write_whole
from zsad_core.config import RecordModel
from zsad_core.errors import ConfigError

logger = logging.getLogger(__name__)

FILE_NAME = "device.json"
MOST_BYTES = 10_000  # of the file
MOST_OF_HOST = 55  # characters; with the mark 64
MARK_DIGITS = 8
PERMANENT = "0"  # NET_ADDR_PERM of the kernel: the address is the card's, neither random nor set


class DeviceRecord(RecordModel):
    """The default device id of earlier starts, and the hardware that it was made for."""

    device_id: TopicLevel
    hardware: tuple[str, ...]  # empty: unknown


def default_device_id(state_dir: Path | None = None, root: Path = Path("/")) -> str:
    """The recorded id if there is one for this hardware, else one with a mark of the hardware.

    An agent of an earlier version, which left no record, has the host name as id and keeps it. `root` has `sys` and
    `etc`.
    """
    with suppress(ConfigError, OSError):  # no folder: the daemon states it; other commands need none
        state_dir = state_dir or default_state_dir()
        if (record := _recorded(state_dir)) is not None:
            present = _hardware(root)
            if not record.hardware or not present or present & set(record.hardware):
                return record.device_id
        names = {entry.name for entry in state_dir.iterdir()} - {"lost+found"}
        if names and FILE_NAME not in names:  # a damaged record is not of an earlier version
            return _host()
    return _marked(root)


def keep_device_id(state_dir: Path, root: Path = Path("/")) -> None:
    """Records the default device id, so that it stays when the host name or a part of the hardware changes.

    Logs a warning if the record is that of another machine, whose disk was copied.
    """
    before, device_id = _recorded(state_dir), default_device_id(state_dir, root)
    hardware = _hardware(root)
    if before is not None and before.device_id == device_id:
        hardware |= set(before.hardware)  # a card may be found late at one start
    record = DeviceRecord(device_id=device_id, hardware=tuple(sorted(hardware)))
    if record == before:
        return
    if before is not None and before.device_id != device_id:
        logger.warning(
            "this disk is a copy of another machine's, or the hardware is new: the default device_id is %s, no longer "
            "%s. To choose it, set device_id",
            device_id,
            before.device_id,
        )
    with suppress(OSError):  # the spool reports a disk that cannot be written
        state_dir.mkdir(parents=True, exist_ok=True)
        write_whole(state_dir / FILE_NAME, record.model_dump_json().encode())


def _recorded(state_dir: Path) -> DeviceRecord | None:
    with suppress(ValueError):  # damaged
        return read_json(state_dir / FILE_NAME, DeviceRecord, MOST_BYTES)
    return None


def _host() -> str:
    return re.sub(r"[^A-Za-z0-9_.-]", "-", socket.gethostname())[:64] or "zsad"


def _marked(root: Path) -> str:
    machine = sorted(_hardware(root)) or [_text(root / "etc/machine-id")]
    mark = hashlib.sha256("\n".join(["zsad-agent", *machine]).encode()).hexdigest()[:MARK_DIGITS]
    return f"{_host()[:MOST_OF_HOST]}-{mark}"


def _hardware(root: Path) -> set[str]:
    """The serial number of the board, or else the permanent addresses of its network cards."""
    serial = _text(root / "sys/firmware/devicetree/base/serial-number").strip("\0")
    if serial.strip("0"):
        return {f"serial {serial}"}
    cards = [card for card in root.glob("sys/class/net/*") if (card / "device").exists()]
    addresses = {_text(card / "address") for card in cards if _text(card / "addr_assign_type") == PERMANENT}
    return {f"address {address}" for address in addresses if address.strip("0:")}


def _text(path: Path) -> str:
    try:
        return path.read_text(errors="replace").strip()
    except OSError:
        return ""
