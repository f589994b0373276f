"""From one captured picture to its result: prediction, verdict, regions and heatmap."""

import logging
import time
from collections.abc import Callable
from dataclasses import dataclass

import cv2
import numpy as np

from zsad_agent.capture import INFERENCE, PART, CameraStatus, Captured, UnknownPace
from zsad_agent.config import CameraConfig, DecisionConfig, HeatmapConfig
from zsad_agent.inspection.overlay import render_heatmap
from zsad_agent.inspection.view import Rectangle, View
from zsad_agent.messages import BundleName, FoundRegion, Latency, Result, UsedProfile
from zsad_agent.model import Model, ModelInUse
from zsad_agent.system import one_line
from zsad_core.bundle import GENERIC_PRODUCT, Bundle
from zsad_core.errors import ImageError, ProfileError, ZsadError
from zsad_core.judging import Decider, Provisional, instant_verdict
from zsad_core.part import NoPartError, PartError
from zsad_core.picture import with_half_at
from zsad_core.types import TAUGHT_THRESHOLD, Frame, Prediction, Region, Verdict

logger = logging.getLogger(__name__)

MAX_REASON_CHARACTERS = 500
MISSES = 20  # pictures in a row without the taught part: the camera is then degraded


@dataclass(frozen=True, kw_only=True, slots=True)
class Identity:
    """Part of every result of this process."""

    device_id: str
    boot: str  # different for every start, so that ids are unique


@dataclass(frozen=True, kw_only=True, slots=True)
class Inspected:
    """A captured picture with its prediction, or with the reason why there is none or why it must not pass."""

    captured: Captured
    model: Model
    product: str
    threshold: float
    prediction: Prediction | None
    view_bgr: np.ndarray | None  # uint8 [H, W, 3]: the inspected part of the frame
    provisional: bool  # nothing was taught for the product
    provisional_frames: int | None  # on which the threshold rests; 0: that of the bundle; None: taught or set
    reason: str | None
    inference_ms: float | None


class Inspector:
    """Inspects one camera's pictures: `predict` in the inference thread, `decide` in the publishing thread.

    `threshold` and `product` may be set by any thread and take effect at the next picture. `provisional` is set before
    the first one.
    """

    def __init__(
        self,
        camera: CameraConfig,
        identity: Identity,
        models: ModelInUse,
        status: CameraStatus,
        view: View,
        *,
        heatmap: HeatmapConfig,
        lossless: bool,
    ) -> None:
        """Takes the parts of one camera. Without a threshold or region level in the config, teach-in's or the bundle's.

        `lossless`: the pictures come from files, and each one gives a result.
        """
        decision = camera.decision or DecisionConfig()
        self.product = product_of(camera)
        self.threshold = decision.threshold
        self._models = models
        self._identity = identity
        self._decider = Decider(k=decision.debounce_k, n=decision.debounce_n, hold_s=decision.hold_s)
        self._heatmap = heatmap
        self._status = status
        self._view = view
        self._region_level = decision.region_level
        self._unknown_pace = None if lossless or camera.each_picture_is_a_part else UnknownPace()
        # threshold of a product that was not taught; None: that of the bundle
        self.provisional: Callable[[str, Bundle], Provisional | None] = lambda product, bundle: None
        self._missed: tuple[str, int] = ("", 0)  # product, and pictures in a row without its part

    def predict(self, captured: Captured) -> Inspected:
        """Runs the model. An error of the picture, model or device becomes the `reason`."""
        model, product, threshold = self._models.current, self.product, self.threshold
        started_s = time.monotonic()
        view_bgr = None
        if isinstance(captured, Frame):
            prediction, reason = self._predict(captured, model, product)
            if prediction is not None:
                view_bgr = self._view.cut(captured.image_bgr)
        else:
            prediction, reason = None, captured.reason
        # The prediction says what it used: another thread may teach the product meanwhile.
        taught = model.predictor.is_taught(product) if prediction is None else prediction.threshold is not None
        if threshold is None and prediction is not None:
            threshold = prediction.threshold
        frames = None
        if threshold is None:
            threshold, frames = self.own_threshold(model, product, taught=taught)
        if prediction is not None:
            reason = self._other_part(prediction, product, threshold)
        return Inspected(
            captured=captured,
            model=model,
            product=product,
            threshold=threshold,
            prediction=prediction,
            view_bgr=view_bgr,
            provisional=not taught,
            provisional_frames=frames,
            reason=reason,
            inference_ms=(time.monotonic() - started_s) * 1000 if prediction is not None else None,
        )

    def _other_part(self, prediction: Prediction, product: str, threshold: float) -> str | None:
        """Why the picture, which would pass, shows another part; None if it does not. Counts those in a row."""
        if (reason := prediction.refusal(threshold)) is not None:
            self._count_miss(product, reason)
            return reason
        self._status.clear(PART)
        self._missed = product, 0
        return None

    def own_threshold(self, model: Model, product: str, *, taught: bool) -> tuple[float, int | None]:
        """The threshold if people set none, and `Inspected.provisional_frames`."""
        if taught:
            return TAUGHT_THRESHOLD, None
        found = self.provisional(product, model.bundle)
        return (model.bundle.manifest.threshold.value, 0) if found is None else (found.threshold, found.frames)

    def _predict(self, frame: Frame, model: Model, product: str) -> tuple[Prediction | None, str | None]:
        """The prediction, or the reason why there is none."""
        try:
            picture = self._view.cut(frame.image_bgr)
            with self._models.model_lock:
                prediction = model.predictor.predict(picture, product)
            prediction = self._view.correct(prediction, frame.frame_wh, model.bundle.manifest.model.score)
        except ImageError as error:  # the bundle is not at fault
            if isinstance(error, PartError):
                self._count_miss(product, str(error), no_part=isinstance(error, NoPartError))
            return None, str(error)
        except ProfileError as error:  # nor here
            self._status.fault(INFERENCE, str(error))
            return None, str(error)
        except ZsadError as error:
            self._status.fault(INFERENCE, str(error))
            self._models.on_answer(model.bundle.sha256, False, str(error))
            return None, str(error)
        self._status.clear(INFERENCE)
        self._models.on_answer(model.bundle.sha256, True, None)
        return prediction, None

    def _count_miss(self, product: str, reason: str, *, no_part: bool = False) -> None:
        """States after `MISSES` pictures in a row that the taught part does not come.

        A free-running camera takes pictures between the parts, so that it sees no part is no fault.
        """
        if product != self._missed[0]:
            self._status.clear(PART)
            self._missed = product, 0
        if self._unknown_pace is not None and no_part:
            return
        self._missed = product, self._missed[1] + 1
        if self._missed[1] == MISSES:
            self._status.fault(
                PART,
                f"{MISSES} pictures in a row do not show {product} as taught ({reason}). Choose the right product, or "
                "check camera and light, or teach it again",
            )

    def decide(self, inspected: Inspected) -> tuple[Result, bytes | None] | None:
        """The result, and the heatmap as a JPEG if there is one. Call it in the order of capture, because it debounces.

        None if a free-running camera's picture has no score and this was already reported.
        """
        captured, bundle = inspected.captured, inspected.model.bundle
        prediction = inspected.prediction if inspected.reason is None else None
        regions: list[Region] = []
        heatmap = None
        frame_wh = captured.frame_wh if isinstance(captured, Frame) else None
        instant = Verdict.UNKNOWN
        if prediction is not None and isinstance(captured, Frame):
            instant = instant_verdict(prediction.anomaly_score, inspected.threshold)
            regions = self._view.regions(
                prediction,
                captured.frame_wh,
                level=self._region_level,
                bundle_level=bundle.manifest.region_level,
            )
            shown = prediction.anomaly_map
            if prediction.threshold is None:  # the colours then mean the same as those of a taught product
                shown = with_half_at(shown, bundle.manifest.region_level)
            heatmap = self._render(captured, shown, self._view.rectangle(captured.frame_wh))
        verdict = self._decider.decide(instant, captured.captured_monotonic_s)
        if isinstance(captured, Frame) and not self._is_reported(verdict):  # `capture` limits the rate of faults
            return None
        profile = inspected.prediction.profile if inspected.prediction is not None else None
        reason = inspected.reason or ("the model's score is not a number" if verdict is Verdict.UNKNOWN else None)
        result = Result(
            id=f"{self._identity.device_id}-{self._identity.boot}-{captured.seq}",
            device_id=self._identity.device_id,
            camera=captured.camera,
            seq=captured.seq,
            captured_at=captured.captured_at,
            product=inspected.product,
            anomaly_score=prediction.anomaly_score if prediction is not None else None,
            threshold=inspected.threshold,
            verdict=verdict,
            reason=one_line(reason, MAX_REASON_CHARACTERS) if reason is not None else None,
            regions=tuple(FoundRegion(bbox_xywh=region.bbox_xywh, peak=region.peak) for region in regions),
            frame_wh=frame_wh,
            bundle=BundleName(name=bundle.manifest.name, version=bundle.manifest.version, sha256=bundle.sha256),
            latency_ms=Latency(
                capture_to_result=(time.monotonic() - captured.captured_monotonic_s) * 1000,
                inference=inspected.inference_ms,
            ),
            source_name=captured.source_name,
            provisional=inspected.provisional,
            provisional_frames=inspected.provisional_frames,
            profile=UsedProfile(product=profile.product, sha256=profile.sha256) if profile is not None else None,
            trigger_id=captured.trigger_id,
        )
        return result, heatmap

    def _is_reported(self, verdict: Verdict) -> bool:
        pace = self._unknown_pace
        if pace is None:
            return True
        if verdict is not Verdict.UNKNOWN:
            pace.count_good()
            return True
        return pace.take()

    def _render(self, frame: Frame, anomaly_map: np.ndarray, rectangle: Rectangle) -> bytes | None:
        if not self._heatmap.enabled:
            return None
        try:
            return render_heatmap(frame.image_bgr, anomaly_map, self._heatmap, rectangle)
        except cv2.error as error:  # the verdict is published without it
            logger.warning("picture %d: the heatmap cannot be drawn: %s", frame.seq, error.err or error.code)
            return None


def product_of(camera: CameraConfig) -> str:
    """The product of a camera that `AgentConfig.every_camera` has filled in."""
    return camera.product or GENERIC_PRODUCT
