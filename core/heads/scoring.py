"""Computes the anomaly score from an anomaly map. The exported graph contains this code, so the device uses it too."""

import math
from typing import Annotated, Literal

import torch.nn.functional as F
from pydantic import Field
from torch import Tensor

from zsad_core.config import StrictModel

MapStride = Literal[1, 2, 4, 8, 16]


class ScoreConfig(StrictModel):
    """How an image's score is computed from its map.

    With `top_fraction` 0 the score is the map's maximum, as published. Otherwise the map is averaged over blocks of
    `pool` x `pool` pixels, and the score is the mean of this share of the highest values. A single high pixel then does
    not reject a good part. The published logits are so large that good parts score 1e-6 and a threshold is 1e-5; a
    `temperature` above 1 gives scores that people can read and set. The losses always use temperature 1.
    """

    top_fraction: Annotated[float, Field(ge=0, le=1)] = 0.0
    pool: Annotated[int, Field(ge=1, le=64)] = 1
    temperature: Annotated[float, Field(gt=0)] = 1.0  # divides the map's logits before the softmax; 1 as published


def anomaly_score(anomaly_map: Tensor, config: ScoreConfig) -> Tensor:
    """[B, H, W] in [0, 1] -> [B] in [0, 1], higher is more anomalous."""
    return top_mean(anomaly_map, config.top_fraction, config.pool)


def top_mean(maps: Tensor, fraction: float, pool: int = 1) -> Tensor:
    """[B, H, W] -> [B]: mean of this share of the highest values of the pooled map, rounded up, at least one value."""
    if pool > 1:
        maps = F.avg_pool2d(maps.unsqueeze(1), pool).squeeze(1)
    values = maps.flatten(1)
    count = max(1, math.ceil(fraction * int(values.shape[1])))  # int: in tracing it is a tensor
    return values.topk(count, dim=1).values.mean(dim=1)
