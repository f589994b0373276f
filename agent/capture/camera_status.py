"""The stated condition of one camera: `ok`, `paused`, or `degraded` with every reason. Said when it changes."""

import threading
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

# the parts that can be at fault: the camera, its pictures, the folder that pictures are taken from, …
CAMERA, PICTURE, DAMAGE, FOLDER = "camera", "picture", "damage", "folder"
INFERENCE, PROCESS = "inference", "process"


class CameraStatus:
    """Collects the faults of the parts that serve a camera. Used from any thread."""

    def __init__(self, camera: str, publish: Callable[[str, dict[str, Any]], None]) -> None:
        """Publishes nothing until the first change.

        Args:
            camera: its name.
            publish: called with the camera's name and `{"state", "reason", "since"}` at each change.
        """
        self.camera = camera
        self._publish = publish
        self._lock = threading.Lock()
        self._faults: dict[str, str] = {}
        self._paused = False
        self._said: tuple[str, str] | None = None

    @property
    def up(self) -> bool:
        """Whether pictures of it are inspected and answered."""
        with self._lock:
            return self._said is not None and self._state() == "ok"

    @property
    def reason(self) -> str | None:
        """Why it is not; None when all is well, and before the first picture."""
        with self._lock:
            return self._reason() or ("paused" if self._paused else None)

    @property
    def text(self) -> str:
        """One line: the state, and the reasons if there are any."""
        with self._lock:
            if self._said is None:
                return "waiting for the first picture"
            return ": ".join(filter(None, (self._state(), self._reason())))

    def fault(self, part: str, reason: str, *, replace: bool = False) -> bool:
        """`part` is at fault; a further reason while it is so stays unsaid, or replaces the one before. True if new."""
        with self._lock:
            is_new = part not in self._faults
            if replace or is_new:
                self._faults[part] = reason
            self._say()
            return is_new

    def pause(self, paused: bool) -> None:
        """Nothing is inspected, because somebody wants it so. That is no fault; faults meanwhile keep their reasons."""
        with self._lock:
            if paused != self._paused:
                self._paused = paused
                self._say()

    def clear(self, part: str) -> bool:
        """`part` works. Said when it was at fault (then True), and, of the camera, the first time."""
        with self._lock:
            was_at_fault = self._faults.pop(part, None) is not None
            if was_at_fault or (self._said is None and part == CAMERA):
                self._say()
            return was_at_fault

    def _state(self) -> str:
        if self._paused:
            return "paused"
        return "degraded" if self._faults else "ok"

    def _reason(self) -> str:
        return "; ".join(self._faults[part] for part in sorted(self._faults))

    def _say(self) -> None:
        state, reason = self._state(), self._reason()
        if (state, reason) == self._said:
            return
        self._said = (state, reason)
        since = datetime.now(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
        self._publish(self.camera, {"state": state, "reason": reason or None, "since": since})
