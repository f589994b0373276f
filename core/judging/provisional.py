"""A threshold for a product that was not taught, from the scores of its frames so far, which nobody has labelled.

All arithmetic is on the logits of the scores. `docs/measurements.md` has the figures behind the constants.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

REJECTED = 10  # at most one of so many good parts is rejected, in the mean, if all frames show good parts
SPREADS = 2.5  # highest threshold, in robust deviations above the median: so a fifth of defects does not raise it much
LEAST_SPREAD = 0.15  # of a deviation, and of the threshold above the median: frames that are all alike
PULL = 0.25  # share of the way up to the bundle's threshold, where that is higher
LEAST_TO_RISE = 30  # frames before it may be above the bundle's threshold: a stream may start with defects
RISE = 2.0  # above the bundle's threshold it is at most so far above the lowest tenth of the frames
HIGHEST, LOWEST = 1.5, 3.0  # how far the threshold may be above and below the bundle's
_LEAST = 1e-4  # of a score, and of 1 minus it, before the logit
_TO_DEVIATION = 1.4826  # from the median distance to the median, for a normal distribution


@dataclass(frozen=True, kw_only=True, slots=True)
class Provisional:
    """A threshold that holds until the product is taught."""

    threshold: float  # [0, 1]
    frames: int  # on whose scores it rests


def provisional_threshold(scores: Sequence[float], bundle_threshold: float) -> Provisional | None:
    """The threshold after frames with these scores; None if they are too few.

    The (n + 1) // 10-th highest score of n rejects a good part with a probability of at most 0.1 if all frames show
    good parts. Defects among them raise it, so the median and the spread of all frames limit it. It is above the
    bundle's threshold only if nearly all of many frames are near that: defects among good parts do not raise it. A
    score `HIGHEST` above the bundle's threshold is an evident defect: it does not count, and it is always rejected.

    Args:
        scores: of different parts, in any order. NaN does not count.
        bundle_threshold: in [0, 1].
    """
    prior = _logit(np.array(bundle_threshold))
    values = np.sort(_logit(np.asarray(scores, np.float64)))
    values = values[values < prior + HIGHEST]  # NaN is not below
    if len(values) < REJECTED - 1:
        return None
    median = float(np.median(values))
    spread = max(_TO_DEVIATION * float(np.median(np.abs(values - median))), LEAST_SPREAD)
    tenth = (len(values) + 1) // REJECTED
    found = min(float(values[-tenth]), median + SPREADS * spread)
    found = max(found, median + LEAST_SPREAD)
    found += PULL * max(0.0, float(prior) - found)
    highest = float(values[tenth - 1]) + RISE if len(values) >= LEAST_TO_RISE else -math.inf
    found = min(found, max(float(prior), highest), float(prior) + HIGHEST)
    found = max(found, float(prior) - LOWEST)
    return Provisional(threshold=1 / (1 + math.exp(-found)), frames=len(values))


def _logit(scores: np.ndarray) -> np.ndarray:
    shares = np.clip(scores, _LEAST, 1 - _LEAST)
    return np.log(shares / (1 - shares))
