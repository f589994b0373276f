"""What each command does to the running agent and to the stored settings."""

import logging
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Protocol

import numpy as np

from zsad_agent.config import AgentConfig
from zsad_agent.control.command import CAMERA_KEYS, DEVICE_KEYS, CommandError, Key, Value, shown
from zsad_agent.control.stored_settings import StoredSettings
from zsad_agent.inspection import render_snapshot
from zsad_agent.model import Outcome, find_bundle
from zsad_agent.system import utc_text
from zsad_core.errors import ZsadError

logger = logging.getLogger(__name__)

CONFIG, COMMAND = "config", "command"  # origin of the current value


class Controls(Protocol):
    """The running agent, as commands change it. Used from the controller's threads.

    Setters return what is then in force and raise ZsadError when they refuse, with all as it was. None is the config's.
    """

    @property
    def cameras(self) -> tuple[str, ...]: ...

    @property
    def bundle(self) -> str:
        """Name and version of the current bundle, for people."""

    @property
    def bundle_commanded(self) -> bool:
        """Whether the current bundle differs from the config's."""

    def threshold(self, camera: str) -> float: ...

    def product(self, camera: str) -> str: ...

    def paused(self, camera: str) -> bool: ...

    def set_threshold(self, camera: str, value: float | None) -> float: ...

    def set_product(self, camera: str, name: str | None) -> str: ...

    def set_paused(self, camera: str, paused: bool) -> bool: ...

    def snapshot(self, camera: str) -> np.ndarray | None:
        """The newest frame, uint8 BGR [H, W, 3]; None before the first."""

    def switch_bundle(self, name: str | None) -> str:
        """Blocks until the bundle `name` of `control.bundle_dir` is in use, also for later starts, or refused."""

    def settle_bundle(self) -> Outcome | None:
        """The outcome of a new bundle's probation, once. Called every second in the thread of `switch_bundle`."""

    def reload(self) -> None:
        """Reads the config file again and asks for a restart with it; returns before that.

        Raises:
            ConfigError: the file is wrong, and all goes on as it was.
        """


class PicturePublisher(Protocol):
    def send_picture(self, topic_suffix: str, jpeg: bytes) -> bool: ...


@dataclass(frozen=True, slots=True)
class Target:
    """The camera or device and the key that a command topic addresses."""

    camera: str | None  # None: the device
    key: Key

    @property
    def suffix(self) -> str:
        """Below `<prefix>/<device_id>`, without `/set` or `/state`."""
        return str(self.key) if self.camera is None else f"{self.camera}/{self.key}"


@dataclass(frozen=True, slots=True)
class _Setting:
    """A setting of a camera: how it is read and changed. `change` takes a value that `KINDS` accepts."""

    read: Callable[[str], Value]
    change: Callable[[str, Any], object]


class Actions:
    """Used from one thread."""

    def __init__(
        self,
        controls: Controls,
        publisher: PicturePublisher,
        config: AgentConfig,
        stored: StoredSettings,
        *,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._controls = controls
        self._publisher = publisher
        self._config = config
        self._stored = stored
        self._clock = clock
        self._commanded: set[Target] = set()  # targets whose stored value is in use
        self._done_at: dict[Target, str] = {Target(None, Key.RELOAD): self._now()}
        self._settings = {
            Key.THRESHOLD: _Setting(controls.threshold, controls.set_threshold),
            Key.PRODUCT: _Setting(controls.product, controls.set_product),
            Key.PAUSED: _Setting(controls.paused, lambda camera, value: controls.set_paused(camera, bool(value))),
        }
        self._once: dict[Key, Callable[[Target, Value], None]] = {
            Key.SNAPSHOT: self._send_snapshot,
            Key.BUNDLE: self._switch_bundle,
            Key.RELOAD: self._reload,
        }

    @property
    def targets(self) -> list[Target]:
        of_cameras = [Target(camera, key) for camera in self._controls.cameras for key in CAMERA_KEYS]
        return of_cameras + [Target(None, key) for key in DEVICE_KEYS]

    def present(self, target: Target) -> tuple[Value, str]:
        """The current value and its origin. For a key without a value: UTC of the last time it was done."""
        if target.key is Key.BUNDLE:
            return self._controls.bundle, COMMAND if self._controls.bundle_commanded else CONFIG
        setting = self._settings.get(target.key)
        value = self._done_at.get(target) if setting is None else setting.read(str(target.camera))
        return value, COMMAND if target in self._commanded else CONFIG

    def perform(self, target: Target, value: Value) -> bool:
        """Carries out the command. Returns whether a setting must be saved.

        Raises:
            ZsadError: refused; all is as it was.
        """
        if (action := self._once.get(target.key)) is not None:
            action(target, value)
            return False
        self._set(target, value)
        self._keep(target, value)
        return True

    def restore_cameras(self, keys: tuple[Key, ...] = CAMERA_KEYS) -> Iterator[tuple[Target, str]]:
        """Applies the stored settings of the cameras. Yields those that are refused, with the reason."""
        for target in self.targets:
            if target.camera is not None and target.key in keys:
                value = getattr(self._stored.camera(target.camera), target.key, None)  # also None for a snapshot
                if value is not None:
                    yield from self._restore(target, value)

    def settle_bundle(self) -> Outcome | None:
        """See `Controls`."""
        return self._controls.settle_bundle()

    def _restore(self, target: Target, value: Value) -> Iterator[tuple[Target, str]]:
        self._commanded.discard(target)
        try:
            self._set(target, value)
        except Exception as error:  # any error: the agent still starts
            if not isinstance(error, ZsadError):
                logger.exception("%s: the stored value could not be restored", target.suffix)
            try:
                self._set(target, None)
            except Exception:
                logger.exception("%s: the config's value could not be restored", target.suffix)
            note = f"the stored value {shown(str(value))} is refused, the config's is used: {error}"
            logger.warning("%s: %s", target.suffix, " ".join(note.split()))
            yield target, note
        else:
            self._commanded.add(target)
            logger.info("%s: %s, as commanded before this start", target.suffix, shown(str(value)))

    def _set(self, target: Target, value: Value) -> None:
        self._settings[target.key].change(str(target.camera), value)

    def _reload(self, target: Target, value: Value) -> None:
        self._controls.reload()
        self._done_at[target] = self._now()

    def _switch_bundle(self, target: Target, value: Value) -> None:
        name = None if value is None else str(value)
        if name is not None:
            find_bundle(self._config.control.bundle_dir, name)
        self._controls.switch_bundle(name)

    def _keep(self, target: Target, value: Value) -> None:
        """For the next start."""
        if value is None:
            self._commanded.discard(target)
        else:
            self._commanded.add(target)
        camera = str(target.camera)
        before = self._stored.camera(camera)
        self._stored.set_camera(camera, before.model_copy(update={str(target.key): value}))

    def _send_snapshot(self, target: Target, value: Value) -> None:
        camera = str(target.camera)
        frame = self._controls.snapshot(camera)
        if frame is None:
            raise CommandError("there is no picture: the camera has given none yet")
        jpeg = render_snapshot(frame, self._config.heatmap)
        if jpeg is None:
            raise CommandError(
                f"even a small picture is above heatmap.max_bytes = {self._config.heatmap.max_bytes}; raise it"
            )
        if not self._publisher.send_picture(f"{camera}/image", jpeg):
            raise CommandError("the picture could not be sent: no connection to the broker")
        self._done_at[target] = self._now()

    def _now(self) -> str:
        return utc_text(datetime.fromtimestamp(self._clock(), UTC))
