"""A rollout: its plan, which a file keeps, and the next commands. Pure but for `PlanFile`."""

import contextlib
import fcntl
import json
import secrets
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Literal

from pydantic import ConfigDict, Field, ValidationError

from zsad_convert.fleet.devices import Device, Selection
from zsad_convert.fleet.item import FleetError, Item
from zsad_core.config import StrictModel
from zsad_core.errors import ConfigError
from zsad_core.whole_file import whole_file

AGAIN_S = 10.0  # a command without an answer is sent again with its id
REST = "rest"


class Entry(StrictModel):
    """One device of a rollout."""

    model_config = ConfigDict(frozen=False)

    wave: int  # from 1
    phase: Literal["waiting", "sent", "done", "failed", "silent"] = "waiting"
    id: str | None = None  # of the command, once it may have been sent
    text: str = ""


class Plan(StrictModel):
    """The content of the state file."""

    format: Literal[1] = 1
    action: Literal["rollout", "rollback"]
    item: Item
    devices: dict[str, Entry] = Field(default_factory=dict)

    def add(self, device_ids: Sequence[str], waves: Sequence[int | None]) -> None:
        """Plans the devices that are not planned yet, after the waves that are."""
        left = [device_id for device_id in sorted(device_ids) if device_id not in self.devices]
        first = max((entry.wave for entry in self.devices.values()), default=0) + 1
        sizes = list(waves) if first == 1 else []
        while left:
            size = (sizes.pop(0) if sizes else None) or len(left)
            for device_id in left[:size]:
                self.devices[device_id] = Entry(wave=first)
            left, first = left[size:], first + 1

    def resume(self, devices: Mapping[str, Device]) -> None:
        """A device that has failed, has not answered or has left the file gets a new command.

        An update that still goes on, or has ended well meanwhile, keeps its command.
        """
        for device_id, entry in self.devices.items():
            device = devices.get(device_id) or Device(id=device_id)
            update, was_done = device.update, entry.phase == "done"
            goes_on = update is not None and update.id == entry.id is not None and update.phase != "failed"
            if was_done and self.uses(device) is not (self.action == "rollback"):
                continue
            if entry.phase in ("done", "failed", "silent"):
                entry.phase, entry.text = ("sent" if goes_on and not was_done else "waiting"), ""
                entry.id = entry.id if entry.phase == "sent" else None

    def uses(self, device: Device) -> bool | None:
        """Whether it uses the file for good; None: unknown."""
        update = device.update
        if device.bundle is None or (update is not None and update.phase in ("trying", "probation")):
            return None
        if self.item.kind == "bundle":
            return device.bundle == self.item.in_use
        if update is None or update.phase != "done" or update.sha256 != self.item.sha256:
            return None  # of its profiles a device only says which came last
        return update.action == "fetch"

    @property
    def wave(self) -> int | None:
        """The first wave that is not done; None: all are."""
        return min((entry.wave for entry in self.devices.values() if entry.phase != "done"), default=None)

    @property
    def waves(self) -> int:
        return max((entry.wave for entry in self.devices.values()), default=0)


def parse_waves(text: str) -> list[int | None]:
    """`1,5,rest`: sizes; None for the rest, which is also what a last number leaves.

    Raises:
        ValueError: anything else.
    """
    sizes: list[int | None] = [None if part.strip() == REST else int(part) for part in text.split(",")]
    if None in sizes[:-1] or any(size is not None and size < 1 for size in sizes):
        raise ValueError("sizes from 1, and rest at the end")
    return sizes


class PlanFile:
    """The state file, for one process at a time."""

    def __init__(self, path: Path) -> None:
        self.path = path

    @contextlib.contextmanager
    def locked(self) -> Iterator[None]:
        """Refuses a second rollout with this file."""
        try:
            lock = self.path.with_name(f"{self.path.name}.lock").open("a")
        except OSError as error:
            raise ConfigError(f"{self.path}: the state cannot be kept here: {error.strerror}") from error
        with lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError as error:
                raise FleetError(f"{self.path}: another zsad-fleet uses it") from error
            yield

    def read(self) -> Plan | None:
        """None: there is no file."""
        try:
            return Plan.model_validate_json(self.path.read_bytes())
        except FileNotFoundError:
            return None
        except (OSError, ValidationError) as error:
            raise FleetError(f"{self.path}: not the state of a rollout: {error}") from error

    def write(self, plan: Plan) -> None:
        """A kill or power cut leaves the earlier content or this one."""
        with whole_file(self.path) as partial:
            partial.write_text(plan.model_dump_json(indent=1))


class Rollout:
    """Goes through the waves. A wave begins when all devices of the one before are done."""

    def __init__(
        self,
        plan: Plan,
        devices: Mapping[str, Device],
        selection: Selection,
        *,
        answer_s: float,
        wait_s: float,
    ) -> None:
        """`answer_s`: a device must answer within this time; `wait_s`: and end its update within this."""
        self.plan = plan
        self._devices, self._selection = devices, selection
        self._answer_s, self._wait_s = answer_s, wait_s
        self._began_s: dict[str, float] = {}  # of this process
        self._sent: dict[str, tuple[float, str]] = {}  # time and nonce of the last sending
        self.stopped = False

    def step(self, now_s: float) -> list[tuple[str, bytes]]:
        """Notes what the devices have said, and gives the commands to send now, after the plan was written.

        Args:
            now_s: monotonic seconds.
        """
        wave = self.plan.wave
        mine = {device_id: entry for device_id, entry in self.plan.devices.items() if entry.wave == wave}
        for device_id, entry in mine.items():
            self._began_s.setdefault(device_id, now_s)
            if entry.phase in ("waiting", "sent"):
                self._note(self._device(device_id), entry, now_s - self._began_s[device_id])
        self.stopped = any(entry.phase in ("failed", "silent") for entry in mine.values())
        if self.stopped:
            return []
        return [
            (device_id, self._command(self._device(device_id), entry, now_s))
            for device_id, entry in mine.items()
            if entry.phase in ("waiting", "sent") and self._is_due(self._device(device_id), entry, now_s)
        ]

    def _device(self, device_id: str) -> Device:
        return self._devices.get(device_id) or Device(id=device_id)

    def _note(self, device: Device, entry: Entry, waited_s: float) -> None:
        update = device.update
        refusal = device.answered[1] if entry.id is not None and device.answered[0] == entry.id else None
        if entry.phase == "sent" and update is not None and update.id == entry.id:
            entry.text = ": ".join(filter(None, (update.phase, update.text)))
            if update.phase in ("done", "failed"):
                self._end(entry, "done" if update.phase == "done" else "failed", update.text or "")
            elif waited_s > self._wait_s:
                self._end(entry, "failed", f"not over after {self._wait_s:g} s: {entry.text}")
        elif entry.phase == "sent" and entry.text and update is not None and update.id is not None:
            self._end(entry, "failed", "another command has replaced this one")
        elif entry.phase == "waiting" and self.plan.uses(device) is (self.plan.action == "rollout"):
            self._end(entry, "done", "nothing to do")
        elif update is not None and not self._selection.holds(device):
            self._end(entry, "failed", "it does not match the selection")
        elif refusal is not None and "nonce" not in refusal:  # else it is sent again
            self._end(entry, "failed", refusal)
        elif waited_s > self._answer_s:
            self._end(entry, "silent", refusal or ("no answer" if device.online else "offline"))

    @staticmethod
    def _end(entry: Entry, phase: Literal["done", "failed", "silent"], text: str) -> None:
        entry.phase, entry.text = phase, text

    def _is_due(self, device: Device, entry: Entry, now_s: float) -> bool:
        if not device.online or device.update is None or not device.takes_updates:
            return False
        if entry.phase == "sent" and device.update.id == entry.id:
            return False  # it has answered
        sent_s, nonce = self._sent.get(device.id, (float("-inf"), ""))
        refused = device.answered[0] == entry.id and device.answered[1] is not None and device.nonce != nonce
        return now_s - sent_s >= AGAIN_S or refused

    def _command(self, device: Device, entry: Entry, now_s: float) -> bytes:
        if entry.id is None:
            entry.id = f"fleet-{secrets.token_hex(8)}"
        entry.phase = "sent"
        self._sent[device.id] = now_s, str(device.nonce)
        value = self.plan.item.command(self.plan.action)
        return json.dumps({"value": value, "id": entry.id, "nonce": device.nonce}).encode()
