"""Subscriptions, and the handlers of incoming messages."""

import logging
import threading
from collections.abc import Callable

from zsad_agent.mqtt.connection import Arrival

logger = logging.getLogger(__name__)

MAX_PAYLOAD_BYTES = 65_536

Handler = Callable[[bytes], None]


class Subscriptions:
    """Any thread may subscribe; the sending thread subscribes at the broker and calls the handlers.

    Retained messages are ignored: an old command must not run again at each connection. Payloads above 64 KiB are
    dropped, with one log line until a payload of the topic fits again. A handler that raises is logged once and
    still called.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._handlers: dict[str, Handler] = {}
        self._due: list[str] = []
        self._too_large: set[str] = set()  # topics with a logged payload that was too large
        self._broken: set[str] = set()  # topics with a logged failure of the handler

    def subscribe(self, topic: str, handler: Handler) -> None:
        """Calls `handler` with the payloads of `topic` (full name, no wildcards) from now on."""
        with self._lock:
            self._handlers[topic] = handler
            self._due.append(topic)

    def all_due(self) -> None:
        """Subscribes to all topics again, because the connection is new."""
        with self._lock:
            self._due = list(self._handlers)

    def again(self, topic: str) -> None:
        """Subscribes to a topic again, because the broker refused it."""
        with self._lock:
            self._due.append(topic)

    def take_due(self) -> list[str]:
        """Topics to subscribe to now."""
        with self._lock:
            due, self._due = self._due, []
            return due

    def hand_over(self, arrival: Arrival) -> None:
        """Calls the handler of a message, unless the message is ignored. Never raises."""
        topic = arrival.topic
        handler = self._handlers.get(topic)
        if handler is None or arrival.retained:
            return
        if len(arrival.payload) > MAX_PAYLOAD_BYTES:
            if topic not in self._too_large:
                logger.warning(
                    "message of %d bytes on %s is dropped: %d at most", len(arrival.payload), topic, MAX_PAYLOAD_BYTES
                )
            self._too_large.add(topic)
            return
        self._too_large.discard(topic)
        try:
            handler(arrival.payload)
        except Exception:  # a defect in a handler must not end the sending thread
            if topic not in self._broken:
                logger.exception("the handler of %s has failed; further failures of it are not logged", topic)
            self._broken.add(topic)
