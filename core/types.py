"""The values that pass from the camera to the broker.

Letters in all shape comments: B batch, C channels, H W pixels, h w map or patch grid, N = h*w, D embed dim,
T text dim, L tapped layers.
"""

from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum

import numpy as np


class Verdict(StrEnum):
    """The verdict on a part. `UNKNOWN` is never a pass."""

    OK = "ok"
    ANOMALOUS = "anomalous"
    UNKNOWN = "unknown"


@dataclass(frozen=True, kw_only=True, slots=True)
class Frame:
    """One captured image."""

    image_bgr: np.ndarray  # uint8 [H, W, 3]
    camera: str
    seq: int  # one counter for all cameras of the process
    captured_at: datetime  # UTC
    captured_monotonic_s: float
    trigger_id: str | None = None  # from the trigger of this frame, if the trigger has an id
    source_name: str | None = None  # file name of a picture from a file or folder
    done: Callable[[Verdict], None] | None = None  # called when the frame's result is stored or delivered

    @property
    def frame_wh(self) -> tuple[int, int]:
        height, width = self.image_bgr.shape[:2]
        return width, height


@dataclass(frozen=True, kw_only=True, slots=True)
class ProfileName:
    """What was taught: the product, and the hash of its profile."""

    product: str
    sha256: str


TAUGHT_THRESHOLD = 0.5  # of every taught product: see `zsad_core.memory.to_unit`


@dataclass(frozen=True, kw_only=True, slots=True)
class Prediction:
    """The model's output for one image. Higher is more anomalous in both values."""

    anomaly_map: np.ndarray  # float32 [h, w] in [0, 1], covers the whole image
    anomaly_score: float  # [0, 1]
    threshold: float | None = None  # set at teach-in, 0.5; None: nothing was taught for the product
    profile: ProfileName | None = None  # what the prediction used
    scale: float | None = None  # for `zsad_core.memory.taught_score`, by which the score follows from the map
    ignored: np.ndarray | None = None  # bool [h, w], True where the mask of the teach-in ignores the map
    other: str | None = None  # why the picture must not pass: as a whole it differs from the good parts

    def refusal(self, threshold: float) -> str | None:
        """Why the picture, which would pass at this threshold, is `unknown`; None if it is judged by its score."""
        return self.other if self.anomaly_score < threshold else None


@dataclass(frozen=True, kw_only=True, slots=True)
class Region:
    """A connected area of the anomaly map at or above the region level, in frame pixels."""

    bbox_xywh: tuple[int, int, int, int]
    peak: float  # highest map value inside, [0, 1]
