"""Messages that are only useful now and are not stored: heatmaps and camera statuses."""

import threading
from collections import OrderedDict

MAX_PICTURE_BYTES = 8_000_000  # heatmaps that wait for the network


class LivePictures:
    """Heatmaps that wait for the present connection. Without a connection they are dropped and counted."""

    def __init__(self, *, max_bytes: int = MAX_PICTURE_BYTES) -> None:
        self._max_bytes = max_bytes
        self._lock = threading.Lock()
        self._connected = False
        self._waiting: OrderedDict[int, tuple[str, bytes]] = OrderedDict()  # result's id -> topic and JPEG
        self._bytes = 0
        self._sent = 0
        self._dropped = 0

    @property
    def waiting(self) -> int:
        return len(self._waiting)

    @property
    def sent(self) -> int:
        return self._sent

    @property
    def dropped(self) -> int:
        """Pictures dropped: no connection, a network slower than the camera, or too large for the broker."""
        return self._dropped

    def offer(self, entry_id: int, topic: str, jpeg: bytes) -> bool:
        """Queues the picture of a result. Drops the oldest when too many bytes wait. False if not connected.

        For pictures without a result `entry_id` only gives the order.
        """
        with self._lock:
            if not self._connected:
                self._dropped += 1
                return False
            self._waiting[entry_id] = (topic, jpeg)
            self._bytes += len(jpeg)
            while self._bytes > self._max_bytes and len(self._waiting) > 1:  # one alone may be larger
                _, (_, oldest) = self._waiting.popitem(last=False)
                self._bytes -= len(oldest)
                self._dropped += 1
            return True

    def take(self, up_to_id: int | None) -> tuple[str, bytes] | None:
        """Topic and JPEG of the oldest picture whose result has been sent: its id is at most `up_to_id`.

        With `up_to_id` None: the oldest picture, whatever its id.
        """
        with self._lock:
            entry_id = next(iter(self._waiting), None)
            if entry_id is None or (up_to_id is not None and entry_id > up_to_id):
                return None
            topic, jpeg = self._waiting.pop(entry_id)
            self._bytes -= len(jpeg)
            self._sent += 1
            return topic, jpeg

    def left_out(self) -> None:
        """Counts the latest taken picture as dropped, because it was not sent."""
        with self._lock:
            self._sent -= 1
            self._dropped += 1

    def connected(self) -> None:
        """Accepts pictures from now on."""
        with self._lock:
            self._connected = True

    def disconnected(self) -> None:
        """Drops the waiting pictures and all later ones."""
        with self._lock:
            self._connected = False
            self._dropped += len(self._waiting)
            self._waiting.clear()
            self._bytes = 0


class RetainedStatuses:
    """The latest payload of each topic, to be sent when it changes and again on every connection."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._latest: dict[str, bytes] = {}
        self._due: dict[str, bytes] = {}

    def set(self, topic: str, payload: bytes) -> None:
        with self._lock:
            self._latest[topic] = self._due[topic] = payload

    def again(self, topic: str, payload: bytes) -> None:
        """The broker has refused `payload`: the topic's latest payload is sent again."""
        with self._lock:
            self._due[topic] = self._latest.get(topic, payload)

    def all_due(self) -> None:
        """A new connection: sends all payloads again, because the broker may have lost them."""
        with self._lock:
            self._due = dict(self._latest)

    def take_due(self, limit: int) -> dict[str, bytes]:
        """Topics and payloads to send now, at most `limit`."""
        with self._lock:
            topics = list(self._due)[: max(0, limit)]
            return {topic: self._due.pop(topic) for topic in topics}
