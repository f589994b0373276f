"""The status of one camera: `ok`, `paused`, or `degraded` with all reasons. Published when it changes."""

import threading
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

from zsad_agent.system import utc_text

# parts that can have a fault
CAMERA, PICTURE, DAMAGE, FOLDER = "camera", "picture", "damage", "folder"
PROCESS, DRIFT, PART = "process", "drift", "part"
INFERENCE = "inference"  # the last inference failed; the next one may succeed
MODEL = "model"  # the model or its device does not work, so no inference can succeed


class CameraStatus:
    """Collects the faults of the parts that serve a camera. Used from any thread."""

    def __init__(self, camera: str, publish: Callable[[str, dict[str, Any]], None]) -> None:
        """At each change calls `publish` with the camera's name and `{"state", "reason", "since"}`."""
        self.camera = camera
        self._publish = publish
        self._lock = threading.Lock()
        self._faults: dict[str, str] = {}
        self._paused = False
        self._published = False

    @property
    def up(self) -> bool:
        """Whether its pictures are inspected and give results."""
        with self._lock:
            return self._published and self._state() == "ok"

    @property
    def reason(self) -> str | None:
        """Why `up` is False; None when there is no fault, and before the first picture."""
        with self._lock:
            return self._reason() or ("paused" if self._paused else None)

    def fault_of(self, part: str) -> str | None:
        """The reason for the fault of `part`; None: it works."""
        with self._lock:
            return self._faults.get(part)

    @property
    def text(self) -> str:
        """One line: the state, and the reasons if there are any."""
        with self._lock:
            if not self._published:
                return "waiting for the first picture"
            return ": ".join(filter(None, (self._state(), self._reason())))

    def fault(self, part: str, reason: str, *, replace: bool = False) -> bool:
        """Sets the fault of `part`. A later reason is ignored, or replaces the first with `replace`.

        Returns:
            Whether the fault or its reason is new.
        """
        with self._lock:
            is_new = self._faults.get(part) != reason if replace else part not in self._faults
            if is_new:
                self._faults[part] = reason
                self._say()
            return is_new

    def pause(self, paused: bool) -> None:
        """Sets whether the camera is paused by command. A pause is not a fault; faults keep their reasons."""
        with self._lock:
            if paused != self._paused:
                self._paused = paused
                self._say()

    def clear(self, part: str) -> bool:
        """Notes that `part` works. Returns whether it was at fault. Publishes that, and the first one of `CAMERA`."""
        with self._lock:
            was_at_fault = self._faults.pop(part, None) is not None
            if was_at_fault or (not self._published and part == CAMERA):
                self._say()
            return was_at_fault

    def _state(self) -> str:
        if self._paused:
            return "paused"
        return "degraded" if self._faults else "ok"

    def _reason(self) -> str:
        return "; ".join(self._faults[part] for part in sorted(self._faults))

    def _say(self) -> None:
        self._published = True
        since = utc_text(datetime.now(UTC))
        self._publish(self.camera, {"state": self._state(), "reason": self._reason() or None, "since": since})
