"""A threshold from the scores of good parts, and what it promises: conformal prediction and binomial bounds."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

ABOVE = 1e-3  # of the threshold over the good part that sets it, in z: a score at the threshold is anomalous
_TAIL = 0.1  # a bound holds with 90 % confidence
_SLACK = 1e-9  # of products such as 100 * 0.99, which floats round up


@dataclass(frozen=True, kw_only=True, slots=True)
class Promise:
    """A threshold and the share of good parts that will reach it."""

    threshold: float
    rate: float  # in the mean over all draws of this many good parts, in (0, 1)
    rate_90: float  # with 90 % confidence this line's rate is at most this, in (0, 1]
    needed: int  # least number of scores for the requested rate, beside the parts that are apart


def promise(scores: Sequence[float], rate: float, *, apart: int = 0) -> Promise:
    """The lowest threshold that other good parts reach with at most the requested rate, in the mean.

    Another good part has every rank among n + 1 with equal probability, so it is above the k-th smallest score with
    probability 1 - k / (n + 1). With too few scores the threshold is above the largest one, and the rate is what that
    gives.

    Args:
        scores: of good parts that the memory does not hold, in z.
        rate: requested, in (0, 1).
        apart: number of further good parts that were left out because they look different, at least 0. They belong to
            the n parts and are above every threshold. They set none: it would hide defects.

    Raises:
        ValueError: there is no score, one is NaN or infinite, or the rate is not in (0, 1).
    """
    if not 0 < rate < 1:
        raise ValueError(f"expected a rate between 0 and 1, got {rate}")
    ordered = np.sort(np.asarray(scores, np.float64))
    if not ordered.size or not np.isfinite(ordered).all():
        raise ValueError(f"expected finite scores, got {int((~np.isfinite(ordered)).sum())} others of {ordered.size}")
    count = ordered.size + apart
    rank = min(ordered.size, max(1, math.ceil((count + 1) * (1 - rate) - _SLACK)))
    return Promise(
        threshold=float(ordered[rank - 1]) + ABOVE,
        rate=1 - rank / (count + 1),
        rate_90=_highest_rate(count - rank, count),
        needed=math.ceil((apart + 1) / rate - _SLACK) - 1 - apart,
    )


@dataclass(frozen=True, kw_only=True, slots=True)
class Kept:
    """What a given threshold promises."""

    rate: float  # of good parts that reach it, in the mean over all draws of this many, in (0, 1]
    rate_90: float  # with 90 % confidence this line's rate is at most this, in (0, 1]
    goods: int  # with those that are apart
    rejected: int  # of these goods


def promise_at(scores: Sequence[float], threshold: float, *, apart: int = 0) -> Kept:
    """What `threshold` promises, as `promise` would say of its own.

    Args:
        scores: of good parts that the memory does not hold.
        threshold: on the same scale.
        apart: as of `promise`.

    Raises:
        ValueError: there is no score, or one is NaN.
    """
    found = np.asarray(scores, np.float64)
    if not found.size or np.isnan(found).any():
        raise ValueError("expected scores of good parts")
    count, rejected = found.size + apart, int((found >= threshold).sum()) + apart
    return Kept(
        rate=(rejected + 1) / (count + 1),
        rate_90=_highest_rate(rejected, count),
        goods=count,
        rejected=rejected,
    )


def recall_interval(found: int, total: int) -> tuple[float, float]:
    """The 90 % interval of a share of which `found` of `total` were seen (Clopper and Pearson), in [0, 1]."""
    tail = _TAIL / 2
    return 1 - _highest_rate(total - found, total, tail), _highest_rate(found, total, tail)


def _highest_rate(seen: int, count: int, tail: float = _TAIL) -> float:
    """The smallest rate at which at most `seen` of `count` have a probability of at most `tail`; 1 if there is none."""
    if seen >= count:
        return 1.0
    low, high = 0.0, 1.0
    for _ in range(50):
        middle = (low + high) / 2
        low, high = (low, middle) if _at_most(seen, count, middle) <= tail else (middle, high)
    return high


def _at_most(seen: int, count: int, rate: float) -> float:
    """P(X <= seen) for X binomial with `count` trials of probability `rate` in (0, 1)."""
    ranks = np.arange(seen + 1)
    ratios = np.log(count - ranks[1:] + 1) - np.log(ranks[1:])
    logs = np.append(0.0, np.cumsum(ratios)) + ranks * math.log(rate) + (count - ranks) * math.log1p(-rate)
    return min(1.0, float(np.exp(logs).sum()))
