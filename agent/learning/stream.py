"""Teach-in from an unlabelled stream: pictures of a line, some of which may be of defective parts.

The parts that look most suspicious are left out. Most of them are good parts in a clean stream, so all that are not
evidently different set the threshold together with the learned ones.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

TRIMMED = 0.2  # share of the pictures that are left out of the memory
MOST_OTHERS = 0.2  # share of the pictures that may show another product or no part
TOP_FRACTION = 0.02  # of a picture's tokens, the most different ones
GROUP_SILHOUETTE = 0.4  # above it the pictures are two groups
LOGIT_LIMIT = 1e-4


@dataclass(frozen=True, kw_only=True)
class Sorted:
    """What to do with each picture of a stream, by its place."""

    learned: tuple[int, ...]
    doubtful: tuple[int, ...]  # left out of the memory
    others: tuple[int, ...]  # another product, or no part


def token_distances(tokens: Sequence[np.ndarray]) -> np.ndarray:
    """float16 [K, K, N]: of each token of a picture (first) to the nearest token of another picture (second).

    Args:
        tokens: K arrays [N, C], unit length.
    """
    count = len(tokens[0])
    flat = np.concatenate(tokens).astype(np.float32)
    distances = np.empty((len(tokens), len(tokens), count), np.float16)
    for place in range(len(tokens)):
        products = flat[place * count : (place + 1) * count] @ flat.T
        distances[place] = (1 - products.reshape(count, len(tokens), count).max(axis=2)).T
    return distances


def suspicion(distances: np.ndarray, zero_shot: np.ndarray) -> np.ndarray:
    """float64 [K]: how likely each picture shows a defect; only the order counts.

    Args:
        distances: of `token_distances`.
        zero_shot: float [K], anomaly scores in [0, 1].
    """
    others = distances.astype(np.float32)
    others[np.arange(len(others)), np.arange(len(others))] = np.inf
    nearest = np.sort(others.min(axis=1), axis=1)
    top = max(1, round(TOP_FRACTION * nearest.shape[1]))
    clipped = np.clip(zero_shot, LOGIT_LIMIT, 1 - LOGIT_LIMIT)
    return _standard(nearest[:, -top:].mean(axis=1)) + _standard(np.log(clipped / (1 - clipped)))


def _standard(values: np.ndarray) -> np.ndarray:
    return (values - values.mean()) / max(float(values.std()), 1e-9)
