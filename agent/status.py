"""The stated condition of one camera: `ok`, or `degraded` with every reason. Said when it changes."""

import threading
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

CAMERA, INFERENCE, PROCESS = "camera", "inference", "process"  # the parts that can be at fault


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
        self._said: str | None = None

    @property
    def text(self) -> str:
        """One line: `ok`, or `degraded: ` and the reasons."""
        with self._lock:
            return f"degraded: {self._reason()}" if self._faults else "ok"

    def fault(self, part: str, reason: str) -> None:
        """`part` is at fault; a further reason while it is so stays unsaid."""
        with self._lock:
            self._faults.setdefault(part, reason)
            self._say()

    def clear(self, part: str) -> None:
        """`part` works. Said when it was at fault, and, of the camera, the first time."""
        with self._lock:
            was_at_fault = self._faults.pop(part, None) is not None
            if was_at_fault or (self._said is None and part == CAMERA):
                self._say()

    def _reason(self) -> str:
        return "; ".join(self._faults[part] for part in sorted(self._faults))

    def _say(self) -> None:
        reason = self._reason()
        if reason == self._said:
            return
        self._said = reason
        since = datetime.now(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
        state = {"state": "degraded" if reason else "ok", "reason": reason or None, "since": since}
        self._publish(self.camera, state)
