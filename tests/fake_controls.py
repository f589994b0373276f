"""A fake running agent and a fake publisher, which only store what commands change and publish."""

import json
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from zsad_agent.control import CommandError, TeachRequest
from zsad_agent.model import Outcome
from zsad_agent.updating import UpdateRequest
from zsad_core.errors import BundleError, ConfigError, ProductError

CONFIG_THRESHOLD, CONFIG_PRODUCT = 0.5, "object"


class FakeControls:
    """Two cameras. Bundle `v2` has one more product; `bad` is refused; `slow` waits for `let_go`."""

    def __init__(self) -> None:
        self.cameras = ("cam0", "cam1")
        self.bundle = "v1"
        self.thresholds = dict.fromkeys(self.cameras, CONFIG_THRESHOLD)
        self.products = dict.fromkeys(self.cameras, CONFIG_PRODUCT)
        self.pauses = dict.fromkeys(self.cameras, False)
        self.frame: np.ndarray | None = np.zeros((48, 64, 3), np.uint8)
        self.config_fault: str | None = None
        self.reloads = 0
        self.outcome: Outcome | None = None
        self.bundle_fault: str | None = None
        self.defect: Exception | None = None
        self.lessons: dict[str, dict[str, Any]] = {
            camera: {"phase": "idle", "next": ["start"]} for camera in self.cameras
        }
        self.taught: list[tuple[str, TeachRequest]] = []
        self.taught_products: set[str] = set()
        self.let_go = threading.Event()
        self.switching = threading.Event()

    @property
    def settings(self) -> dict[str, Any]:
        return {
            "threshold": dict(self.thresholds),
            "product": dict(self.products),
            "paused": dict(self.pauses),
            "bundle": self.bundle,
            "reloads": self.reloads,
        }

    def threshold(self, camera: str) -> float:
        return self.thresholds[camera]

    def scale(self, camera: str) -> str:
        return "taught" if self.products[camera] in self.taught_products else "not taught"

    def product(self, camera: str) -> str:
        return self.products[camera]

    def paused(self, camera: str) -> bool:
        return self.pauses[camera]

    def set_threshold(self, camera: str, value: float | None) -> None:
        if self.defect is not None:
            raise self.defect
        self.thresholds[camera] = CONFIG_THRESHOLD if value is None else value

    def set_product(self, camera: str, name: str | None) -> None:
        known = ("object", "bottle") + (("screw",) if self.bundle == "v2" else ())
        if name is not None and name not in known:
            raise ProductError(f"product {name!r} is not in the bundle. It has: {', '.join(known)}")
        self.products[camera] = name or CONFIG_PRODUCT

    def set_paused(self, camera: str, paused: bool | None) -> None:
        self.pauses[camera] = bool(paused)

    def teaching(self, camera: str) -> dict[str, Any]:
        return self.lessons[camera]

    def teach(self, camera: str, request: TeachRequest) -> None:
        if request.action == "commit" and self.lessons[camera]["phase"] != "offered":
            raise CommandError("there is no offer at this camera")
        self.taught.append((camera, request))
        self.lessons[camera] = {"phase": "gathering", "pictures": 0, "next": ["cancel"]}

    def snapshot(self, camera: str) -> np.ndarray | None:
        return self.frame

    def switch_bundle(self, path: Path | None) -> None:
        name = path.name if path is not None else None
        self.switching.set()
        if name == "slow":
            assert self.let_go.wait(60)
        if name == "bad":
            raise BundleError("bad: sha256 of model.bin differs from the manifest's")
        self.bundle = name or "v1"
        for camera, product in self.products.items():
            if product == "screw" and self.bundle != "v2":
                self.products[camera] = CONFIG_PRODUCT

    @property
    def bundle_commanded(self) -> bool:
        return self.bundle != "v1"

    def updating(self) -> dict[str, Any]:
        return {"phase": "off"}

    def update(self, request: UpdateRequest, command_id: str) -> None:
        raise CommandError("updates are off: set update.enabled")

    def knows_update(self, command_id: str) -> bool:
        return False

    def tend_update(self) -> bool:
        return False

    def stored_bundle_fault(self) -> str | None:
        return self.bundle_fault

    def settle_bundle(self) -> Outcome | None:
        """The outcome of a bundle update. After a roll-back, `v1` is used again."""
        outcome, self.outcome = self.outcome, None
        if outcome is not None and not outcome.passed:
            self.bundle = "v1"
        return outcome

    def reload(self) -> None:
        if self.config_fault is not None:
            raise ConfigError(self.config_fault)
        self.reloads += 1


class FakePublisher:
    """Calls the handlers in the caller's thread, like the publisher's sending thread."""

    def __init__(self, base: str = "zsad/line3") -> None:
        self._base = base
        self._changed = threading.Condition()
        self.handlers: dict[str, Callable[[bytes], None]] = {}
        self.answers: list[tuple[str, dict[str, Any]]] = []
        self.pictures: list[tuple[str, bytes]] = []
        self.connected = True

    def subscribe(self, topic: str, handler: Callable[[bytes], None]) -> None:
        assert topic not in self.handlers
        self.handlers[topic] = handler

    def set_retained(self, topic_suffix: str, payload: bytes) -> None:
        with self._changed:
            self.answers.append((topic_suffix, json.loads(payload)))
            self._changed.notify_all()

    def send_picture(self, topic_suffix: str, jpeg: bytes) -> bool:
        if self.connected:
            self.pictures.append((topic_suffix, jpeg))
        return self.connected

    def arrive(self, setting: str, payload: bytes) -> None:
        """Sends a message on `<setting>/set`."""
        self.handlers[f"{self._base}/{setting}/set"](payload)

    def ask(self, setting: str, payload: bytes) -> dict[str, Any]:
        """Sends a message on `<setting>/set` and gives the answer."""
        said = len(self.answers)
        self.arrive(setting, payload)
        return self.wait_for(setting, after=said)

    def wait_for(self, setting: str, *, after: int = 0) -> dict[str, Any]:
        """The first answer on `<setting>/state` after the first `after` answers of all settings."""
        found: list[dict[str, Any]] = []

        def arrived() -> bool:
            found[:] = [state for topic, state in self.answers[after:] if topic == f"{setting}/state"]
            return bool(found)

        with self._changed:
            assert self._changed.wait_for(arrived, 60), f"no answer on {setting}/state"
        return found[0]

    def state(self, setting: str) -> dict[str, Any]:
        """The retained state of a setting."""
        return [state for topic, state in self.answers if topic == f"{setting}/state"][-1]
