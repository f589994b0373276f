"""How it stands with the broker, said once per change."""

import logging
import threading
from enum import StrEnum

logger = logging.getLogger(__name__)


class BrokerState(StrEnum):
    CONNECTING = "connecting"
    CONNECTED = "connected"
    UNREACHABLE = "unreachable"  # never reached, lost, or silent
    REFUSED = "refused"  # it answered and turned us down: credentials, most often
    STOPPED = "stopped"


class BrokerHealth:
    """State and reason. Written by the sending thread, read by any."""

    def __init__(self, name: str) -> None:
        """Takes the broker's name for the log, without credentials."""
        self._name = name
        self._lock = threading.Lock()
        self._state = BrokerState.CONNECTING
        self._reason: str | None = None

    @property
    def state(self) -> BrokerState:
        return self._state

    @property
    def fault(self) -> str | None:
        """None while connected."""
        with self._lock:
            if self._state is BrokerState.CONNECTED:
                return None
            return f"broker {self._name} {self._state}" + (f": {self._reason}" if self._reason else "")

    def note(self, state: BrokerState, reason: str | None = None) -> None:
        """Takes the state in and logs a change; an attempt that fails like the one before says nothing."""
        with self._lock:
            previous, self._state, self._reason = self._state, state, reason
        if state is previous:
            return
        if state is BrokerState.CONNECTED:
            logger.info("broker %s %s", self._name, "connected" if previous is BrokerState.CONNECTING else "back")
        elif state is BrokerState.REFUSED:
            logger.error(
                "broker %s refused: %s. Check mqtt.username and mqtt.password_file. Results wait in the spool.",
                self._name,
                reason,
            )
        elif state is BrokerState.UNREACHABLE:
            word = "lost" if previous is BrokerState.CONNECTED else "unreachable"
            logger.warning("broker %s %s: %s. Results wait in the spool.", self._name, word, reason)
