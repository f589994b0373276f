"""What each command does to the running agent and to the stored settings."""

import logging
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from zsad_agent.config import AgentConfig
from zsad_agent.control.command import (
    CAMERA_COMMANDS,
    CAMERA_KEYS,
    DEVICE_COMMANDS,
    CommandError,
    Key,
    TeachRequest,
    Value,
    is_commit,
    shown,
)
from zsad_agent.control.running_agent import RunningAgent
from zsad_agent.control.stored_settings import StoredSettings
from zsad_agent.inspection import render_snapshot
from zsad_agent.model import find_bundle
from zsad_agent.mqtt import Publisher
from zsad_agent.system import utc_text
from zsad_agent.updating import UpdateRequest
from zsad_core.errors import ZsadError

logger = logging.getLogger(__name__)

CONFIG, COMMAND = "config", "command"  # origin of the current value
Shown = float | str | bool | dict[str, Any] | None  # the value in a state


@dataclass(frozen=True, slots=True)
class Target:
    """The camera or device and the key that a command topic addresses."""

    camera: str | None  # None: the device
    key: Key

    @property
    def suffix(self) -> str:
        """Below `<prefix>/<device_id>`, without `/set` or `/state`."""
        return str(self.key) if self.camera is None else f"{self.camera}/{self.key}"


class Actions:
    """Used from one thread."""

    def __init__(
        self,
        agent: RunningAgent,
        publisher: Publisher,
        config: AgentConfig,
        stored: StoredSettings,
    ) -> None:
        self._agent = agent
        self._publisher = publisher
        self._config = config
        self._stored = stored
        self._commanded: set[Target] = set()  # targets whose stored value is in use
        self._done_at: dict[Target, str] = {Target(None, Key.RELOAD): utc_text(datetime.now(UTC))}
        self._read: dict[Key, Callable[[str], Shown]] = {
            Key.THRESHOLD: agent.threshold,
            Key.PRODUCT: agent.product,
            Key.PAUSED: agent.paused,
        }
        self._set: dict[Key, Callable[[str, Any], None]] = {  # the value of None is the config's
            Key.THRESHOLD: agent.set_threshold,
            Key.PRODUCT: agent.set_product,
            Key.PAUSED: agent.set_paused,
        }
        self._once: dict[Key, Callable[[Target, Any], None]] = {
            Key.SNAPSHOT: self._send_snapshot,
            Key.BUNDLE: self._switch_bundle,
            Key.RELOAD: self._reload,
            Key.TEACH: self._teach,
        }

    @property
    def targets(self) -> list[Target]:
        of_cameras = [Target(camera, key) for camera in self._agent.cameras for key in CAMERA_COMMANDS]
        return of_cameras + [Target(None, key) for key in DEVICE_COMMANDS]

    def present(self, target: Target) -> tuple[Shown, str]:
        """The current value and its origin. For a key without a value: UTC of the last time it was done."""
        if target.key is Key.TEACH:
            return self._agent.teaching(str(target.camera)), COMMAND
        if target.key is Key.UPDATE:
            return self._agent.updating(), COMMAND
        if target.key is Key.BUNDLE:
            return self._agent.bundle, COMMAND if self._agent.bundle_commanded else CONFIG
        read = self._read.get(target.key)
        value = self._done_at.get(target) if read is None else read(str(target.camera))
        return value, COMMAND if target in self._commanded else CONFIG

    def perform(self, target: Target, value: Value, command_id: str | None = None) -> bool:
        """Carries out the command. Returns whether a setting must be saved.

        Raises:
            ZsadError: refused; nothing has changed.
        """
        if isinstance(value, UpdateRequest):
            if command_id is None:
                raise CommandError("an update is a command over MQTT, with an id")
            self._agent.update(value, command_id)
            return False
        if (action := self._once.get(target.key)) is not None:
            action(target, value)
            return is_commit(value)
        camera = str(target.camera)
        self._set[target.key](camera, value)
        (self._commanded.discard if value is None else self._commanded.add)(target)
        update = {str(target.key): value}
        if target.key is Key.THRESHOLD:
            update["threshold_scale"] = self._agent.scale(camera)
        self._stored.set_camera(camera, self._stored.camera(camera).model_copy(update=update))
        return True

    def drop_old_thresholds(self) -> list[Target]:
        """Drops the commanded thresholds whose scores mean something else by now, and returns them.

        The score of a taught product has another scale than that of one that is not taught. With a threshold of the
        other scale every part could pass.
        """
        dropped = []
        for target in [one for one in self._commanded if one.key is Key.THRESHOLD]:
            camera = str(target.camera)
            stored, scale = self._stored.camera(camera), self._agent.scale(camera)
            if stored.threshold_scale in (None, scale):
                continue
            logger.warning(
                "%s: %s was set while the product was %s. It is dropped, because the product is %s now",
                target.suffix,
                stored.threshold,
                stored.threshold_scale,
                scale,
            )
            self._agent.set_threshold(camera, None)
            self._commanded.discard(target)
            self._stored.set_camera(camera, stored.model_copy(update={"threshold": None, "threshold_scale": None}))
            dropped.append(target)
        return dropped

    def restore_cameras(self, keys: tuple[Key, ...] = CAMERA_KEYS) -> dict[Target, str]:
        """Applies the stored settings of the cameras. Returns the reason for each that is refused."""
        refused: dict[Target, str] = {}
        for target in self.targets:
            if target.camera is not None and target.key in keys:
                value = getattr(self._stored.camera(target.camera), target.key, None)  # also None for a snapshot
                if value is not None and (reason := self._restore(target, target.camera, value)) is not None:
                    refused[target] = reason
        return refused

    def _restore(self, target: Target, camera: str, value: Value) -> str | None:
        change, text = self._set[target.key], shown(str(value))
        self._commanded.discard(target)
        try:
            change(camera, value)
        except Exception as error:  # any error: the agent still starts
            if not isinstance(error, ZsadError):
                logger.exception("%s: the stored value cannot be restored", target.suffix)
            try:
                change(camera, None)
            except Exception:
                logger.exception("%s: the config's value cannot be restored", target.suffix)
            reason = f"the stored value {text} is refused, the config's value is used: {error}"
            logger.warning("%s: %s", target.suffix, " ".join(reason.split()))
            return reason
        self._commanded.add(target)
        logger.info("%s: %s, set by a command before this start", target.suffix, text)
        return None

    def _reload(self, target: Target, value: None) -> None:
        self._agent.reload()
        self._done_at[target] = utc_text(datetime.now(UTC))

    def _switch_bundle(self, target: Target, name: str | None) -> None:
        self._agent.switch_bundle(None if name is None else find_bundle(self._config.control.bundle_dir, name))

    def _teach(self, target: Target, request: TeachRequest) -> None:
        camera = str(target.camera)
        offer = self._agent.teaching(camera).get("offer") if is_commit(request) else None
        self._agent.teach(camera, request)
        if offer is not None:  # the camera inspects what was taught, by default with the threshold of the offer
            if offer["product"] != self._agent.product(camera):
                self.perform(Target(camera, Key.PRODUCT), offer["product"])
            if request.threshold is not None or Target(camera, Key.THRESHOLD) in self._commanded:
                self.perform(Target(camera, Key.THRESHOLD), request.threshold)

    def _send_snapshot(self, target: Target, value: None) -> None:
        camera = str(target.camera)
        picture = self._agent.snapshot(camera)
        if picture is None:
            raise CommandError("no picture yet: the camera has not sent one since the start")
        jpeg = render_snapshot(picture, self._config.heatmap)
        if jpeg is None:
            raise CommandError(
                f"even a small picture is larger than heatmap.max_bytes = {self._config.heatmap.max_bytes}. "
                "Raise this limit"
            )
        if not self._publisher.send_picture(f"{camera}/image", jpeg):
            raise CommandError("the picture cannot be sent: no connection to the broker")
        self._done_at[target] = utc_text(datetime.now(UTC))
