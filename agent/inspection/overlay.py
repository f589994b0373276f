"""The heatmap: the anomaly map drawn over the picture, as a JPEG below the size limit."""

import functools
import logging

import cv2
import numpy as np

from zsad_agent.config import HeatmapConfig
from zsad_agent.inspection.view import Rectangle
from zsad_core.picture import blend, with_comment

logger = logging.getLogger(__name__)

QUALITY_FLOOR = 30  # of JPEG; at a lower quality, blocks look like defects. The picture is then made smaller
SHRINK = 0.7  # step of both quality and size
MIN_WIDTH = 64  # pixels; a smaller overlay shows nothing
EDGE_BGR = (255, 255, 255)  # of the part that is inspected
OVERLAY = "overlay"  # the JPEG's comment, so that `calibrate` does not take it for a picture of a part
MAX_WIDTH = 8192  # pixels; of a snapshot
MAX_HEIGHT = 8192  # pixels; of a line-scan picture. The limit of JPEG is 65 535


def render_heatmap(
    image_bgr: np.ndarray, anomaly_map: np.ndarray, config: HeatmapConfig, rectangle: Rectangle | None = None
) -> bytes | None:
    """JPEG bytes of the overlay; None if even a small one is larger than `config.max_bytes`.

    A map value has the same colour in every picture. Scaling to the minimum and maximum of each picture would colour
    the noise of a good part red. NaN has the colour of 1.

    Args:
        image_bgr: uint8 [H, W, 3].
        anomaly_map: float32 [h, w] in [0, 1], covers `rectangle`.
        config: greatest width in pixels, greatest size in bytes, JPEG quality.
        rectangle: x, y, width, height of the part that the map covers, pixels of the picture; None: the whole picture.
    """
    overlay = _overlay(image_bgr, anomaly_map, config.max_width, rectangle or (0, 0, *image_bgr.shape[1::-1]))
    jpeg = _shrink_to_jpeg(overlay, config, comment=OVERLAY)
    if jpeg is None:
        _log_too_large(config.max_bytes)
    return jpeg


def render_snapshot(image_bgr: np.ndarray, config: HeatmapConfig) -> bytes | None:
    """JPEG bytes of uint8 BGR [H, W, 3], as large as `config.max_bytes` allows; None if even a small one is larger."""
    return _shrink_to_jpeg(_fit(image_bgr, MAX_WIDTH), config)


def _shrink_to_jpeg(image_bgr: np.ndarray, config: HeatmapConfig, *, comment: str | None = None) -> bytes | None:
    """JPEG bytes. Lowers the quality first, then the size. None if the result is still above `config.max_bytes`."""
    quality = config.jpeg_quality
    while True:
        _, encoded = cv2.imencode(".jpg", image_bgr, [cv2.IMWRITE_JPEG_QUALITY, quality])
        jpeg = bytes(encoded) if comment is None else with_comment(bytes(encoded), comment)
        if len(jpeg) <= config.max_bytes:
            return jpeg
        if quality > QUALITY_FLOOR:
            quality = max(QUALITY_FLOOR, int(quality * SHRINK))
        elif image_bgr.shape[1] * SHRINK >= MIN_WIDTH:
            image_bgr = _fit(image_bgr, int(image_bgr.shape[1] * SHRINK))
        else:
            return None


def _overlay(image_bgr: np.ndarray, anomaly_map: np.ndarray, max_width: int, rectangle: Rectangle) -> np.ndarray:
    fitted = _fit(image_bgr, max_width)
    if rectangle[2:] == image_bgr.shape[1::-1]:
        return blend(fitted, anomaly_map)
    scale_x, scale_y = fitted.shape[1] / image_bgr.shape[1], fitted.shape[0] / image_bgr.shape[0]
    left, top = int(rectangle[0] * scale_x), int(rectangle[1] * scale_y)
    right = max(left + 1, round((rectangle[0] + rectangle[2]) * scale_x))
    bottom = max(top + 1, round((rectangle[1] + rectangle[3]) * scale_y))
    overlay = fitted.copy()
    overlay[top:bottom, left:right] = blend(np.ascontiguousarray(fitted[top:bottom, left:right]), anomaly_map)
    return cv2.rectangle(overlay, (left, top), (right - 1, bottom - 1), EDGE_BGR)


def _fit(image_bgr: np.ndarray, max_width: int) -> np.ndarray:
    """The picture no wider than `max_width`, no higher than `MAX_HEIGHT`, never enlarged.

    Bilinear, because it is fast and this picture is not scored: to 640 px it takes 1 ms from 1920x1080 and 2 ms from
    4000x3000 on one core, area averaging 7 and 67 ms.
    """
    height, width = image_bgr.shape[:2]
    scale = min(max_width / width, MAX_HEIGHT / height)
    if scale >= 1:
        return image_bgr
    fitted_wh = (max(1, round(width * scale)), max(1, round(height * scale)))
    return cv2.resize(image_bgr, fitted_wh, interpolation=cv2.INTER_LINEAR)


@functools.lru_cache(maxsize=8)
def _log_too_large(max_bytes: int) -> None:
    """Logs this once for each limit, because the cache answers later calls."""
    logger.warning("no heatmap: even a small one is larger than heatmap.max_bytes = %d. Raise this limit", max_bytes)
