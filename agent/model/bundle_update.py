"""Replaces the bundle while the agent runs: tries it, switches between two frames, and rolls back if it fails.

One worker thread, which may wait for the disk and the compiler, calls `BundleUpdater.update` and `settle`. The
inference thread, which may not wait, calls `note_frame`, which counts and rolls a failing bundle back at once.
"""

import logging
import math
import re
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from zsad_agent.model.bundle_store import BundleStore
from zsad_agent.model.current_model import Model, ModelInUse, Predictor, full_name
from zsad_core.bundle import Bundle
from zsad_core.errors import BundleError, ImageError, ProductError, ZsadError

logger = logging.getLogger(__name__)

LATENCY_FACTOR = 3.0  # times the old bundle's latency on the same frames
LATENCY_SLACK_MS = 5.0  # this much slower is always allowed, because of the scheduler's noise for 1 ms models
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
class Outcome:
    """The end of a probation."""

    passed: bool  # False: the earlier bundle inspects again
    text: str


class BundleUpdater:
    """Changes the model in use. Keeps the earlier model during a probation."""

    def __init__(
        self,
        *,
        store: BundleStore,
        models: ModelInUse,
        compile_bundle: Callable[[Bundle], Predictor],
        cameras: Callable[[], Sequence[CameraInUse]],
        on_passed: Callable[[Predictor], None] = lambda predictor: None,
        clock: Callable[[], float] = time.perf_counter,
    ) -> None:
        """Changes nothing yet. `compile_bundle` raises a ZsadError for a bundle that cannot be used here.

        `on_passed` is called with the bundle's predictor after its probation.
        """
        self._on_passed = on_passed
        self._store = store
        self._models = models
        self._compile = compile_bundle
        self._cameras = cameras
        self._clock = clock
        self._lock = threading.Lock()  # guards the attributes below and changes of `models`
        self._before: Model | None = None  # kept during the probation
        self._frames = self._failures = 0
        self._unsettled: Outcome | None = None  # a rollback that the worker has not reported yet
        models.on_answer = self.note_frame

    @property
    def on_probation(self) -> bool:
        with self._lock:
            return self._before is not None

    def update(self, path: Path) -> None:
        """Verifies, stores, compiles and tries the bundle at `path`, then switches to it on probation.

        Raises:
            ZsadError: the bundle is refused; the old one continues.
        """
        old = self._models.current
        if self.on_probation:
            raise BundleError(f"bundle {old.name} is still on probation. Wait until its probation ends")
        try:
            bundle = self._store.add(path)
            if bundle.sha256 == old.bundle.sha256:
                self._store.select(bundle, old.bundle)
                logger.info("bundle %s already inspects", full_name(bundle))
                return
            new = Model(predictor=self._tried(bundle, old), bundle=bundle.without_model())
        except ZsadError:
            self._store.prune()
            raise
        except Exception as error:  # a model or device can fail in any way
            self._store.prune()
            raise BundleError(f"{path.name}: {type(error).__name__}: {error}") from error
        with self._lock:
            self._before = old
            self._frames = self._failures = 0
            self._models.replace(new)
        logger.info("bundle %s inspects, on probation for %d pictures", full_name(bundle), PROBATION_FRAMES)

    def note_frame(self, bundle_sha256: str, ok: bool, reason: str | None = None) -> None:
        """Counts a frame of the bundle on probation; frames of other bundles are ignored.

        `ok`: False if model or device gave no answer, with the reason. A bad picture is not the bundle's fault.
        """
        with self._lock:
            before, failed = self._before, self._models.current
            if before is None or bundle_sha256 != failed.bundle.sha256 or self._frames >= PROBATION_FRAMES:
                return
            self._frames += 1
            self._failures += not ok
            if self._failures < MAX_FAILURES:
                return
            self._models.replace(before)
            self._before = None
            text = f"bundle {failed.name} gave no answer to {self._failures} of its first {self._frames} pictures"
            self._unsettled = Outcome(passed=False, text=f"{text} ({reason}): bundle {before.name} inspects again")

    def revert(self) -> None:
        """Ends a probation: the earlier bundle inspects from the next picture on."""
        with self._lock:
            if self._before is None:
                return
            text = f"the probation of bundle {self._models.current.name} was ended by a command"
            self._unsettled = Outcome(passed=False, text=f"{text}: bundle {self._before.name} inspects again")
            self._models.replace(self._before)
            self._before = None

    def settle(self) -> Outcome | None:
        """The outcome of a probation, returned once; None if there is nothing new. Called regularly."""
        with self._lock:
            outcome, self._unsettled = self._unsettled, None
            before = self._before
            ended = self._frames >= PROBATION_FRAMES
        if outcome is not None:
            self._store.prune()
            logger.warning("bundle update rolled back: %s", outcome.text)
            return outcome
        if before is None or not ended:
            return None
        model = self._models.current
        text = f"bundle {model.name} has passed its probation of {PROBATION_FRAMES} pictures"
        try:
            self._store.select(model.bundle, before.bundle)
        except ZsadError as error:
            text += f"; but the next start will run bundle {before.name}: {error}"
        with self._lock:
            self._before = None
        self._on_passed(model.predictor)
        logger.info("%s", text)
        return Outcome(passed=True, text=text)

    def _tried(self, bundle: Bundle, old: Model) -> Predictor:
        """Compiles the bundle and tries it on the latest frames of every camera.

        Raises:
            ZsadError: it gave no answer or was too slow.
        """
        cameras = self._cameras()
        for camera in cameras:
            try:
                if camera.product in old.bundle.manifest.products and not old.predictor.is_taught(camera.product):
                    bundle.prompt(camera.product)
            except ProductError as error:
                raise ProductError(f"bundle {full_name(bundle)}: camera {camera.name}: {error}") from error
        if not any(len(camera.images_bgr) for camera in cameras):
            raise BundleError(
                f"bundle {full_name(bundle)} cannot be tried: no camera has had a good picture yet. Try again later"
            )
        predictor = self._compile(bundle)
        for camera in cameras:
            predictor.prepare(camera.product)
        old_ms: list[float] = []
        new_ms: list[float] = []
        for camera in cameras:
            for image_bgr in camera.images_bgr:
                with self._models.model_lock:  # between two frames, so that each model is timed alone
                    started_s = self._clock()
                    old_error: ZsadError | None = None
                    try:
                        old.predictor.predict(image_bgr, camera.product)
                        old_ms.append((self._clock() - started_s) * 1000)
                    except ZsadError as error:  # the time of a failure says nothing
                        old_error = error
                    switched_s = self._clock()
                    try:
                        predictor.predict(image_bgr, camera.product)
                    except ZsadError as error:
                        if isinstance(error, ImageError) and isinstance(old_error, ImageError):
                            continue  # the picture is at fault: for example, it shows no part
                        raise BundleError(f"no answer to a stored picture of {camera.name}: {error}") from error
                    ended_s = self._clock()
                new_ms.append((ended_s - switched_s) * 1000)
        if not new_ms:
            raise BundleError(
                f"bundle {full_name(bundle)} cannot be tried: no camera's last pictures show a part. Try again later"
            )
        old_median_ms, new_median_ms = float(np.median(old_ms or [math.inf])), float(np.median(new_ms))
        if new_median_ms > max(old_median_ms * LATENCY_FACTOR, old_median_ms + LATENCY_SLACK_MS):
            raise BundleError(
                f"bundle {full_name(bundle)} takes {new_median_ms:.1f} ms for a picture, bundle {old.name} takes "
                f"{old_median_ms:.1f} ms. At most {LATENCY_FACTOR:g} times as long is allowed"
            )
        return predictor


def find_bundle(bundle_dir: Path | None, name: str) -> Path:
    """The path of the bundle that a command names. It is always inside `bundle_dir`, also with symbolic links.

    Raises:
        BundleError: the folder or the bundle does not exist, or the name leads out of the folder.
    """
    if bundle_dir is None:
        raise BundleError("control.bundle_dir is not set, so there is no folder with bundles")
    if not _NAME.fullmatch(name) or len(name) > MAX_NAME_LENGTH or Path(name).is_absolute() or ".." in Path(name).parts:
        raise BundleError(f"{name[:80]!r}: expected the name of a bundle in control.bundle_dir, not a path out of it")
    try:
        path, folder = (bundle_dir / name).resolve(strict=True), bundle_dir.resolve(strict=True)
    except (OSError, RuntimeError) as error:  # RuntimeError: links in a circle
        reason = getattr(error, "strerror", None) or error
        raise BundleError(f"{name[:80]!r}: no such bundle in control.bundle_dir: {reason}") from error
    if not path.is_relative_to(folder) or path == folder:
        raise BundleError(f"{name[:80]!r}: a link out of control.bundle_dir, or that folder itself")
    return path
