"""The anomaly score of a part of the map, for a camera with ignored areas. Runs without torch."""

import math

import numpy as np

from zsad_core.facts import ScoreRule

LEAST = 1e-9  # of a value under a power, as in the graph
JUDGED_SHARE = 0.5  # a block counts if at least this share of its pixels is judged


def masked_score(anomaly_map: np.ndarray, judged: np.ndarray, rule: ScoreRule) -> float:
    """As `zsad_core.heads.top_mean`, but only on the judged pixels; equal to it if all pixels are judged.

    Args:
        anomaly_map: float32 [h, w] in [0, 1].
        judged: bool [h, w], False where the map is ignored.
        rule: how the score is computed.

    Returns:
        [0, 1]; 0 if no pixel is judged.
    """
    if not judged.any():
        return 0.0
    height, width = (side // rule.pool for side in anomaly_map.shape)
    blocks = (height, rule.pool, width, rule.pool)
    area = (slice(height * rule.pool), slice(width * rule.pool))
    weights = judged[area].reshape(blocks).mean(axis=(1, 3))  # [h / pool, w / pool]
    sums = np.where(judged, anomaly_map, 0.0)[area].reshape(blocks).mean(axis=(1, 3))
    counted = weights >= JUDGED_SHARE
    if not counted.any():  # the judged area is too narrow for a block
        return float(anomaly_map[judged].max())
    values = sums[counted] / weights[counted]
    count = max(1, math.ceil(rule.top_fraction * values.size))
    highest = np.partition(values, -count)[-count:]
    if rule.power == 1:
        return float(highest.mean())
    return float((np.maximum(highest, LEAST) ** rule.power).mean() ** (1 / rule.power))
