"""The colours of an anomaly map over its picture: one scale for the device's overlays and for evaluation's sheets."""

import functools

import cv2
import numpy as np

MAX_WEIGHT = 0.8  # share of the colour where the map is 1; the part stays visible under it
WEIGHT_POWER = 1.5  # above 1: low map values, which good parts have everywhere, hardly tint the picture


def blend(image_bgr: np.ndarray, anomaly_map: np.ndarray) -> np.ndarray:
    """uint8 [H, W, 3]: the picture under the map's colours, at the picture's size.

    In uint8 throughout: 1.3 ms at 640x480 on one core, where float arithmetic takes several times that.
    """
    height, width = image_bgr.shape[:2]
    levels = np.rint(np.nan_to_num(anomaly_map, nan=1.0).clip(0, 1) * 255).astype(np.uint8)  # [h, w]
    levels = cv2.resize(levels, (width, height), interpolation=cv2.INTER_LINEAR)  # [H, W]
    weighted_colours, remainders = _lookup_tables()
    remainder = cv2.LUT(levels, remainders)  # [H, W], 255 * (1 - weight)
    dimmed = cv2.multiply(image_bgr, cv2.merge([remainder, remainder, remainder]), scale=1 / 255)
    return cv2.add(dimmed, cv2.applyColorMap(levels, weighted_colours))


@functools.cache
def _lookup_tables() -> tuple[np.ndarray, np.ndarray]:
    """(colour * weight, uint8 [256, 1, 3]; 255 * (1 - weight), uint8 [256]) of each map level."""
    colours = cv2.applyColorMap(np.arange(256, dtype=np.uint8)[:, None], cv2.COLORMAP_TURBO)  # [256, 1, 3]
    weights = MAX_WEIGHT * (np.arange(256) / 255) ** WEIGHT_POWER
    weighted = np.rint(colours * weights[:, None, None]).astype(np.uint8)
    return weighted, np.rint(255 * (1 - weights)).astype(np.uint8)
