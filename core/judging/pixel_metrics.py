"""Pixel metrics of any number of images in constant memory: histograms with bins that follow float32's spacing.

Equal bins over [0, 1] would put all good pixels of a softmax map (1e-6) into one bin; float16 does the same near 0.
Here a bin is the leading bits of the float32 value, 2048 bins per octave. Two values that differ by 1/2048 of their
size get different bins at any scale. Between 0.5 and 1 the bits of 1 - value are used, so a map that is saturated near
1 keeps its order.
"""

from dataclasses import dataclass

import cv2
import numpy as np

from zsad_core.judging.metrics import Curve, curve_of_counts

AUPRO_MAX_FPR = 0.3

_DROPPED_BITS = 12  # of 23 mantissa bits
_PER_OCTAVE = 1 << (23 - _DROPPED_BITS)
_HALF = 126 * _PER_OCTAVE  # the bin of 0.5, whose biased exponent is 126
_OCTAVES_TO_ONE = 23  # of 1 - value, from 0.5 down to 2**-24, the float32 next to 1
_ONE = _HALF + _OCTAVES_TO_ONE * _PER_OCTAVE + 1  # the bin of 1.0: one above that of 1 - 2**-24


@dataclass(frozen=True, kw_only=True)
class PixelScores:
    auroc: float
    ap: float
    f1_max: float
    aupro: float


class PixelMetrics:
    """Pixel AUROC, average precision, best F1 and AUPRO of a stream of images.

    Memory: 24 bytes per bin between the lowest and the highest value so far; 7 MB for maps in [0, 1], 26 MB at most.

    AUPRO (Bergmann et al., "Uninformed Students", CVPR 2020, section 4) is the area under a curve, divided by 0.3. The
    curve is the mean share of each region that is found, over the false-positive rate from 0 to 0.3. A region is an
    8-connected part of a mask. The rate is over all good pixels, including those of defective images. The curve is
    linear between two points, also at the limit.
    """

    def __init__(self) -> None:
        self._first = 0  # number of the lowest stored bin
        self._negatives = np.zeros(0, np.int64)
        self._positives = np.zeros(0, np.int64)
        self._overlap = np.zeros(0, np.float64)  # sum over positives of 1 / (area of its region)
        self._regions = 0

    def update(self, anomaly_map: np.ndarray, gt_mask: np.ndarray) -> None:
        """Adds one image.

        Args:
            anomaly_map: float32 [H, W], finite; higher is more anomalous.
            gt_mask: uint8 [H, W]; every value except 0 is a defect.

        Raises:
            ValueError: the shapes differ, or a value is NaN or infinite.
        """
        if anomaly_map.shape != gt_mask.shape or anomaly_map.ndim != 2:
            raise ValueError(f"expected map and mask of one shape [H, W], got {anomaly_map.shape} and {gt_mask.shape}")
        values = np.ascontiguousarray(anomaly_map, np.float32).ravel()
        if values.size == 0:
            return
        if not np.isfinite(values).all():
            bad = int((~np.isfinite(values)).sum())
            raise ValueError(f"{bad} of {values.size} values of the anomaly map are NaN or infinite")
        bins = _bins(values)
        low, high = int(bins.min()), int(bins.max()) + 1
        self._reach(low, high)
        bins -= low
        held = slice(low - self._first, high - self._first)
        self._negatives[held] += np.bincount(bins, minlength=high - low)
        defect = (gt_mask != 0).astype(np.uint8)
        x, y, width, height = cv2.boundingRect(defect)
        if width == 0:
            return
        box = np.s_[y : y + height, x : x + width]  # labelling the whole image would take most of the time
        count, labels = cv2.connectedComponents(defect[box], connectivity=8)
        inside = labels > 0
        region, bins = labels[inside], bins.reshape(gt_mask.shape)[box][inside]
        positives = np.bincount(bins, minlength=high - low)
        self._negatives[held] -= positives
        self._positives[held] += positives
        self._overlap[held] += np.bincount(bins, weights=1 / np.bincount(region)[region], minlength=high - low)
        self._regions += count - 1  # 0 is the background

    def merge(self, other: "PixelMetrics") -> None:
        """Adds the images of `other`."""
        first, size = other._first, other._negatives.size
        self._reach(first, first + size)
        held = slice(first - self._first, first - self._first + size)
        self._negatives[held] += other._negatives
        self._positives[held] += other._positives
        self._overlap[held] += other._overlap
        self._regions += other._regions

    def curve(self) -> Curve | None:
        """The curve with each bin as the threshold; None without a defective pixel or without a good pixel."""
        return curve_of_counts(self._positives, self._negatives)

    def result(self) -> PixelScores | None:
        """The metrics of all images so far; None without a defective pixel or without a good pixel."""
        curve = self.curve()
        if curve is None:
            return None
        metrics = curve.metrics()
        held = (self._positives + self._negatives) > 0
        overlap = np.cumsum(self._overlap[held][::-1]) / self._regions  # at the curve's points
        return PixelScores(
            auroc=metrics.auroc,
            ap=metrics.ap,
            f1_max=metrics.f1_max,
            aupro=_area_to_limit(curve.false_positive_rate, overlap),
        )

    def _reach(self, low: int, high: int) -> None:
        """Extends the arrays to bins `low` to `high`, exclusive."""
        if low == high:
            return
        if self._negatives.size == 0:
            self._first = low
        before = max(0, self._first - low)
        after = max(0, high - self._first - self._negatives.size)
        if before or after:
            self._first -= before
            self._negatives = np.pad(self._negatives, (before, after))
            self._positives = np.pad(self._positives, (before, after))
            self._overlap = np.pad(self._overlap, (before, after))


def _bins(values: np.ndarray) -> np.ndarray:
    """Bin numbers int32 [N] of float32 [N], in the same order as the values; 0 for 0, negative for negative values."""
    bits = values.view(np.int32)
    bins = (bits & 0x7FFFFFFF) >> _DROPPED_BITS  # exponent and leading mantissa: rises with the magnitude
    np.negative(bins, out=bins, where=bits < 0)
    high = np.flatnonzero(values >= 0.5)
    if high.size:
        upper = values[high]
        to_one = np.abs(1 - upper).view(np.int32) >> _DROPPED_BITS  # 1 - value is exact between 0.5 and 1
        bins[high] = np.where(upper < 1, 2 * _HALF - to_one, bins[high] + (_ONE - _HALF - _PER_OCTAVE))
    return bins


def _area_to_limit(false_positive_rate: np.ndarray, overlap: np.ndarray) -> float:
    """Mean height of the curve `overlap` [K] over the rate [K], from (0, 0) to the limit of the rate."""
    x, y = np.append(0.0, false_positive_rate), np.append(0.0, overlap)
    within = x <= AUPRO_MAX_FPR
    y_at_limit = np.interp(AUPRO_MAX_FPR, x, y)
    return float(np.trapezoid(np.append(y[within], y_at_limit), np.append(x[within], AUPRO_MAX_FPR)) / AUPRO_MAX_FPR)
