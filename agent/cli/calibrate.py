"""`zsad-agent calibrate`: a threshold for this line, from the scores of good parts only.

The threshold is a high order statistic of the scores, because users only have good parts.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

MIN_PICTURES = 5
DECIMALS = 4  # of the threshold, rounded up


@dataclass(frozen=True, kw_only=True)
class Calibration:
    threshold: float  # [0, 1]
    pictures: int
    rejected: int  # how many of these pictures reach the threshold
    expected_rate: float  # expected share of other good parts that will reach it
    reaches_goal: bool  # whether there are enough pictures for the requested rate


def calibrate(scores: Sequence[float], false_reject_rate: float) -> Calibration:
    """The lowest threshold with at most the requested expected rate; above all scores if there are too few pictures.

    Each of n + 1 exchangeable good parts has every rank with equal probability. So another part exceeds the m-th
    highest of n scores with probability m / (n + 1).

    Args:
        scores: of pictures of good parts, each in [0, 1].
        false_reject_rate: the share of good parts that may be rejected, in (0, 1).

    Raises:
        ValueError: fewer than 5 scores, a rate out of range, or a good part scored 1, so no threshold is above it.
    """
    if len(scores) < MIN_PICTURES:
        raise ValueError(f"{len(scores)} pictures can be scored, at least {MIN_PICTURES} are needed, better 100")
    if not 0 < false_reject_rate < 1:
        raise ValueError(f"the false-reject rate must be between 0 and 1, got {false_reject_rate}")
    highest_first = sorted(scores, reverse=True)
    rank = max(1, math.floor(false_reject_rate * (len(scores) + 1)))  # rank of the score just below the threshold
    threshold = round(highest_first[rank - 1], DECIMALS)
    while threshold <= highest_first[rank - 1]:
        threshold = round(threshold + 10**-DECIMALS, DECIMALS)
    if threshold > 1:
        raise ValueError("a good part scores 1.0, the highest possible score: this bundle does not fit these parts")
    return Calibration(
        threshold=threshold,
        pictures=len(scores),
        rejected=sum(score >= threshold for score in scores),
        expected_rate=rank / (len(scores) + 1),
        reaches_goal=rank / (len(scores) + 1) <= false_reject_rate,
    )


def as_yaml(calibration: Calibration, false_reject_rate: float) -> str:
    """The snippet for the config file, with its data as comments."""
    n = calibration.pictures
    lines = [
        f"# From {n} pictures of good parts, of which {calibration.rejected} reach it.",
        f"# About {calibration.expected_rate:.2%} of good parts will be rejected.",
    ]
    if not calibration.reaches_goal:
        needed = math.ceil(1 / false_reject_rate) - 1
        lines.append(f"# {n} pictures cannot support the {false_reject_rate:.2%} requested: take at least {needed}.")
    return "\n".join([*lines, "decision:", f"  threshold: {calibration.threshold:.{DECIMALS}f}"])
