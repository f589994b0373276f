"""The part of a camera's frame that is inspected: a rectangle, without the pixels that a mask ignores."""

import logging
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np

from zsad_core.errors import ConfigError, ImageError
from zsad_core.facts import ScoreRule
from zsad_core.judging import masked_score
from zsad_core.memory import taught_score
from zsad_core.picture import decode_image, find_regions, read_encoded
from zsad_core.types import Prediction, Region

logger = logging.getLogger(__name__)

WHITE = 128  # grey level of the mask from which a pixel is ignored
SHAPE_SLACK = 0.01  # by which the mask's aspect ratio may differ from the frame's

Rectangle = tuple[int, int, int, int]  # x, y, width, height in pixels of the frame


class View:
    """Cuts pictures and corrects predictions. For one camera, used by its inference thread."""

    def __init__(self, region_xywh: Rectangle | None = None, ignore_mask: Path | None = None) -> None:
        """Reads the mask.

        Raises:
            ConfigError: the mask cannot be read, or ignores everything or nothing.
        """
        self._region = region_xywh
        self._mask_path = ignore_mask
        self._mask: np.ndarray | None = None  # uint8 [H, W]
        if ignore_mask is not None:
            try:
                # Not strict: that would refuse a BMP whose drawing ends above the last row.
                mask = decode_image(read_encoded(ignore_mask), str(ignore_mask))
                self._mask = cv2.cvtColor(mask, cv2.COLOR_BGR2GRAY)
            except ImageError as error:
                raise ConfigError(f"ignore_mask: {error}") from error
            if self._mask.min() >= WHITE:
                raise ConfigError(f"ignore_mask: {ignore_mask} is white everywhere, so nothing would be inspected")
            if self._mask.max() < WHITE:
                raise ConfigError(
                    f"ignore_mask: {ignore_mask} has no white area, so it ignores nothing (transparency does not count)"
                    ". Draw in white what is to be ignored, or remove ignore_mask"
                )
        self._judged: tuple[object, np.ndarray] | None = None  # ((frame_wh, map_hw), bool [h, w])

    def rectangle(self, frame_wh: tuple[int, int]) -> Rectangle:
        """The inspected part of a frame of this size.

        Raises:
            ImageError: the region is not inside the frame.
        """
        if self._region is None:
            return 0, 0, *frame_wh
        x, y, width, height = self._region
        if x + width > frame_wh[0] or y + height > frame_wh[1]:
            raise ImageError(
                f"region_xywh {x}, {y}, {width}, {height} is not inside the picture of {frame_wh[0]}x{frame_wh[1]}. "
                "Change region_xywh"
            )
        return self._region

    def cut(self, image_bgr: np.ndarray) -> np.ndarray:
        """The part of uint8 [H, W, 3] that is inspected.

        Raises:
            ImageError: as of `rectangle`.
        """
        x, y, width, height = self.rectangle((image_bgr.shape[1], image_bgr.shape[0]))
        return image_bgr[y : y + height, x : x + width]

    def correct(self, prediction: Prediction, frame_wh: tuple[int, int], rule: ScoreRule | None) -> Prediction:
        """The prediction without the ignored pixels: their map values are 0, and the score is that of the other pixels.

        Raises:
            ImageError: the mask has another aspect ratio than the frame, or covers the whole region, or the whole part.
            ConfigError: the model's score cannot be computed again from a part of the map.
        """
        if self._mask is None:
            return prediction
        judged = self._judged_for(frame_wh, prediction.anomaly_map.shape)
        if prediction.scale is not None:
            score = taught_score(prediction.anomaly_map, prediction.scale, ~judged)
        elif rule is not None:
            score = masked_score(prediction.anomaly_map, judged, rule)
        else:
            raise ConfigError(
                "ignore_mask: the score of this bundle is not computed from its anomaly map. Remove the mask"
            )
        return replace(
            prediction,
            anomaly_map=np.where(judged, prediction.anomaly_map, np.float32(0)),
            anomaly_score=score,
        )

    def ignored(self, frame_wh: tuple[int, int], map_hw: tuple[int, int]) -> np.ndarray | None:
        """bool [h, w]: the map pixels of the region that the mask ignores; None without a mask.

        Raises:
            ImageError: as of `correct`.
        """
        return None if self._mask is None else ~self._judged_for(frame_wh, map_hw)

    def regions(
        self, prediction: Prediction, frame_wh: tuple[int, int], *, level: float | None, bundle_level: float
    ) -> list[Region]:
        """The regions of a corrected prediction, in pixels of the frame.

        `level`: lowest map value of a region; None: the threshold of a taught product, else `bundle_level`.
        """
        if level is None:
            level = bundle_level if prediction.threshold is None else prediction.threshold
        cut_wh = self.rectangle(frame_wh)[2:]
        return self.in_frame(find_regions(prediction.anomaly_map, level=level, frame_wh=cut_wh), frame_wh)

    def in_frame(self, regions: list[Region], frame_wh: tuple[int, int]) -> list[Region]:
        """The regions of the cut picture, in pixels of the frame."""
        left, top, _, _ = self.rectangle(frame_wh)
        boxes = [(region.bbox_xywh, region.peak) for region in regions]
        return [
            Region(bbox_xywh=(x + left, y + top, width, height), peak=peak) for (x, y, width, height), peak in boxes
        ]

    def _judged_for(self, frame_wh: tuple[int, int], map_hw: tuple[int, ...]) -> np.ndarray:
        """bool [h, w]: map pixels of which the mask covers less than half. Computed once for each frame size."""
        made_for = (frame_wh, map_hw)
        if self._judged is None or self._judged[0] != made_for:
            assert self._mask is not None
            mask_wh = self._mask.shape[1], self._mask.shape[0]
            if abs(mask_wh[0] / mask_wh[1] / (frame_wh[0] / frame_wh[1]) - 1) > SHAPE_SLACK:
                raise ImageError(
                    f"ignore_mask {self._mask_path} has {mask_wh[0]}x{mask_wh[1]} pixels, the picture "
                    f"{frame_wh[0]}x{frame_wh[1]}. Draw the mask on a picture of this camera"
                )
            mask = cv2.resize(self._mask, frame_wh, interpolation=cv2.INTER_NEAREST)
            x, y, width, height = self.rectangle(frame_wh)
            ignored = (mask[y : y + height, x : x + width] >= WHITE).astype(np.float32)
            judged = cv2.resize(ignored, (map_hw[1], map_hw[0]), interpolation=cv2.INTER_AREA) < 0.5
            if not judged.any():
                raise ImageError(f"ignore_mask {self._mask_path} covers the whole region, so nothing is inspected")
            if judged.all():
                logger.warning("ignore_mask %s ignores nothing of the inspected part of the picture", self._mask_path)
            self._judged = (made_for, judged)
        return self._judged[1]
