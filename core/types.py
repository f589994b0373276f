"""The values that travel from the camera to the broker.

Letters used in every shape comment: B batch, C channels, H W pixels, h w map or patch grid, N = h*w, D embed dim,
T text dim, L tapped layers.
"""

from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum

import numpy as np


class Verdict(StrEnum):
    """What is said of a part. `UNKNOWN` is never a pass."""

    OK = "ok"
    ANOMALOUS = "anomalous"
    UNKNOWN = "unknown"


@dataclass(frozen=True, kw_only=True, slots=True)
class Frame:
    """One picture as captured."""

    image_bgr: np.ndarray  # uint8 [H, W, 3]
    camera: str
    seq: int  # counts up over the life of the process, over all its cameras
    captured_at: datetime  # UTC
    captured_monotonic_s: float
    trigger_id: str | None = None  # of the trigger that asked for it, where that has one
    done: Callable[[], None] | None = None  # to be called once its result is safe

    @property
    def frame_wh(self) -> tuple[int, int]:
        height, width = self.image_bgr.shape[:2]
        return width, height


@dataclass(frozen=True, kw_only=True, slots=True)
class Prediction:
    """What the model says of one picture. Higher is more anomalous in both."""

    anomaly_map: np.ndarray  # float32 [h, w] in [0, 1], covers the whole picture
    anomaly_score: float  # [0, 1]


@dataclass(frozen=True, kw_only=True, slots=True)
class Region:
    """A connected area of the anomaly map above the region level, in frame pixels."""

    bbox_xywh: tuple[int, int, int, int]
    peak: float  # highest map value inside, [0, 1]
