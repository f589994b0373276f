"""Maps of distances on one scale, their fusion, and the score of a taught product.

A map in z has the mean 0 and the deviation 1 on good parts. `to_unit` brings it to (0, 1) with the product's threshold
at 0.5, so that maps and scores of every product read alike.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from zsad_core.errors import ImageError

TOP_FRACTION = 0.01  # of the map's highest values, whose mean is the score
MOST_BACKGROUND = 3.0  # in z: of a map's median; a picture that differs more than that everywhere is not excused
FLOOR = -3.0  # lowest z of a pixel on the part; the pixels beside the part have exactly this value
LEAST_DEVIATION = 1e-4  # of a cosine distance or logit; goods that are equal in every bit have 0
_INSIDE = 1e-3  # by which a pixel on the part is above FLOOR


@dataclass(frozen=True, kw_only=True, slots=True)
class Spread:
    """Mean, deviation and median of the values of good parts."""

    mean: float
    deviation: float  # above 0
    median: float | None = None  # None: not known

    @classmethod
    def of(cls, values: np.ndarray) -> "Spread":
        """The spread of all values.

        Raises:
            ValueError: there is no value, or one is NaN or infinite.
        """
        if not values.size or not np.isfinite(values).all():
            raise ValueError(f"expected finite values, got {values.size} of which some may be NaN or infinite")
        deviation = float(values.std(dtype=np.float64))
        mean, median = float(values.mean(dtype=np.float64)), float(np.median(values))
        return cls(mean=mean, deviation=max(deviation, LEAST_DEVIATION), median=median)

    def z(self, values: np.ndarray) -> np.ndarray:
        """float32: how many deviations each value is above the mean."""
        return ((values - self.mean) / self.deviation).astype(np.float32)


def fuse(groups: Sequence[Sequence[np.ndarray]], zero_shot: np.ndarray, weight: float, background: float) -> np.ndarray:
    """The maximum over groups of scales of the mean of their maps, and the zero-shot map times `weight`.

    Means of networks at one size agree on a defect; the maximum keeps one that is seen at one size only. A share of the
    median is subtracted: some good parts differ a little everywhere, a defect differs at one place.

    Args:
        groups: of maps, each float32 [..., h, w] in z; at least one group, none empty.
        zero_shot: the same shape, in z.
        weight: of the zero-shot map, at least 0.
        background: share of the median of a map, in [0, 1].

    Returns:
        float32 [..., h, w] in z, above FLOOR everywhere.
    """
    means = [np.mean(group, axis=0, dtype=np.float32) for group in groups]
    fused = np.maximum.reduce(means) + np.float32(weight) * zero_shot
    if background:
        median = np.median(fused, axis=(-2, -1), keepdims=True)
        fused -= np.float32(background) * np.minimum(median, np.float32(MOST_BACKGROUND))
    return np.maximum(fused, np.float32(FLOOR + _INSIDE))


def to_unit(z: np.ndarray | float, scale: float) -> np.ndarray:
    """float32 in [0, 1): softplus(z) as a share of itself and softplus(scale). 0.5 at `scale`; 0 at FLOOR and below.

    Args:
        z: float, of any shape.
        scale: the threshold in z.
    """
    with np.errstate(invalid="ignore"):  # of NaN, which stays NaN
        soft = np.logaddexp(0.0, np.asarray(z, np.float64))
    return np.where(np.asarray(z) <= FLOOR, 0.0, soft / (soft + np.logaddexp(0.0, scale))).astype(np.float32)


def from_unit(values: np.ndarray, scale: float) -> np.ndarray:
    """float64: the inverse of `to_unit`. FLOOR for 0; values of 1 and above are taken as the largest below 1."""
    shares = np.clip(np.asarray(values, np.float64), 0.0, 1 - 2.0**-24)
    soft = np.maximum(shares / (1 - shares) * np.logaddexp(0.0, scale), np.logaddexp(0.0, FLOOR))
    return np.where(shares == 0, FLOOR, soft + np.log(-np.expm1(-soft)))  # NaN stays NaN


def top_mean(z: np.ndarray, ignored: np.ndarray | None = None) -> float:
    """The score in z of a map in z: the mean of the highest hundredth of the pixels on the part.

    FLOOR if no pixel counts.

    Args:
        z: float [h, w], FLOOR beside the part.
        ignored: bool [h, w], True where the map does not count; None: nowhere.

    Raises:
        ValueError: a value is NaN.
    """
    counted = z > FLOOR if ignored is None else (z > FLOOR) & ~ignored
    if np.isnan(z).any():
        raise ValueError(f"{int(np.isnan(z).sum())} of {z.size} map values are NaN: the memory or the model is broken")
    values = z[counted]
    if not values.size:
        return FLOOR
    count = math.ceil(TOP_FRACTION * values.size)
    return float(np.partition(values, -count)[-count:].mean(dtype=np.float64))


def taught_score(anomaly_map: np.ndarray, scale: float, ignored: np.ndarray | None = None) -> float:
    """The score of a map of a taught product, in [0, 1): 0.5 at the threshold.

    Args:
        anomaly_map: float32 [h, w] of `to_unit`.
        scale: the threshold in z.
        ignored: bool [h, w], True where the map does not count; None: nowhere.

    Raises:
        ImageError: no pixel on the part counts.
        ValueError: a value is NaN.
    """
    score = top_mean(from_unit(anomaly_map, scale), ignored)
    if score <= FLOOR:
        raise ImageError("the part lies where ignore_mask ignores the picture, so nothing of it was inspected")
    return float(to_unit(score, scale))
