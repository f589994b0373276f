"""Threads of one run: a capture thread per camera, inference, publishing. The model does not wait for the disk."""

import logging
import threading
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import chain, islice
from typing import Protocol

import numpy as np

from zsad_agent.capture import CameraStatus, Capture, Captured, Fault
from zsad_agent.inspection.inspector import Inspected, Inspector
from zsad_agent.inspection.sinks import result_line
from zsad_agent.messages import Result
from zsad_agent.system import BoundedQueue, FrameQueue, QueueClosed, RoundRobin, Service
from zsad_core.types import Frame

logger = logging.getLogger(__name__)

WAIT_S = 0.25  # longest wait of a thread between two signs of life
CONCLUSION_PLACES = 4  # inspected pictures that may wait for the disk
MOST_AT_ONCE = CONCLUSION_PLACES + 1  # results that are stored with one disk commit
SHARED = ("inference", "publishing")  # the threads that serve every station


class Sink(Protocol):
    """Gets every result, for example `zsad_agent.monitoring.Metrics`."""

    def accept(self, result: Result, heatmap: bytes | None) -> None: ...


class ResultStore(Protocol):
    """Makes results durable, for example `zsad_agent.mqtt.Publisher`."""

    def accept_all(
        self,
        results: Sequence[tuple[Result, bytes | None]],
        on_durable: Sequence[Callable[[], None] | None],
    ) -> None:
        """Calls `on_durable` of a result, from any thread, when the result would survive a kill of the process."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Station:
    """One camera: its capture, its queue, its inspector and its status."""

    capture: Capture
    slot: FrameQueue[Captured]  # shares its condition with the other slots of the pipeline
    inspector: Inspector
    status: CameraStatus

    @property
    def name(self) -> str:
        return self.status.camera

    @property
    def dropped(self) -> int:
        """Number of frames of a live source that a newer frame replaced before the model was free."""
        return self.slot.dropped + self.capture.skipped


class Evidence(Protocol):
    """Stores pictures for people, for example `EvidenceStore`. Never waits for the disk."""

    def keep(self, result: Result, image_bgr: np.ndarray | None, heatmap: bytes | None) -> None: ...


class Learner(Protocol):
    """Learns from inspected parts, for example `LineLearner`. Never waits."""

    def take(
        self, result: Result, view_bgr: np.ndarray, anomaly_map: np.ndarray, *, score: float | None = None
    ) -> None: ...


class Pipeline(Service):
    """Owns one capture thread per station and the two shared threads. Started once, stopped once."""

    name = "pipeline"
    vital = True
    stop_s = 1.0

    def __init__(
        self,
        *,
        stations: Sequence[Station],
        slots_changed: threading.Condition,
        stop: threading.Event,
        store: ResultStore | None = None,
        sinks: Sequence[Sink] = (),
        evidence: Evidence | None = None,
        learner: Learner | None = None,
        on_crash: Callable[[BaseException, str], None] | None = None,
        max_frames: int | None = None,
    ) -> None:
        """Starts nothing.

        Args:
            stations: inspected in turn, so that under overload each gets the same number of inspections.
            slots_changed: the condition that the stations' slots share.
            stop: the event that every `capture` has.
            store: gets every result first, in the order of capture for each camera; None: a result is durable when the
                sinks have accepted it.
            sinks: each gets every result, in the same order.
            evidence: gets every result with its picture, after the sinks.
            learner: gets every result that has a score, with the inspected part of its picture.
            on_crash: called with an error that ends a thread, and with the thread's name.
            max_frames: number of pictures after which the run ends; None: when all sources have ended.
        """
        self._stations = stations
        self._turns = RoundRobin([station.slot for station in stations], slots_changed)
        self._stop = stop
        self._store = store
        self._sinks = sinks
        self._evidence = evidence
        self._learner = learner
        self._on_crash = on_crash
        self._max_frames = max_frames
        self._halt = threading.Event()  # no further picture goes to the model, even if one waits
        self._inspected: BoundedQueue[tuple[Station, Inspected]] = BoundedQueue(CONCLUSION_PLACES)
        self._signs_s: dict[str, float] = {}
        bodies = {f"capture-{station.name}": station.capture.run for station in stations}
        bodies |= {"inference": self._infer, "publishing": self._conclude}
        self._threads = {
            name: threading.Thread(target=self._guarded, args=(name, body), name=name, daemon=True)
            for name, body in bodies.items()
        }
        self.crash: str | None = None  # why a thread ended unexpectedly
        self.inspected_frames = 0

    @property
    def dropped(self) -> int:
        return sum(station.dropped for station in self._stations)

    @property
    def unreadable(self) -> int:
        """Pictures of files and folders that could not be decoded."""
        return sum(station.capture.unreadable for station in self._stations)

    @property
    def failure(self) -> str | None:
        """The reason why the run failed; None if it did not."""
        return self.crash or next(
            (station.capture.failure for station in self._stations if station.capture.failure), None
        )

    def start(self) -> None:
        for name, thread in self._threads.items():
            self._signs_s[name] = time.monotonic()
            thread.start()

    def stop(self, deadline_s: float = 0.0) -> None:
        """Accepts no more pictures. Waits until the deadline for the inspected ones and the one in the model."""
        self._halt.set()
        self._stop.set()
        for station in self._stations:
            station.slot.close()
        self.wait(deadline_s - time.monotonic())

    @property
    def alive(self) -> bool:
        """False after a thread has ended unexpectedly."""
        return self.crash is None

    def wait(self, timeout_s: float) -> bool:
        """True when the sinks have every inspected picture. Does not wait for a capture that hangs in a driver."""
        return self._join(SHARED, timeout_s)

    def wait_capture(self, timeout_s: float) -> bool:
        """True when every source is closed. Call it when no more results will become durable."""
        for station in self._stations:
            station.capture.expect_no_results()
        return self._join(self._threads.keys() - set(SHARED), timeout_s)

    def _join(self, names: Iterable[str], timeout_s: float) -> bool:
        deadline_s = time.monotonic() + timeout_s
        threads = [self._threads[name] for name in names if self._threads[name].ident is not None]  # started
        for thread in threads:
            thread.join(max(0.0, deadline_s - time.monotonic()))
        return not any(thread.is_alive() for thread in threads)

    def stuck(self, limit_s: float) -> str | None:
        """The thread that had no sign of life for `limit_s` (a hung model or disk), in words; None if there is none.

        A thread that waits for pictures gives signs of life: a missing camera is no reason to restart.
        """
        for name in SHARED:
            silent_s = time.monotonic() - self._signs_s.get(name, time.monotonic())  # not started yet
            if self._threads[name].is_alive() and silent_s > limit_s:
                return f"{name} has hung for {silent_s:.0f} s"
        return None

    def _guarded(self, name: str, body: Callable[[], None]) -> None:
        try:
            body()
        except Exception as error:  # the process stops and reports it
            self.crash = self.crash or f"{name} stopped: {type(error).__name__}: {error}"
            logger.debug("%s stopped", name, exc_info=True)
            if self._on_crash is not None:
                self._on_crash(error, f"thread {name}")
            self._stop.set()

    def _infer(self) -> None:
        try:
            while not self._halt.is_set() and (self._max_frames is None or self.inspected_frames < self._max_frames):
                self._signs_s["inference"] = time.monotonic()
                taken = self._turns.get(WAIT_S)
                if taken is None:
                    continue
                station, captured = self._stations[taken[0]], taken[1]
                inspected = station.inspector.predict(captured)
                if not isinstance(captured, Fault) or captured.is_part:
                    self.inspected_frames += 1
                while not self._inspected.put((station, inspected), timeout_s=WAIT_S):
                    self._signs_s["inference"] = time.monotonic()
                    if self.crash is not None:
                        return
            self._stop.set()
        except QueueClosed:
            pass
        finally:
            self._inspected.close()

    def _conclude(self) -> None:
        try:
            while True:
                self._signs_s["publishing"] = time.monotonic()
                first = self._inspected.get(WAIT_S)
                if first is not None:
                    self._conclude_with_waiting(first)
        except QueueClosed:
            pass
        finally:
            self._inspected.close()

    def _conclude_with_waiting(self, first: tuple[Station, Inspected]) -> None:
        """Decides this picture and the waiting ones, so that they wait for a slow disk only once.

        Raises:
            QueueClosed: these were the last pictures.
        """
        decided: list[Inspected] = []
        results: list[tuple[Result, bytes | None]] = []
        try:
            for station, inspected in islice(chain([first], iter(self._inspected.poll, None)), MOST_AT_ONCE):
                result = station.inspector.decide(inspected)
                if result is not None:
                    results.append(result)
                    decided.append(inspected)
        finally:
            if results:
                self._hand_over(decided, results)

    def _hand_over(self, decided: Sequence[Inspected], results: Sequence[tuple[Result, bytes | None]]) -> None:
        """A file whose result is lost stays in its folder and is inspected again."""
        captured = [inspected.captured for inspected in decided]
        on_durable = [
            partial(item.done, result.verdict) if item.done is not None else None
            for item, (result, _) in zip(captured, results, strict=True)
        ]
        if self._store is not None:
            self._store.accept_all(results, on_durable)
        for result, heatmap in results:
            logger.debug("%s", result_line(result))
            for sink in self._sinks:
                sink.accept(result, heatmap)
        for item, (result, heatmap), done in zip(captured, results, on_durable, strict=True):
            if self._evidence is not None:
                self._evidence.keep(result, item.image_bgr if isinstance(item, Frame) else None, heatmap)
            if self._store is None and done is not None:
                done()
        if self._learner is not None:
            for inspected, (result, _) in zip(decided, results, strict=True):
                if inspected.prediction is not None and inspected.view_bgr is not None:
                    found = inspected.prediction
                    self._learner.take(result, inspected.view_bgr, found.anomaly_map, score=found.anomaly_score)
