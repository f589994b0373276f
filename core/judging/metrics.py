"""AUROC, average precision and F1 of scores, from the number of positives and negatives at each distinct value.

The same code computes the metrics of images (exact) and of pixels (`pixel_metrics`, where values are bins). Ties are
handled as in scikit-learn: trapezoids for the AUROC, steps for the average precision.
"""

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True, kw_only=True)
class BinaryMetrics:
    auroc: float
    ap: float
    f1_max: float


@dataclass(frozen=True, kw_only=True)
class Curve:
    """Detections at each distinct value as the threshold, from the highest to the lowest: K points."""

    true_positives: np.ndarray  # int64 [K], rising; the last one is the number of positives, above 0
    false_positives: np.ndarray  # int64 [K], rising; the last one is the number of negatives, above 0

    @property
    def recall(self) -> np.ndarray:
        """float64 [K] in [0, 1]: the true-positive rate."""
        return self.true_positives / self.true_positives[-1]

    @property
    def false_positive_rate(self) -> np.ndarray:
        """float64 [K] in [0, 1]."""
        return self.false_positives / self.false_positives[-1]

    @property
    def precision(self) -> np.ndarray:
        """float64 [K] in [0, 1]."""
        return self.true_positives / (self.true_positives + self.false_positives)

    def metrics(self) -> BinaryMetrics:
        """AUROC, average precision and best F1."""
        recall = self.recall
        f1 = 2 * self.true_positives / (self.true_positives + self.false_positives + self.true_positives[-1])
        return BinaryMetrics(
            auroc=float(np.trapezoid(np.append(0.0, recall), np.append(0.0, self.false_positive_rate))),
            ap=float((self.precision * np.diff(recall, prepend=0.0)).sum()),
            f1_max=float(f1.max()),
        )


def curve_of_counts(positives: np.ndarray, negatives: np.ndarray) -> Curve | None:
    """The curve from the number of positives [V] and negatives [V] at each value, values in rising order.

    Values with neither are left out. None if there is no positive or no negative.
    """
    held = (positives + negatives) > 0
    true_positives, false_positives = np.cumsum(positives[held][::-1]), np.cumsum(negatives[held][::-1])
    if not true_positives.size or not true_positives[-1] or not false_positives[-1]:
        return None
    return Curve(true_positives=true_positives, false_positives=false_positives)


def curve_of_scores(positives: np.ndarray, negatives: np.ndarray) -> Curve | None:
    """The exact curve of the scores of positives [P] and of negatives [M]; None if either is empty.

    Raises:
        ValueError: a score is NaN.
    """
    scores = np.concatenate([positives, negatives])
    if np.isnan(scores).any():
        raise ValueError(f"{int(np.isnan(scores).sum())} of {scores.size} scores are NaN: the model is broken")
    values, places = np.unique(scores, return_inverse=True)
    return curve_of_counts(
        np.bincount(places[: positives.size], minlength=values.size),
        np.bincount(places[positives.size :], minlength=values.size),
    )
