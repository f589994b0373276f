"""What is said of one captured picture: the model's answer, then verdict, regions, message and heatmap."""

import logging
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

import cv2
import numpy as np

from zsad_agent.capture import Captured
from zsad_agent.config import HeatmapConfig
from zsad_agent.message import build_result
from zsad_agent.overlay import render_heatmap
from zsad_agent.status import INFERENCE, CameraStatus
from zsad_core.decision import Decider, instant_verdict
from zsad_core.errors import ImageError, ZsadError
from zsad_core.regions import find_regions
from zsad_core.types import Frame, Prediction, Region, Verdict

logger = logging.getLogger(__name__)

MAX_REASON_CHARACTERS = 500


class Predictor(Protocol):
    """The model as the pipeline sees it; `zsad_agent.inference.Detector` is one."""

    @property
    def product(self) -> str: ...

    def predict(self, image_bgr: np.ndarray) -> Prediction: ...


@dataclass(frozen=True, kw_only=True, slots=True)
class Identity:
    """What every result of this process says of its origin."""

    device_id: str
    boot: str  # another for every start, so that ids never come twice
    bundle_name: str
    bundle_version: str
    bundle_sha256: str


@dataclass(frozen=True, kw_only=True, slots=True)
class Limits:
    threshold: float  # score from which a part is anomalous
    region_level: float  # map value from which a pixel belongs to a region


@dataclass(frozen=True, kw_only=True, slots=True)
class Inspected:
    """A captured picture and the model's answer, or the reason why there is none."""

    captured: Captured
    product: str
    prediction: Prediction | None
    reason: str | None
    inference_ms: float | None


class Inspector:
    """The two halves of the work on one picture: `look` in the inference thread, `conclude` in the next."""

    def __init__(
        self,
        *,
        predictor: Predictor,
        identity: Identity,
        limits: Limits,
        decider: Decider,
        heatmap: HeatmapConfig,
        status: CameraStatus,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._predictor = predictor
        self._identity = identity
        self._limits = limits
        self._decider = decider
        self._heatmap = heatmap
        self._status = status
        self._clock = clock

    def look(self, captured: Captured) -> Inspected:
        """Runs the model. What the model or device refuses is a reason, not an error."""
        product = self._predictor.product
        if not isinstance(captured, Frame):
            return Inspected(
                captured=captured, product=product, prediction=None, reason=captured.reason, inference_ms=None
            )
        started_s = self._clock()
        try:
            prediction = self._predictor.predict(captured.image_bgr)
        except ZsadError as error:
            if not isinstance(error, ImageError):
                self._status.fault(INFERENCE, str(error))
            return Inspected(captured=captured, product=product, prediction=None, reason=str(error), inference_ms=None)
        self._status.clear(INFERENCE)
        return Inspected(
            captured=captured,
            product=product,
            prediction=prediction,
            reason=None,
            inference_ms=(self._clock() - started_s) * 1000,
        )

    def conclude(self, inspected: Inspected) -> tuple[dict[str, Any], bytes | None]:
        """The result message, and the heatmap as a JPEG where there is one. In the order of capture: it debounces."""
        captured, prediction = inspected.captured, inspected.prediction
        regions: list[Region] = []
        heatmap = None
        frame_wh = captured.frame_wh if isinstance(captured, Frame) else None
        instant = Verdict.UNKNOWN
        if prediction is not None and isinstance(captured, Frame):
            instant = instant_verdict(prediction.anomaly_score, self._limits.threshold)
            regions = find_regions(prediction.anomaly_map, level=self._limits.region_level, frame_wh=captured.frame_wh)
            heatmap = self._render(captured, prediction)
        verdict = self._decider.decide(instant, captured.captured_monotonic_s)
        reason = inspected.reason or ("the model's score is no number" if verdict is Verdict.UNKNOWN else None)
        result = build_result(
            result_id=f"{self._identity.device_id}-{self._identity.boot}-{captured.seq}",
            device_id=self._identity.device_id,
            camera=captured.camera,
            seq=captured.seq,
            captured_at=captured.captured_at,
            product=inspected.product,
            prediction_score=prediction.anomaly_score if prediction is not None else None,
            threshold=self._limits.threshold,
            verdict=verdict,
            reason=_sendable(reason) if reason is not None else None,
            regions=regions,
            frame_wh=frame_wh,
            bundle_name=self._identity.bundle_name,
            bundle_version=self._identity.bundle_version,
            bundle_sha256=self._identity.bundle_sha256,
            capture_to_result_ms=(self._clock() - captured.captured_monotonic_s) * 1000,
            inference_ms=inspected.inference_ms,
        )
        return result, heatmap

    def _render(self, frame: Frame, prediction: Prediction) -> bytes | None:
        if not self._heatmap.enabled:
            return None
        try:
            return render_heatmap(frame.image_bgr, prediction.anomaly_map, self._heatmap)
        except cv2.error as error:  # the verdict is said all the same
            logger.warning("frame %d: no heatmap: %s", frame.seq, error.err or error.code)
            return None


def _sendable(reason: str) -> str:
    """One line of bounded length that is UTF-8, whatever a file's name held."""
    text = " ".join(reason.encode("utf-8", "replace").decode("utf-8").split())
    return text if len(text) <= MAX_REASON_CHARACTERS else text[: MAX_REASON_CHARACTERS - 1] + "…"
