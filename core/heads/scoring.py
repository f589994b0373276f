"""Computes the anomaly score from an anomaly map. The exported graph contains this code, so the device uses it too."""

import math
from typing import Annotated, Literal

import torch.nn.functional as F
from pydantic import Field
from torch import Tensor

from zsad_core.config import StrictModel

MapStride = Literal[1, 2, 4, 8, 16]
LEAST = 1e-9  # of a value under a power: the gradient is finite


class ScoreConfig(StrictModel):
    """How an image's score is computed from its map.

    With `top_fraction` 0 the score is the map's maximum, as published. Otherwise the map is averaged over blocks of
    `pool` x `pool` pixels, and the score is the mean of this share of the highest values. A single high pixel then does
    not reject a good part. With a `power` below 1 it is their power mean: a few values near 1 count less, and the size
    of a defect more. The published logits are so large that good parts score 1e-6 and a threshold is 1e-5; a
    `temperature` above 1 gives scores that people can read and set. The losses always use temperature 1.
    """

    top_fraction: Annotated[float, Field(ge=0, le=1)] = 0.0
    pool: Annotated[int, Field(ge=1, le=64)] = 1
    power: Annotated[float, Field(gt=0, le=1)] = 1.0  # of the power mean; 1: the usual mean
    temperature: Annotated[float, Field(gt=0)] = 1.0  # divides the map's logits before the softmax; 1 as published


def anomaly_score(anomaly_map: Tensor, config: ScoreConfig) -> Tensor:
    """[B, H, W] in [0, 1] -> [B] in [0, 1], higher is more anomalous."""
    return top_mean(anomaly_map, config.top_fraction, config.pool, config.power)


def top_mean(maps: Tensor, fraction: float, pool: int = 1, power: float = 1.0) -> Tensor:
    """[B, H, W] -> [B]: mean of this share of the highest values of the pooled map, rounded up, at least one value.

    With another `power` than 1 it is (mean of v ** power) ** (1 / power), for values v >= 0.
    """
    if pool > 1:
        maps = F.avg_pool2d(maps.unsqueeze(1), pool).squeeze(1)
    values = maps.flatten(1)
    count = max(1, math.ceil(fraction * int(values.shape[1])))  # int: in tracing it is a tensor
    highest = values.topk(count, dim=1).values
    if power == 1.0:
        return highest.mean(dim=1)
    return highest.clamp(min=LEAST).pow(power).mean(dim=1).pow(1 / power)
