"""From one captured picture to its result: prediction, verdict, regions and heatmap."""

import logging
import time
from collections.abc import Callable
from dataclasses import dataclass

import cv2

from zsad_agent.capture import INFERENCE, CameraStatus, Captured, UnknownPace
from zsad_agent.config import HeatmapConfig
from zsad_agent.inspection.overlay import render_heatmap
from zsad_agent.inspection.view import Rectangle, View
from zsad_agent.messages import BundleName, FoundRegion, Latency, Result
from zsad_agent.model import Model, ModelInUse
from zsad_agent.system import one_line
from zsad_core.errors import ImageError, ZsadError
from zsad_core.judging import Decider, instant_verdict
from zsad_core.picture import find_regions
from zsad_core.types import Frame, Prediction, Region, Verdict

logger = logging.getLogger(__name__)

MAX_REASON_CHARACTERS = 500


@dataclass(frozen=True, kw_only=True, slots=True)
class Identity:
    """The origin that every result of this process names."""

    device_id: str
    boot: str  # different for every start, so that ids are unique


@dataclass(frozen=True, kw_only=True, slots=True)
class Inspected:
    """A captured picture with its prediction, or with the reason why there is none."""

    captured: Captured
    model: Model
    product: str
    threshold: float
    prediction: Prediction | None
    reason: str | None
    inference_ms: float | None


class Inspector:
    """Inspects one camera's pictures: `predict` in the inference thread, `decide` in the publishing thread.

    `threshold` and `product` may be set by any thread and take effect at the next picture.
    """

    def __init__(
        self,
        *,
        models: ModelInUse,
        identity: Identity,
        product: str,
        decider: Decider,
        heatmap: HeatmapConfig,
        status: CameraStatus,
        view: View,
        threshold: float | None = None,
        region_level: float | None = None,
        unknown_pace: UnknownPace | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Takes the parts of one camera. Without a threshold or region level the bundle's is used.

        `unknown_pace` is of a camera that runs freely; None: every picture is a result.
        """
        self.product = product
        self.threshold = threshold
        self._models = models
        self._identity = identity
        self._decider = decider
        self._heatmap = heatmap
        self._status = status
        self._view = view
        self._region_level = region_level
        self._unknown_pace = unknown_pace
        self._clock = clock

    def predict(self, captured: Captured) -> Inspected:
        """Runs the model. A refusal by the model or device becomes a reason, not an error."""
        model, product, threshold = self._models.current, self.product, self.threshold
        prediction: Prediction | None = None
        inference_ms = None
        if isinstance(captured, Frame):
            started_s = self._clock()
            prediction, reason = self._predict(captured, model, product)
            if prediction is not None:
                inference_ms = (self._clock() - started_s) * 1000
        else:
            reason = captured.reason
        return Inspected(
            captured=captured,
            model=model,
            product=product,
            threshold=model.threshold if threshold is None else threshold,
            prediction=prediction,
            reason=reason,
            inference_ms=inference_ms,
        )

    def _predict(self, frame: Frame, model: Model, product: str) -> tuple[Prediction | None, str | None]:
        """The prediction, or the reason why there is none."""
        try:
            picture = self._view.cut(frame.image_bgr)
            with self._models.model_lock:
                prediction = model.predictor.predict(picture, product)
            prediction = self._view.correct(prediction, frame.frame_wh, model.score_rule)
        except ImageError as error:  # the picture is at fault
            return None, str(error)
        except ZsadError as error:
            self._status.fault(INFERENCE, str(error))
            self._models.note(model, False, str(error))
            return None, str(error)
        self._status.clear(INFERENCE)
        self._models.note(model, True)
        return prediction, None

    def decide(self, inspected: Inspected) -> tuple[Result, bytes | None] | None:
        """The result, and the heatmap as a JPEG if there is one. Call it in the order of capture, because it debounces.

        None for a picture of a camera that runs freely, where the model gives no score and that was reported already.
        """
        captured, prediction, model = inspected.captured, inspected.prediction, inspected.model
        regions: list[Region] = []
        heatmap = None
        frame_wh = captured.frame_wh if isinstance(captured, Frame) else None
        instant = Verdict.UNKNOWN
        if prediction is not None and isinstance(captured, Frame):
            instant = instant_verdict(prediction.anomaly_score, inspected.threshold)
            level = model.region_level if self._region_level is None else self._region_level
            rectangle = self._view.rectangle(captured.frame_wh)
            regions = self._view.in_frame(
                find_regions(prediction.anomaly_map, level=level, frame_wh=rectangle[2:]), captured.frame_wh
            )
            heatmap = self._render(captured, prediction, rectangle)
        verdict = self._decider.decide(instant, captured.captured_monotonic_s)
        if isinstance(captured, Frame) and not self._is_reported(verdict):  # capture itself counts the faults
            return None
        reason = inspected.reason or ("the model's score is no number" if verdict is Verdict.UNKNOWN else None)
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
            bundle=BundleName(name=model.name, version=model.version, sha256=model.sha256),
            latency_ms=Latency(
                capture_to_result=(self._clock() - captured.captured_monotonic_s) * 1000,
                inference=inspected.inference_ms,
            ),
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

    def _render(self, frame: Frame, prediction: Prediction, rectangle: Rectangle) -> bytes | None:
        if not self._heatmap.enabled:
            return None
        try:
            return render_heatmap(frame.image_bgr, prediction.anomaly_map, self._heatmap, rectangle)
        except cv2.error as error:  # the verdict is published without it
            logger.warning("frame %d: no heatmap: %s", frame.seq, error.err or error.code)
            return None
