"""What the page shows live: the newest picture of each camera, and the events. Does not depend on HTTP."""

import asyncio
import contextlib
import json
import logging
import math
import os
import threading
import time
from collections import OrderedDict, deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import cv2
import numpy as np
import simplejpeg

from zsad_agent.inspection import Evidence
from zsad_agent.messages import Result
from zsad_agent.system import ThreadService

logger = logging.getLogger(__name__)

MAX_STREAMS = 40  # pages that get events at the same time
MAX_RESULTS = 100  # results that wait for a slow page; older ones are left out
PAUSE_S = 0.005  # between two messages to a page, for each open page; all together get 200 a second at most
SHARE = 0.02  # of all cores, that live pictures may take
FIRST_COST_S, MOST_COST_S = 0.001, 0.02  # CPU time for a live picture: before it is measured, and an outlier
PING_S = 10.0  # between two comments in a stream without events
MAX_ENCODED = 32  # JPEGs in memory, of all cameras and sizes
JPEG_QUALITY = 80
WATCH_EVERY_S = 0.2
HEALTH_EVERY_S = 5.0  # an unchanged one
RESULT, HEALTH, SETTINGS, TEACH = "result", "health", "settings", "teach"  # kinds of events


@dataclass(frozen=True, slots=True)
class _Newest:
    result: Result
    image_bgr: np.ndarray
    heatmap: bytes | None


class LivePictures:
    """The newest inspected picture of each camera, encoded when it is requested. Passes all on to the evidence."""

    def __init__(self, evidence: Evidence | None) -> None:
        """`evidence`: gets everything too."""
        self._evidence = evidence
        self._newest: dict[str, _Newest] = {}
        self._encoding = threading.Lock()  # one at a time: the other cores are for the inspection
        self._encoded: OrderedDict[tuple[str, int], bytes] = OrderedDict()

    def keep(self, result: Result, image_bgr: np.ndarray | None, heatmap: bytes | None) -> None:
        """Never waits. `image_bgr`: uint8 [H, W, 3], not changed afterwards."""
        if image_bgr is not None:
            self._newest[result.camera] = _Newest(result, image_bgr, heatmap)
        if self._evidence is not None:
            self._evidence.keep(result, image_bgr, heatmap)

    def newest_id(self, camera: str) -> str | None:
        """The id of the result whose picture is the newest; None before the first."""
        newest = self._newest.get(camera)
        return newest.result.id if newest is not None else None

    def ready(self, camera: str, *, overlay: bool, width: int) -> tuple[str, bytes] | None:
        """As `jpeg`, but None if the picture must be encoded first. Never waits."""
        newest = self._newest.get(camera)
        if newest is None:
            return None
        if overlay and newest.heatmap is not None:
            return newest.result.id, newest.heatmap
        found = self._encoded.get((newest.result.id, width))
        return None if found is None else (newest.result.id, found)

    def jpeg(self, camera: str, *, overlay: bool, width: int) -> tuple[str, bytes] | None:
        """The newest picture: the id of its result, and a JPEG no wider than `width` pixels. None before the first.

        `overlay`: with the heatmap, if the result has one, in the size of `heatmap.max_width`.
        """
        with self._encoding:
            found = self.ready(camera, overlay=overlay, width=width)
            newest = self._newest.get(camera)
            if found is not None or newest is None:
                return found
            found = newest.result.id, as_jpeg(newest.image_bgr, width)
            self._encoded[newest.result.id, width] = found[1]
            while len(self._encoded) > MAX_ENCODED:
                self._encoded.popitem(last=False)
            return found


def as_jpeg(image_bgr: np.ndarray, width: int) -> bytes:
    """uint8 [H, W, 3], made smaller to `width` pixels if it is wider."""
    h, w = image_bgr.shape[:2]
    if w > width:
        image_bgr = cv2.resize(image_bgr, (width, max(1, round(h * width / w))), interpolation=cv2.INTER_AREA)
    return bytes(simplejpeg.encode_jpeg(np.ascontiguousarray(image_bgr), JPEG_QUALITY, "BGR"))


class EventHub:
    """Sends events to every open page. `publish` and `accept` may be called from any thread and never wait.

    A page that reads too slowly gets only the newest of each kind of event, and the newest `MAX_RESULTS` results.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._streams: list[Stream] = []
        self._last: dict[tuple[str, str], bytes] = {}  # the newest event of each kind and camera, for new pages
        self._wanted: list[_Wanted] = []
        self._spent_s: float | None = None  # CPU time of the loop's thread at the last picture
        self._cost_s = FIRST_COST_S

    @property
    def streams(self) -> int:
        return len(self._streams)

    def picture_pause_ms(self) -> int:
        """How long each page should wait between two live pictures, so that all together take `SHARE` of the cores.

        Call it in the loop once for each picture: the CPU time of the loop's thread between two calls is the cost.
        """
        spent_s = time.thread_time()
        if self._spent_s is not None:
            self._cost_s += 0.05 * (min(spent_s - self._spent_s, MOST_COST_S) - self._cost_s)
        self._spent_s = spent_s
        return round(1000 * self.streams * self._cost_s / (SHARE * len(os.sched_getaffinity(0))))

    def accept(self, result: Result, heatmap: bytes | None) -> None:
        """A sink of the pipeline."""
        for wanted in tuple(self._wanted):
            wanted.take(result)
        if self._streams:
            event = _encode(RESULT, result.encode())
            with self._lock:
                for stream in self._streams:
                    stream.put_result(event)

    def publish(self, event: str, data: Mapping[str, Any]) -> None:
        """`event`: health, settings or teach."""
        key = (event, f"{data.get('camera')} {data.get('key')}")
        encoded = _encode(event, json.dumps(data, ensure_ascii=False, separators=(",", ":")).encode())
        with self._lock:
            self._last[key] = encoded
            for stream in self._streams:
                stream.put(key, encoded)

    @contextlib.contextmanager
    def next_result(self, camera: str, trigger_id: str | None, found: "asyncio.Future[Result]") -> Iterator[None]:
        """Meanwhile the next result of a picture that the camera takes from now on sets `found`.

        `trigger_id`: only the result of this trigger; None: of any.
        """
        wanted = _Wanted(camera, trigger_id, datetime.now(UTC), found, asyncio.get_running_loop())
        self._wanted.append(wanted)
        try:
            yield
        finally:
            self._wanted.remove(wanted)

    @contextlib.contextmanager
    def open(self) -> "Iterator[Stream | None]":
        """A stream of events, first the newest of each kind; None if there are too many. In the loop that reads it."""
        stream: Stream | None = None
        with self._lock:
            if len(self._streams) < MAX_STREAMS:
                stream = Stream(dict(self._last), asyncio.get_running_loop(), lambda: PAUSE_S * self.streams)
                self._streams.append(stream)
        try:
            yield stream
        finally:
            if stream is not None:
                with self._lock:
                    self._streams.remove(stream)

    def forget(self) -> None:
        """The last events are old: new pages do not get them."""
        with self._lock:
            self._last.clear()


class EventWatch(ThreadService):
    """Publishes what has changed, while a page is open. In its own thread, because what it reads may wait."""

    name = "page events"
    stop_s = 0.2

    def __init__(self, hub: EventHub, read: Callable[[], Iterable[tuple[str, Mapping[str, Any]]]]) -> None:
        """`read`: the kind and content of each event, as it is now. Unchanged events are included."""
        super().__init__("zsad-page-events")
        self._hub, self._read = hub, read
        self._said: dict[int, Mapping[str, Any]] = {}  # by the place among the events
        self._failed = False
        self._health_s = -math.inf  # time of the last `health`

    def _run(self) -> None:
        while not self._stop.wait(WATCH_EVERY_S):
            if not self._hub.streams:
                self._said.clear()
                self._hub.forget()
                continue
            try:
                self._look()
            except Exception:  # the next attempt may succeed
                if not self._failed:
                    logger.exception("the state of the agent cannot be sent to the page")
                self._failed = True
            else:
                self._failed = False

    def _look(self) -> None:
        for place, (event, data) in enumerate(self._read()):
            is_due = event == HEALTH and time.monotonic() - self._health_s >= HEALTH_EVERY_S
            if is_due or self._said.get(place) != data:
                self._said[place] = data
                self._hub.publish(event, data)
                if event == HEALTH:
                    self._health_s = time.monotonic()


@dataclass(frozen=True, slots=True, eq=False)
class _Wanted:
    """A request that waits for a result."""

    camera: str
    trigger_id: str | None
    since: datetime
    found: "asyncio.Future[Result]"
    loop: asyncio.AbstractEventLoop

    def take(self, result: Result) -> None:
        """In the publishing thread."""
        if result.camera != self.camera or self.trigger_id != (result.trigger_id if self.trigger_id else None):
            return
        if self.trigger_id is None and result.captured_at < self.since:
            return
        with contextlib.suppress(RuntimeError):  # the server has stopped
            self.loop.call_soon_threadsafe(self._set, result)

    def _set(self, result: Result) -> None:
        if not self.found.done():
            self.found.set_result(result)


class Stream:
    """The events that wait for one page."""

    def __init__(
        self, events: dict[tuple[str, str], bytes], loop: asyncio.AbstractEventLoop, pause_s: Callable[[], float]
    ) -> None:
        """`events`: the first ones. `pause_s`: the least time between two answers of `next`."""
        self._loop = loop
        self._pause_s = pause_s
        self._due_s = -math.inf  # when `next` may answer again
        self._lock = threading.Lock()
        self._events = events
        self._results: deque[bytes] = deque()
        self._skipped = 0
        self._ready = asyncio.Event()
        self._woken = False

    def put(self, key: tuple[str, str], event: bytes) -> None:
        with self._lock:
            self._events[key] = event
        self._wake()

    def put_result(self, event: bytes) -> None:
        with self._lock:
            if len(self._results) >= MAX_RESULTS:
                self._results.popleft()
                self._skipped += 1
            self._results.append(event)
        self._wake()

    def _wake(self) -> None:
        """Once for all events since the last read."""
        if not self._woken:
            self._woken = True
            try:
                self._loop.call_soon_threadsafe(self._ready.set)
            except RuntimeError:  # the server has stopped
                self._woken = False

    async def next(self) -> bytes:
        """All events since the last call, or a comment after `PING_S` without any."""
        if (early_s := self._due_s - time.monotonic()) > 0:
            await asyncio.sleep(early_s)
        while not (self._events or self._results):
            try:
                await asyncio.wait_for(self._ready.wait(), PING_S)
            except TimeoutError:
                return b": no events\n\n"
            self._ready.clear()  # it may be set for what the last call gave already
            self._woken = False
        self._ready.clear()
        self._woken = False
        with self._lock:
            events, results, skipped = list(self._events.values()), list(self._results), self._skipped
            self._events, self._skipped = {}, 0
            self._results.clear()
        self._due_s = time.monotonic() + self._pause_s()
        if skipped:
            events.append(_encode("skipped", json.dumps({"results": skipped}).encode()))
        return b"".join((*events, *results))


def _encode(event: str, data: bytes) -> bytes:
    return b"event: " + event.encode() + b"\ndata: " + data + b"\n\n"
