"""What is published of the present moment only: heatmaps and camera statuses."""

import threading
from collections import OrderedDict

MAX_PICTURE_BYTES = 8_000_000  # heatmaps that wait for the network


class LivePictures:
    """Heatmaps on their way over the present connection; without one they are dropped, and counted."""

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
        """For want of a connection, on a network slower than the camera, or too large for the broker."""
        return self._dropped

    def offer(self, entry_id: int, topic: str, jpeg: bytes) -> bool:
        """Takes in the picture that belongs to a result; the oldest goes when too much waits. False if not connected.

        Of pictures by themselves `entry_id` only gives the order.
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
        """Topic and JPEG of the oldest picture whose result has been sent, results up to `up_to_id` having been.

        None: of the oldest picture, whatever its id.
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
        """The picture taken last was not sent after all."""
        with self._lock:
            self._sent -= 1
            self._dropped += 1

    def connected(self) -> None:
        """Pictures are taken in from now on."""
        with self._lock:
            self._connected = True

    def disconnected(self) -> None:
        """Pictures are dropped from now on, with those that wait."""
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
        """The broker has refused `payload`: it is sent once more, or what has taken its place since."""
        with self._lock:
            self._due[topic] = self._latest.get(topic, payload)

    def all_due(self) -> None:
        """A new connection: the broker may have forgotten what it retained."""
        with self._lock:
            self._due = dict(self._latest)

    def take_due(self, limit: int) -> dict[str, bytes]:
        """Topics and payloads to be sent now, at most `limit`."""
        with self._lock:
            topics = list(self._due)[: max(0, limit)]
            return {topic: self._due.pop(topic) for topic in topics}
