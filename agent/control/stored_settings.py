"""Settings that were changed by commands, and the ids of these commands, in a file that survives a restart."""

import logging
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field, ValidationError

from zsad_agent.config import TopicLevel
from zsad_agent.control.command import MAX_ID_CHARACTERS, MAX_NAME_CHARACTERS, MAX_SEEN_IDS, SeenIds
from zsad_agent.system import write_whole
from zsad_core.config import StrictModel

logger = logging.getLogger(__name__)

FILE_NAME = "settings.json"  # in the state folder
MAX_FILE_BYTES = 4_000_000
CLOSE_S = 0.3  # for a write in progress at the end
CLOCK_WAS_AHEAD_S = 3600.0  # what this device remembers of commands cannot lie further in the future
Name = Annotated[str, Field(min_length=1, max_length=MAX_NAME_CHARACTERS)]
CommandId = Annotated[str, Field(min_length=1, max_length=MAX_ID_CHARACTERS)]


class CameraSettings(StrictModel):
    """Commanded settings of one camera; None: the config's value."""

    threshold: Annotated[float, Field(ge=0, le=1)] | None = None
    product: Name | None = None
    paused: bool | None = None


class _Content(StrictModel):
    format: Literal[1] = 1
    cameras: dict[TopicLevel, CameraSettings] = Field(default_factory=dict)
    seen: dict[CommandId, float] = Field(default_factory=dict, max_length=MAX_SEEN_IDS)  # id -> sent at
    forgotten_up_to_s: float


class StoredSettings:
    """Read once, kept in memory, written whole after each change. One thread, except for `close` and `fault`.

    A file that cannot be read or is damaged is set aside as `<file>.corrupt`, in place of an earlier one, and the
    config's values hold. The ids of its commands are then unknown, as they are without a file, so that every command
    that was sent before this start is refused.

    A change that the disk does not take holds in memory, is a stated `fault`, and goes to disk with the next one. A
    replay after a restart is known by what was last written; with a full disk that is not everything.

    An entry of a camera that the config no longer has stays for the day when it has it again. The bundle is not here:
    `BundleStore` keeps it, since it may be taken back.
    """

    def __init__(self, path: Path, *, clock: Callable[[], float] = time.time) -> None:
        """Reads the file. Raises nothing: what is wrong is in `damage` and `fault`.

        Args:
            path: the file; its folder is made when it is first written.
            clock: seconds since the epoch.
        """
        self.path = path
        self._lock = threading.Lock()
        self._closed = False
        self._fault: str | None = None
        self.damage: str | None = None  # why the file was not used, for as long as the process runs
        content = self._read(clock())
        self._cameras = dict(content.cameras)
        self.seen = SeenIds(content.seen, forgotten_up_to_s=content.forgotten_up_to_s)

    @property
    def fault(self) -> str | None:
        """Why settings were lost, or will be lost at a restart; None if there is no fault."""
        return self._fault

    def camera(self, name: str) -> CameraSettings:
        return self._cameras.get(name, CameraSettings())

    def set_camera(self, name: str, settings: CameraSettings) -> None:
        """Call `save` afterwards."""
        self._cameras[name] = settings

    def save(self) -> bool:
        """Writes all settings; a kill or power cut cannot lose them afterwards. False if the disk failed."""
        content = _Content(
            cameras=self._cameras,
            seen=self.seen.sent_at_s,
            forgotten_up_to_s=self.seen.forgotten_up_to_s,
        )
        with self._lock:
            if self._closed:
                return False
            try:
                self._replace(content.model_dump_json(exclude_none=True).encode())
            except OSError as error:
                self._note(f"settings cannot be stored in {self.path}: {error.strerror or error}")
                return False
            self._note(None)
            return True

    def close(self) -> None:
        """Nothing is written from now on, whoever still holds this: the file belongs to the next one to open it.

        A write in progress is waited for, unless the disk hangs.
        """
        self._closed = True
        if self._lock.acquire(timeout=CLOSE_S):
            self._lock.release()

    def _note(self, fault: str | None) -> None:
        if fault == self._fault:
            return
        if fault is not None:
            logger.error("%s; commands hold until the next restart only", fault)
        else:
            logger.warning("settings are stored in %s again", self.path)
        self._fault = fault

    def _replace(self, encoded: bytes) -> None:
        self.path.parent.mkdir(parents=True, exist_ok=True)
        write_whole(self.path, encoded)

    def _read(self, now_s: float) -> _Content:
        try:
            with self.path.open("rb") as file:
                encoded = file.read(MAX_FILE_BYTES + 1)
            if len(encoded) > MAX_FILE_BYTES:
                raise ValueError(f"more than {MAX_FILE_BYTES} bytes")
            content = _Content.model_validate_json(encoded)
            if content.forgotten_up_to_s > now_s + CLOCK_WAS_AHEAD_S:  # else no command would be taken until then
                content = content.model_copy(update={"forgotten_up_to_s": now_s})
            return content
        except FileNotFoundError:
            pass
        except OSError as error:
            self._set_aside(error.strerror or str(error))
        except ValidationError as error:
            first = error.errors()[0]
            self._set_aside(f"{'.'.join(str(part)[:64] for part in first['loc'])}: {first['msg']}".lstrip(": "))
        except ValueError as error:
            self._set_aside(str(error))
        return _Content(forgotten_up_to_s=now_s)

    def _set_aside(self, reason: str) -> None:
        aside = self.path.with_name(self.path.name + ".corrupt")
        try:
            self.path.replace(aside)
            outcome = f"it is set aside as {aside.name}"
        except OSError as error:
            outcome = f"it cannot be set aside: {error.strerror or error}"
        self.damage = f"the stored settings {self.path} are damaged ({reason}); {outcome}; the config's values are used"
        self._fault = self.damage
        logger.error("%s", self.damage)
