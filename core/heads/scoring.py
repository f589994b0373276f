"""The one way from an anomaly map to an anomaly score. Traced into the exported graph, so the device has no other."""

import math
from typing import Annotated, Literal

import torch.nn.functional as F
from pydantic import Field
from torch import Tensor

from zsad_core.config import StrictModel

MapStride = Literal[1, 2, 4, 8, 16]


class ScoreConfig(StrictModel):
    """How an image's score comes from its map.

    `top_fraction` 0 is the published rule, the map's maximum. Otherwise the mean of that share of the highest values,
    of the map averaged over blocks of `pool` x `pool` pixels: one hot pixel then rejects no good part.
    The published logits are so large that good parts score 1e-6 and a threshold lies at 1e-5; a `temperature` gives
    scores that people can read and set. The losses are always computed at 1.
    """

    top_fraction: Annotated[float, Field(ge=0, le=1)] = 0.0
    pool: Annotated[int, Field(ge=1, le=64)] = 1
    temperature: Annotated[float, Field(gt=0)] = 1.0  # divides the map's logits before the softmax; 1 as published


def anomaly_score(anomaly_map: Tensor, config: ScoreConfig) -> Tensor:
    """[B, H, W] in [0, 1] -> [B] in [0, 1], higher is more anomalous."""
    return top_mean(anomaly_map, config.top_fraction, config.pool)


def top_mean(maps: Tensor, fraction: float, pool: int = 1) -> Tensor:
    """[B, H, W] -> [B], the mean of that share of the highest values of the pooled map, rounded up; of one at least."""
    if pool > 1:
        maps = F.avg_pool2d(maps.unsqueeze(1), pool).squeeze(1)
    values = maps.flatten(1)
    count = max(1, math.ceil(fraction * int(values.shape[1])))  # int: a tensor while traced
    return values.topk(count, dim=1).values.mean(dim=1)
