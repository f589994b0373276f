"""Messages that are only useful now and are not stored: live pictures and retained statuses."""

import threading
from collections import deque
from dataclasses import dataclass

MAX_PICTURE_BYTES = 8_000_000  # pictures that wait for the network


@dataclass(frozen=True, slots=True)
class LivePicture:
    topic: str
    jpeg: bytes
    result_id: str | None = None  # of its result, in messages
    entry_id: int = 0  # of its result, in the spool; 0: it belongs to none


class LivePictures:
    """Pictures that wait for the present connection. Without a connection they are dropped and counted."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._connected = False
        self._waiting: deque[LivePicture] = deque()
        self._bytes = 0
        self.dropped = 0  # no connection, a network slower than the camera, or too large for the broker

    @property
    def waiting(self) -> int:
        return len(self._waiting)

    def offer(self, picture: LivePicture) -> bool:
        """Queues a picture. Drops the oldest when too many bytes wait.

        Returns False if there is no connection.
        """
        with self._lock:
            if not self._connected:
                self.dropped += 1
                return False
            self._waiting.append(picture)
            self._bytes += len(picture.jpeg)
            while self._bytes > MAX_PICTURE_BYTES and len(self._waiting) > 1:  # one alone may be larger
                self._pop()
                self.dropped += 1
            return True

    def take(self, up_to_id: int) -> LivePicture | None:
        """The oldest picture, if its result has been sent: its `entry_id` is at most `up_to_id`."""
        with self._lock:
            return self._pop() if self._waiting and self._waiting[0].entry_id <= up_to_id else None

    def left_out(self) -> None:
        """Counts a taken picture as dropped, because it was not sent."""
        with self._lock:
            self.dropped += 1

    def set_connected(self, connected: bool) -> None:
        """Accepts pictures from now on, or drops the waiting and all later ones."""
        with self._lock:
            self._connected = connected
            if not connected:
                self.dropped += len(self._waiting)
                self._waiting.clear()
                self._bytes = 0

    def _pop(self) -> LivePicture:
        picture = self._waiting.popleft()
        self._bytes -= len(picture.jpeg)
        return picture


class RetainedStatuses:
    """The latest payload of each topic, to be sent when it changes and again on every connection.

    An empty payload removes the topic at the broker and is sent once.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._latest: dict[str, bytes] = {}
        self._due: dict[str, None] = {}  # topics, in order

    def set(self, topic: str, payload: bytes) -> None:
        with self._lock:
            self._latest[topic] = payload
            self._due[topic] = None

    def has(self, topic: str) -> bool:
        return topic in self._latest

    def again(self, topic: str) -> None:
        """Sends the topic's latest payload again, because the broker refused it."""
        with self._lock:
            if topic in self._latest:
                self._due[topic] = None

    def all_due(self) -> None:
        """Sends all payloads again, because a new broker may not have them."""
        with self._lock:
            self._due = dict.fromkeys(self._latest)

    def take_due(self, limit: int) -> list[tuple[str, bytes]]:
        """Topics and payloads to send now, at most `limit`."""
        with self._lock:
            topics = list(self._due)[: max(0, limit)]
            for topic in topics:
                del self._due[topic]
            taken = [(topic, self._latest[topic]) for topic in topics]
            for topic, payload in taken:
                if not payload:
                    del self._latest[topic]
            return taken
