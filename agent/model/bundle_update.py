"""Replaces the bundle while the line runs: tries it, switches between two frames, and rolls back if it fails.

One worker thread, which may wait for the disk and the compiler, calls `BundleUpdater.update` and `settle`. The
inference thread, which may not wait, calls `note_frame`: it only counts, and rolls a failing bundle back at once.
"""

import contextlib
import logging
import math
import re
import statistics
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

import numpy as np

from zsad_agent.model.bundle_store import BundleStore
from zsad_agent.model.current_model import Predictor
from zsad_core.bundle import Bundle
from zsad_core.errors import BundleError, ProductError, ZsadError
from zsad_core.types import Prediction

logger = logging.getLogger(__name__)

LATENCY_FACTOR = 3.0  # times the old bundle's latency on the same frames
LATENCY_SLACK_MS = 5.0  # a new bundle may always be so much slower: scheduler noise matters for 1 ms models
PROBATION_FRAMES = 20
MAX_FAILURES = 3  # frames of the probation
MAX_NAME_LENGTH = 255
_NAME = re.compile(r"[^\x00-\x1f\x7f\\]+")


@dataclass(frozen=True, kw_only=True, slots=True)
class CameraInUse:
    """A camera, and its pictures for the trial of a new bundle."""

    name: str
    product: str
    images_bgr: Sequence[np.ndarray]  # uint8 [H, W, 3], the last good ones


@dataclass(frozen=True, kw_only=True, slots=True)
class Running:
    """A bundle and its compiled model."""

    bundle: Bundle
    detector: Predictor


class UpdateState(StrEnum):
    SWITCHED = "switched"  # inspects from the next frame on, and is on probation
    CONFIRMED = "confirmed"  # has passed its probation; later starts run it
    REFUSED = "refused"  # the old one continues
    ROLLED_BACK = "rolled back"  # the old one inspects again


@dataclass(frozen=True, kw_only=True, slots=True)
class Outcome:
    state: UpdateState
    text: str  # one line


class BundleUpdater:
    """Owns the bundle in use, and during a probation the one before."""

    def __init__(
        self,
        *,
        store: BundleStore,
        bundle_dir: Path | None,
        running: Running,
        compile_bundle: Callable[[Bundle], Predictor],
        cameras: Callable[[], Sequence[CameraInUse]],
        switch: Callable[[Running], None],
        turn: AbstractContextManager[object] | None = None,
        latency_factor: float = LATENCY_FACTOR,
        probation_frames: int = PROBATION_FRAMES,
        max_failures: int = MAX_FAILURES,
        clock: Callable[[], float] = time.perf_counter,
    ) -> None:
        """Starts nothing.

        Args:
            store: keeps the copies.
            bundle_dir: the folder that contains the named bundles; None: every update is refused.
            running: the bundle that inspects now.
            compile_bundle: raises a ZsadError for a bundle that cannot be used here.
            cameras: returns all cameras in use, in their present state.
            switch: makes the given bundle inspect from the next frame on; returns at once. Called by `update` in the
                worker thread, and by `note_frame` in the inference thread.
            turn: a lock that the inference thread holds while the model runs, so that a picture of the trial runs
                between two frames and each model is timed alone; None: no inference runs.
            latency_factor: a bundle that takes longer than this times the old one's median is refused.
            probation_frames: length of the probation in frames.
            max_failures: so many of these frames without an answer cause a rollback.
            clock: seconds, for latencies.
        """
        self._store = store
        self._bundle_dir = bundle_dir
        self._running = running
        self._compile = compile_bundle
        self._cameras = cameras
        self._switch = switch
        self._turn: AbstractContextManager[object] = turn if turn is not None else contextlib.nullcontext()
        self._latency_factor = latency_factor
        self._probation_frames = probation_frames
        self._max_failures = max_failures
        self._clock = clock
        self._lock = threading.Lock()  # guards the attributes below and `_running`
        self._before: Running | None = None  # kept during the probation
        self._frames = self._failures = 0
        self._unsettled: Outcome | None = None  # a rollback that the worker has not reported yet

    @property
    def running(self) -> Running:
        with self._lock:
            return self._running

    @property
    def on_probation(self) -> bool:
        with self._lock:
            return self._before is not None

    def update(self, name: str) -> Outcome:
        """Verifies, stores, compiles and tries the bundle `name`, then switches to it. Never raises.

        Args:
            name: relative to `bundle_dir`.
        """
        running = self.running
        if self.on_probation:
            return self._refused("the bundle before is still on probation: wait until it ends")
        try:
            path = find_bundle(self._bundle_dir, name)
            bundle = self._store.add(path)
            if bundle.sha256 == running.bundle.sha256:
                self._store.select(bundle, running.bundle)
                return self._told(UpdateState.CONFIRMED, f"{_named(bundle)} runs already")
            new = Running(detector=self._tried(bundle, running), bundle=bundle.without_model())
        except ZsadError as error:
            self._store.prune()
            return self._refused(str(error))
        except Exception as error:  # a model or device can fail in any way; the old one continues
            logger.debug("update to %r", name, exc_info=True)
            self._store.prune()
            return self._refused(f"{name}: {type(error).__name__}: {error}")
        with self._lock:
            self._running, self._before = new, running
            self._frames = self._failures = 0
        self._switch(new)
        return self._told(
            UpdateState.SWITCHED, f"{_named(bundle)} inspects, on probation for {self._probation_frames} frames"
        )

    def note_frame(self, bundle_sha256: str, ok: bool, reason: str | None = None) -> None:
        """Counts a frame of the bundle on probation; frames of other bundles are ignored.

        Args:
            bundle_sha256: of the bundle that got the frame.
            ok: False if model or device gave no answer. True for a bad picture, which is not the bundle's fault.
            reason: why there was no answer.
        """
        with self._lock:
            before = self._before
            if before is None or bundle_sha256 != self._running.bundle.sha256 or self._frames >= self._probation_frames:
                return
            self._frames += 1
            self._failures += not ok
            if self._failures < self._max_failures:
                return
            failed, self._running, self._before = self._running, before, None
            self._unsettled = Outcome(
                state=UpdateState.ROLLED_BACK,
                text=f"{_named(failed.bundle)} gave no answer to {self._failures} of its first {self._frames} frames "
                f"({reason or 'no reason given'}): {_named(before.bundle)} inspects again",
            )
        self._switch(before)

    def settle(self) -> Outcome | None:
        """The outcome of a probation, returned once; None if there is nothing new. Called regularly."""
        with self._lock:
            outcome, self._unsettled = self._unsettled, None
            before, running = self._before, self._running
            passed = before is not None and self._frames >= self._probation_frames
        if outcome is not None:
            self._store.prune()
            logger.warning("bundle update %s: %s", outcome.state, outcome.text)
            return outcome
        if before is None or not passed:
            return None
        text = f"{_named(running.bundle)} has passed its probation of {self._probation_frames} frames"
        try:
            self._store.select(running.bundle, before.bundle)
        except ZsadError as error:
            text += f"; but the next start will run {_named(before.bundle)}: {error}"
        with self._lock:
            self._before = None
        return self._told(UpdateState.CONFIRMED, text)

    def _tried(self, bundle: Bundle, running: Running) -> Predictor:
        """Compiles the bundle and tries it on the latest frames of every camera.

        Raises:
            ZsadError: it gave no answer or was too slow.
        """
        cameras = self._cameras()
        for camera in cameras:
            try:
                bundle.prompt(camera.product)
            except ProductError as error:
                raise ProductError(f"{_named(bundle)}: camera {camera.name}: {error}") from error
        if not any(len(camera.images_bgr) for camera in cameras):
            raise BundleError(f"{_named(bundle)}: no camera has had a good frame yet to try it on. Try again then.")
        detector = self._compile(bundle)
        old_ms: list[float] = []
        new_ms: list[float] = []
        for camera in cameras:
            for image_bgr in camera.images_bgr:
                with self._turn:
                    old_ms.append(self._timed(running.detector, image_bgr, camera, needed=False))
                    new_ms.append(self._timed(detector, image_bgr, camera, needed=True))
        old, new = statistics.median(old_ms), statistics.median(new_ms)
        if new > max(old * self._latency_factor, old + LATENCY_SLACK_MS):
            raise BundleError(
                f"{_named(bundle)}: takes {new:.1f} ms for a frame where {_named(running.bundle)} takes {old:.1f} ms, "
                f"at most {self._latency_factor:g} times as long is allowed"
            )
        return detector

    def _timed(self, detector: Predictor, image_bgr: np.ndarray, camera: CameraInUse, *, needed: bool) -> float:
        """Milliseconds of one answer. A missing answer is a BundleError if it is `needed`."""
        started_s = self._clock()
        try:
            prediction = detector.predict(image_bgr, camera.product)
        except ZsadError as error:
            if needed:
                raise BundleError(f"no answer to a stored frame of {camera.name}: {error}") from error
        else:
            if needed and not _is_answer(prediction):
                raise BundleError(f"the answer to a stored frame of {camera.name} is out of [0, 1] or not a number")
        return (self._clock() - started_s) * 1000

    def _refused(self, reason: str) -> Outcome:
        return self._told(UpdateState.REFUSED, reason)

    def _told(self, state: UpdateState, text: str) -> Outcome:
        text = " ".join(text.split())
        logger.log(
            logging.WARNING if state is UpdateState.REFUSED else logging.INFO, "bundle update %s: %s", state, text
        )
        return Outcome(state=state, text=text)


def find_bundle(bundle_dir: Path | None, name: str) -> Path:
    """The path of a bundle whose name came from outside. It is always inside `bundle_dir`, also with symbolic links.

    Raises:
        BundleError: the folder or the bundle does not exist, or the name leads out of the folder.
    """
    if bundle_dir is None:
        raise BundleError("control.bundle_dir is not set: there is no folder to take bundles from")
    if not _NAME.fullmatch(name) or len(name) > MAX_NAME_LENGTH or Path(name).is_absolute() or ".." in Path(name).parts:
        raise BundleError(f"{name[:80]!r}: expected the name of a bundle in control.bundle_dir, no path out of it")
    try:
        path, folder = (bundle_dir / name).resolve(strict=True), bundle_dir.resolve(strict=True)
    except (OSError, RuntimeError) as error:  # RuntimeError: links in a circle
        reason = getattr(error, "strerror", None) or error
        raise BundleError(f"{name[:80]!r}: no such bundle in control.bundle_dir: {reason}") from error
    if not path.is_relative_to(folder) or path == folder:
        raise BundleError(f"{name[:80]!r}: is a link out of control.bundle_dir, or that folder itself")
    return path


def _is_answer(prediction: Prediction) -> bool:
    low, high = float(prediction.anomaly_map.min()), float(prediction.anomaly_map.max())  # NaN anywhere makes both NaN
    score = prediction.anomaly_score
    return low >= 0 and high <= 1 and math.isfinite(score) and 0 <= score <= 1


def _named(bundle: Bundle) -> str:
    return f"bundle {bundle.manifest.name} {bundle.manifest.version} ({bundle.sha256[:12]})"
