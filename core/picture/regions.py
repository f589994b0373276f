"""Finds anomalous regions: connected areas of the anomaly map, in frame pixels."""

import cv2
import numpy as np

from zsad_core.types import Region

MIN_AREA_PX = 4  # smaller areas, in map pixels, are left out
MAX_REGIONS = 32  # limits the size of a message with a noisy map


def find_regions(anomaly_map: np.ndarray, *, level: float, frame_wh: tuple[int, int]) -> list[Region]:
    """Areas (8-connected) whose map values reach `level`, highest peak first; at most `MAX_REGIONS`.

    Args:
        anomaly_map: float32 [h, w] in [0, 1].
        level: map value in [0, 1] from which a pixel belongs to a region.
        frame_wh: size of the frame, pixels; boxes are in frame pixels.
    """
    height, width = anomaly_map.shape
    scale_x, scale_y = frame_wh[0] / width, frame_wh[1] / height
    count, labels, stats, _ = cv2.connectedComponentsWithStats((anomaly_map >= level).astype(np.uint8), connectivity=8)
    regions = []
    for label in range(1, count):  # 0 is the background
        x, y, w, h, area = (int(value) for value in stats[label])
        if area < MIN_AREA_PX:
            continue
        inside = labels[y : y + h, x : x + w] == label
        left, top = int(x * scale_x), int(y * scale_y)
        box_w = max(1, min(frame_wh[0] - left, round(w * scale_x)))
        box_h = max(1, min(frame_wh[1] - top, round(h * scale_y)))
        peak = float(anomaly_map[y : y + h, x : x + w][inside].max())
        regions.append(Region(bbox_xywh=(left, top, box_w, box_h), peak=peak))
    return sorted(regions, key=lambda region: -region.peak)[:MAX_REGIONS]
