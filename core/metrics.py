"""The field's metrics, exact, on numpy arrays.

Positives are few beside negatives, so curves are evaluated at the positives' values alone: precision, recall and F1
change in the favourable direction only there. Ties are handled as scikit-learn does.
"""

from dataclasses import dataclass

import cv2
import numpy as np

AUPRO_MAX_FPR = 0.3
AUPRO_POINTS = 301


@dataclass(frozen=True, kw_only=True)
class BinaryMetrics:
    auroc: float
    ap: float
    f1_max: float


def binary_metrics(positives: np.ndarray, negatives: np.ndarray) -> BinaryMetrics | None:
    """AUROC, average precision and best F1 of scores [P] against scores [M]; None where either is empty."""
    if positives.size == 0 or negatives.size == 0:
        return None
    positives, negatives = np.sort(positives, axis=None), np.sort(negatives, axis=None)
    below = np.searchsorted(negatives, positives, side="left")
    not_above = np.searchsorted(negatives, positives, side="right")
    auroc = float((below + not_above).sum(dtype=np.float64) / 2 / positives.size / negatives.size)
    thresholds, first = np.unique(positives, return_index=True)
    true_positives = positives.size - first  # at score >= threshold
    false_positives = negatives.size - np.searchsorted(negatives, thresholds, side="left")
    precision = true_positives / (true_positives + false_positives)
    recall = true_positives / positives.size
    steps = recall - np.append(recall[1:], 0.0)
    f1 = 2 * true_positives / (true_positives + false_positives + positives.size)
    return BinaryMetrics(auroc=auroc, ap=float((precision * steps).sum()), f1_max=float(f1.max()))


def aupro(anomaly_maps: list[np.ndarray], gt_masks: list[np.ndarray], negatives: np.ndarray) -> float | None:
    """Area under the per-region-overlap curve up to 30 % false-positive rate, over 0.3; None without regions.

    Args:
        anomaly_maps: float32 [H, W] of the anomalous pictures.
        gt_masks: uint8 [H, W], their defects; a region is a connected (8) part.
        negatives: map values of all good pixels of the set.
    """
    regions = []
    for anomaly_map, gt_mask in zip(anomaly_maps, gt_masks, strict=True):
        count, labels = cv2.connectedComponents(gt_mask.astype(np.uint8), connectivity=8)
        regions += [np.sort(anomaly_map[labels == label]) for label in range(1, count)]
    if not regions or negatives.size == 0:
        return None
    ordered = np.sort(negatives, axis=None)
    wanted_fpr = np.linspace(0, AUPRO_MAX_FPR, AUPRO_POINTS)
    places = np.clip(np.ceil(ordered.size * (1 - wanted_fpr)).astype(np.int64), 0, ordered.size - 1)
    thresholds = ordered[places]  # a pixel is found when its value is above
    fpr = 1 - np.searchsorted(ordered, thresholds, side="right") / ordered.size
    overlap = np.mean(
        [1 - np.searchsorted(region, thresholds, side="right") / region.size for region in regions], axis=0
    )
    at_limit = np.interp(AUPRO_MAX_FPR, fpr, overlap)
    keep = fpr <= AUPRO_MAX_FPR
    x, y = np.append(fpr[keep], AUPRO_MAX_FPR), np.append(overlap[keep], at_limit)
    order = np.argsort(x, kind="stable")
    x, y = np.insert(x[order], 0, 0.0), np.insert(y[order], 0, y[order][0])
    return float(np.trapezoid(y, x) / AUPRO_MAX_FPR)
