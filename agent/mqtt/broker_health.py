"""The state of the broker, logged once per change, and its reason codes in words."""

import logging
import threading
from enum import StrEnum

from paho.mqtt.properties import Properties
from paho.mqtt.reasoncodes import ReasonCode

from zsad_agent.system import printable, shortened

logger = logging.getLogger(__name__)

MOST_OF_BROKER = 200  # characters of a text from the broker
_WAIT = "The agent tries again by itself; if this does not end, see the broker's log or ask its operator"
_MOVED = "Set mqtt.broker to the other server"
# Name of a reason code of CONNACK or DISCONNECT (MQTT 5 and 3.1.1) -> what to do; others: `_WAIT`
_ADVICE = {
    "Bad user name or password": "Check mqtt.username and the password",
    "Not authorized": "Check mqtt.username and the password, and that the broker allows this user and client id",
    "Bad authentication method": "Let the broker accept a user name with a password, or a client certificate",
    "Banned": "Ask the broker's operator to remove the ban of this client",
    "Client identifier not valid": "Set mqtt.client_id to an id that the broker accepts and no other client has; older "
    "brokers accept 1 to 23 letters and digits. With MQTT 3.1.1 also check that the broker accepts mqtt.keepalive_s",
    "Unsupported protocol version": "Set mqtt.protocol to auto, or to a version that the broker supports",
    "Topic name invalid": "Let the broker accept the will on <topic_prefix>/<device_id>/available, or change "
    "mqtt.topic_prefix",
    "Packet too large": "Raise the broker's limit for packets, or lower heatmap.max_bytes",
    "Quota exceeded": "Raise the broker's limit of connections or messages for this client",
    "Message rate too high": "Raise the broker's limit of messages, or lower source.fps",
    "Receive maximum exceeded": "Lower mqtt.in_flight",
    "Keep alive timeout": "Raise mqtt.keepalive_s if the network is slow",
    "Session taken over": "Another client uses the same client id",
    "Administrative action": "Ask the broker's operator why",
    **dict.fromkeys(("Retain not supported", "QoS not supported"), "Allow QoS 1 and retained messages at the broker"),
    **dict.fromkeys(("Use another server", "Server moved"), _MOVED),
}


def explained(code: ReasonCode, properties: Properties | None) -> str:
    """The reason code of a refusal or an end in words, with the broker's own text, and what to do."""
    said, server = (
        printable(shortened(getattr(properties, name, ""), MOST_OF_BROKER))
        for name in ("ReasonString", "ServerReference")
    )
    advice = _ADVICE.get(str(code), _WAIT)
    return f"{code}{f' ({said})' if said else ''}. {advice}{f' {server}' if server else ''}"


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
        self._remarks: set[str] = set()

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

    def remark(self, text: str) -> None:
        """Logs, once, what is no fault of the broker but may surprise its users."""
        if text not in self._remarks:
            self._remarks.add(text)
            logger.warning("broker %s %s", self._name, text)

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
            level = logging.ERROR if turned_down else logging.WARNING
            logger.log(level, "broker %s %s: %s. Results wait in the spool.", self._name, word, reason)
