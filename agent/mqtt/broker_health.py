"""The state of the broker, logged once per change."""

import logging
import threading
from enum import StrEnum

logger = logging.getLogger(__name__)


class BrokerState(StrEnum):
    CONNECTING = "connecting"
    CONNECTED = "connected"
    UNREACHABLE = "unreachable"  # never reached, lost, or does not answer
    REFUSED = "refused"  # it refused the connection, usually because of wrong credentials
    UNTRUSTED = "untrusted"  # TLS failed, usually because of a certificate
    STOPPED = "stopped"


class BrokerHealth:
    """State, reason, and what a connected broker refuses. Written by the sending thread, read by any thread."""

    def __init__(self, name: str) -> None:
        """`name` is the broker's name in the log, without credentials."""
        self._name = name
        self._lock = threading.Lock()
        self._state = BrokerState.CONNECTING
        self._reason: str | None = None
        self._complaints: dict[str, str] = {}

    @property
    def state(self) -> BrokerState:
        return self._state

    @property
    def fault(self) -> str | None:
        """All present faults; None while connected to a broker that refuses nothing."""
        with self._lock:
            faults = [f"broker {reason}" for reason in self._complaints.values()]
            if self._state is not BrokerState.CONNECTED:
                faults.insert(0, f"broker {self._name} {self._state}" + (f": {self._reason}" if self._reason else ""))
        return "; ".join(faults) or None

    def complain(self, about: str, reason: str | None) -> None:
        """Notes that the broker refuses something; `reason` starts with "refuses". None: it does not refuse it.

        Logs a change. The refusal stays a fault while the broker is away.
        """
        with self._lock:
            previous = self._complaints.pop(about, None)
            if reason is not None:
                self._complaints[about] = reason
        if reason is not None and reason != previous:
            logger.error("broker %s %s", self._name, reason)
        elif reason is None and previous is not None:
            logger.warning("broker %s no longer %s", self._name, previous.partition(":")[0])

    def note(self, state: BrokerState, reason: str | None = None) -> None:
        """Sets the state and logs a change. An attempt that fails like the one before is not logged."""
        with self._lock:
            previous, self._state = self._state, state
            previous_reason, self._reason = self._reason, reason
        turned_down = state in (BrokerState.REFUSED, BrokerState.UNTRUSTED)  # a person must act
        if state is previous and not (turned_down and reason != previous_reason):
            return
        if state is BrokerState.CONNECTED:
            logger.info("broker %s %s", self._name, "connected" if previous is BrokerState.CONNECTING else "back")
        elif state is not BrokerState.STOPPED:
            was_connected = previous is BrokerState.CONNECTED
            word = "lost" if was_connected and state is BrokerState.UNREACHABLE else state.value
            advice = "Check mqtt.username and the password. " if state is BrokerState.REFUSED else ""
            level = logging.ERROR if turned_down else logging.WARNING
            logger.log(level, "broker %s %s: %s. %sResults wait in the spool.", self._name, word, reason, advice)
