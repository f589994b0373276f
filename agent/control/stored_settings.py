"""Settings that were changed by commands, and the ids of these commands, in a file that survives a restart."""

import logging
import threading
from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field

from zsad_agent.config import TopicLevel
from zsad_agent.control.command import CommandId, Name
from zsad_agent.control.freshness import MAX_SEEN_IDS, ReplayGuard
from zsad_agent.spool import SpoolClock, Stamp
from zsad_agent.system import file_stamp, read_json, write_whole
from zsad_core.config import StrictModel

logger = logging.getLogger(__name__)

FILE_NAME = "settings.json"  # in the state folder
MAX_FILE_BYTES = 4_000_000
CLOSE_S = 0.3  # for a write in progress at the end


class CameraSettings(StrictModel):
    """Commanded settings of one camera; None: the config's value."""

    threshold: Annotated[float, Field(ge=0, le=1)] | None = None
    threshold_scale: Literal["taught", "not taught"] | None = None  # as of `RunningAgent.scale`; None: unknown
    product: Name | None = None
    paused: bool | None = None


class _Content(StrictModel):
    format: Literal[1] = 1
    cameras: dict[TopicLevel, CameraSettings] = Field(default_factory=dict)
    seen: dict[CommandId, float] = Field(default_factory=dict, max_length=MAX_SEEN_IDS)  # id -> sent at
    forgotten_up_to_s: float | None = None
    anchor: Stamp | None = None


class StoredSettings:
    """Read once, kept in memory, written whole after each change. One thread, except for `close` and `fault`.

    A file that cannot be read or is damaged is renamed to `<file>.corrupt`, and the config's values are used. The ids
    of its commands are then unknown, so every command that was sent before this start is refused, as without a file.

    A change that cannot be written is kept in memory, is a `fault`, and is written with the next one. Until then a
    command can be replayed after a restart.

    The settings of a camera that was removed from the config are kept. `BundleStore` stores the selected bundle.
    """

    def __init__(self, path: Path, *, clock: SpoolClock | None = None) -> None:
        """Reads the file, whose folder is created at the first write. An error is in `damage` and `fault`."""
        self._clock = clock or SpoolClock()
        self.path = path
        self._lock = threading.Lock()
        self._closed = False
        self._stamp = file_stamp(path)  # of the file that this object has read or written
        self.fault: str | None = None  # why settings were lost, or will be lost at a restart
        self.damage: str | None = None  # why the file was not used, for as long as the process runs
        content = self._read()
        self._cameras = dict(content.cameras)
        self.guard = ReplayGuard(
            content.seen,
            forgotten_up_to_s=content.forgotten_up_to_s,
            anchor=content.anchor,
            started=self._clock.stamp(),
        )

    def camera(self, name: str) -> CameraSettings:
        return self._cameras.get(name, CameraSettings())

    def set_camera(self, name: str, settings: CameraSettings) -> None:
        """Call `save` afterwards."""
        self._cameras[name] = settings

    def save(self) -> bool:
        """Writes all settings; a kill or power cut cannot lose them afterwards. False if the disk failed."""
        content = _Content(
            cameras=self._cameras,
            seen=self.guard.seen,
            forgotten_up_to_s=self.guard.forgotten_up_to_s(self._clock.stamp()),
            anchor=self.guard.anchor,
        )
        with self._lock:
            if self._closed:
                return False
            try:
                self.path.parent.mkdir(parents=True, exist_ok=True)
                write_whole(self.path, content.model_dump_json(exclude_none=True).encode())
                self._stamp = file_stamp(self.path)
            except OSError as error:
                self._note(f"settings cannot be stored in {self.path}: {error.strerror or error}")
                return False
            self._note(None)
            return True

    def check(self) -> None:
        """Writes the settings again if another program has removed or replaced the file. Call it regularly."""
        if file_stamp(self.path) == self._stamp:
            return
        if self.fault is None:
            logger.error(
                "settings %s: another program has removed or replaced the file: it is written again", self.path
            )
        self.save()

    def close(self) -> None:
        """Ends all writing, because the next run opens the file. Waits `CLOSE_S` for a write in progress."""
        self._closed = True
        if self._lock.acquire(timeout=CLOSE_S):
            self._lock.release()

    def _note(self, fault: str | None) -> None:
        if fault == self.fault:
            return
        if fault is not None:
            logger.error("%s; commands are active until the next restart only", fault)
        else:
            logger.warning("settings are stored in %s again", self.path)
        self.fault = fault

    def _read(self) -> _Content:
        try:
            content = read_json(self.path, _Content, MAX_FILE_BYTES)
        except ValueError as error:
            self._set_aside(str(error))
            content = None
        return content or _Content()

    def _set_aside(self, reason: str) -> None:
        aside = self.path.with_name(self.path.name + ".corrupt")
        try:
            self.path.replace(aside)
            self._stamp = None
            outcome = f"the file is renamed to {aside.name}"
        except OSError as error:
            outcome = f"the file cannot be renamed: {error.strerror or error}"
        self.damage = (
            f"the stored settings {self.path} cannot be used ({reason}); {outcome}; the config's values are used"
        )
        self.fault = self.damage
        logger.error("%s", self.damage)
