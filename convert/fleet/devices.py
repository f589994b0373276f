"""What devices say about themselves in their retained messages. Pure: no connection, no clock."""

import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from typing import Any

from pydantic import Field, TypeAdapter, ValidationError

from zsad_core.config import RecordModel

MAX_BYTES = 262_144  # of a message
TOPICS = ("+/available", "+/stats", "+/update/state", "+/+/status", "+/+/product/state")
_LEVEL = re.compile(r"[A-Za-z0-9_.-]{1,64}")


class BundleSeen(RecordModel):
    name: str
    version: str
    sha256: str


class CameraSeen(RecordModel):
    drift: dict[str, Any] | None = None  # as in the schema of the statistics; None: nothing was taught


class StatsSeen(RecordModel):
    """`<device>/stats`, as far as it is used here."""

    at: str
    version: str
    bundle: BundleSeen
    cameras: dict[str, CameraSeen] = Field(default_factory=dict)
    faults: tuple[str, ...] = ()
    command_nonce: str | None = None


class UpdateSeen(RecordModel):
    """The value of `<device>/update/state`."""

    phase: str
    id: str | None = None
    action: str | None = None
    kind: str | None = None
    sha256: str | None = None
    text: str | None = None
    bundle: str | None = None
    tags: tuple[str, ...] = ()


class _UpdateAnswer(RecordModel):
    value: UpdateSeen
    id: str | None
    error: str | None


class _CameraSaid(RecordModel):
    """A status, or the state of the product."""

    value: str | None = None
    state: str | None = None
    reason: str | None = None


@dataclass(kw_only=True, slots=True)
class Device:
    """One device; what it has not said is None or empty."""

    id: str
    online: bool = False
    stats: StatsSeen | None = None
    update: UpdateSeen | None = None
    answered: tuple[str | None, str | None] = (None, None)  # id and error of its last answer on update/state
    products: dict[str, str] = field(default_factory=dict)  # by camera
    statuses: dict[str, str] = field(default_factory=dict)  # by camera: `ok`, or the state and its reason

    @property
    def bundle(self) -> str | None:
        """The hash of the bundle in use. That of the last update is newer than the statistics."""
        if self.update is not None and self.update.bundle is not None:
            return self.update.bundle
        return None if self.stats is None else self.stats.bundle.sha256

    @property
    def nonce(self) -> str | None:
        return None if self.stats is None else self.stats.command_nonce

    @property
    def takes_updates(self) -> bool:
        return self.update is not None and self.update.phase != "off" and self.nonce is not None

    @property
    def alarms(self) -> list[str]:
        """Faults, and cameras that are not `ok`: drift among them."""
        faults = list(self.stats.faults) if self.stats is not None else []
        return faults + [f"{camera} {text}" for camera, text in sorted(self.statuses.items()) if text != "ok"]

    def as_json(self) -> dict[str, Any]:
        """The output of `--json`."""
        stats, update = self.stats, self.update
        return {
            "device": self.id,
            "online": self.online,
            "last_seen": None if stats is None else stats.at,
            "agent": None if stats is None else stats.version,
            "bundle": None if stats is None else stats.bundle.model_dump() | {"sha256": self.bundle},
            "products": self.products,
            "alarms": self.alarms,
            "drift": {} if stats is None else {name: camera.drift for name, camera in stats.cameras.items()},
            "updates": self.takes_updates,
            "update": None if update is None else update.model_dump(include={"phase", "kind", "sha256", "text"}),
            "tags": [] if update is None else list(update.tags),
        }


@dataclass(frozen=True, kw_only=True)
class Selection:
    """Which devices a command is for."""

    match: Sequence[str] = ()  # patterns of ids, one of which must fit; empty: every id
    tags: Sequence[str] = ()  # all of which the device must have

    def holds(self, device: Device) -> bool:
        has = device.update.tags if device.update is not None else ()
        fits = not self.match or any(fnmatchcase(device.id, pattern) for pattern in self.match)
        return fits and set(self.tags) <= set(has)


class Fleet:
    """The devices below a prefix."""

    def __init__(self, prefix: str) -> None:
        self._prefix = f"{prefix}/"
        self.devices: dict[str, Device] = {}

    @property
    def topics(self) -> list[str]:
        """What to subscribe to."""
        return [f"{self._prefix}{topic}" for topic in TOPICS]

    def take(self, topic: str, payload: bytes) -> None:
        """Notes a message. One that is not of a device, or not valid, is ignored."""
        levels = topic.removeprefix(self._prefix).split("/")
        if not topic.startswith(self._prefix) or len(payload) > MAX_BYTES or not all(map(_LEVEL.fullmatch, levels)):
            return
        device_id, *suffix = levels
        device = self.devices.get(device_id) or Device(id=device_id)
        try:
            self._note(device, suffix, payload)
        except ValidationError:  # of another program
            return
        self.devices[device_id] = device

    @staticmethod
    def _note(device: Device, suffix: list[str], payload: bytes) -> None:
        match suffix:
            case ["available"]:
                device.online = payload == b"online"
            case ["stats"]:
                device.stats = _read(StatsSeen, payload)
            case ["update", "state"]:
                answer = _read(_UpdateAnswer, payload)
                device.update = None if answer is None else answer.value
                device.answered = (None, None) if answer is None else (answer.id, answer.error)
            case [camera, *_]:
                said = _read(_CameraSaid, payload) or _CameraSaid()
                text = said.value or ": ".join(filter(None, (said.state, said.reason)))
                kept = device.statuses if suffix[1] == "status" else device.products
                kept.pop(camera, None)
                if text:
                    kept[camera] = text


def _read(model: Any, payload: bytes) -> Any:
    """None: the message was removed."""
    return TypeAdapter(model).validate_json(payload) if payload else None


def one_line(text: str) -> str:
    """A text of a device without control characters, which could change a terminal."""
    return "".join(character if character.isprintable() else "?" for character in text)[:300]
