"""`zsad-agent calibrate`: a threshold for this station, from the scores of good parts only.

The threshold is a high order statistic of the scores, because users only have good parts.
"""

import argparse
import math
import sys
from collections.abc import Sequence
from pathlib import Path

from zsad_agent.cli.flags import add_bit_depth_flag, add_model_flags, add_unchecked_flag, model_config, used_bits
from zsad_agent.cli.score import find_pictures, score_picture
from zsad_agent.system import configure_logging, printable
from zsad_core.errors import ZsadError

MIN_PICTURES = 5
DECIMALS = 4  # of the threshold, rounded up
MIN_FALSE_REJECT_RATE = 1e-6  # needs a million good parts


def main(arguments: list[str]) -> int:
    """Prints a threshold as YAML."""
    parser = argparse.ArgumentParser(
        prog="zsad-agent calibrate", description="Prints a threshold for the config, from pictures of good parts."
    )
    parser.add_argument(
        "paths", nargs="+", type=Path, metavar="PATH", help="pictures of good parts, or folders of them"
    )
    add_model_flags(parser)
    add_bit_depth_flag(parser)
    add_unchecked_flag(parser)
    parser.add_argument(
        "--false-reject-rate",
        type=float,
        default=0.01,
        metavar="R",
        help="share of good parts that may be rejected, between 0 and 1; default %(default)s",
    )
    args = parser.parse_args(arguments)
    rate = args.false_reject_rate
    if not MIN_FALSE_REJECT_RATE <= rate < 1:
        parser.error(f"--false-reject-rate: {rate} is not between {MIN_FALSE_REJECT_RATE:g} and 1")
    configure_logging("WARNING")

    from zsad_agent.model import Detector
    from zsad_core.bundle import load_bundle

    inference = model_config(args).inference
    detector = Detector(load_bundle(inference.bundle), inference)
    scored = []
    for path, _ in find_pictures(args.paths):
        found = score_picture(path, detector, threshold=1.0, bit_depth=used_bits(args), unchecked=args.unchecked)
        if found.anomaly_score is None:
            print(f"zsad-agent: left out: {printable(found.text)}", file=sys.stderr)
        else:
            scored.append(found.anomaly_score)
    print(as_yaml(scored, rate))
    return 0


def calibrate(scores: Sequence[float], false_reject_rate: float) -> tuple[float, float]:
    """The lowest threshold with at most the requested expected rate; above all scores if there are too few pictures.

    Each of n + 1 exchangeable good parts has every rank with equal probability. So another part exceeds the m-th
    highest of n scores with probability m / (n + 1).

    Args:
        scores: of pictures of good parts, each in [0, 1].
        false_reject_rate: the share of good parts that may be rejected, in (0, 1).

    Returns:
        (threshold in [0, 1], expected share of other good parts that will reach it).

    Raises:
        ZsadError: fewer than 5 scores, or a good part scored 1, so no threshold is above it.
    """
    if len(scores) < MIN_PICTURES:
        raise ZsadError(f"{len(scores)} pictures can be scored, at least {MIN_PICTURES} are needed, better 100")
    rank = max(1, math.floor(false_reject_rate * (len(scores) + 1)))  # rank of the score just below the threshold
    passing = sorted(scores, reverse=True)[rank - 1]
    threshold = round(passing, DECIMALS)
    while threshold <= passing:
        threshold = round(threshold + 10**-DECIMALS, DECIMALS)
    if threshold > 1:
        raise ZsadError("a good part scores 1.0, the highest possible score: this bundle does not fit these parts")
    return threshold, rank / (len(scores) + 1)


def as_yaml(scores: Sequence[float], false_reject_rate: float) -> str:
    """The snippet for the config file, with its data as comments. Arguments and errors as of `calibrate`."""
    threshold, expected_rate = calibrate(scores, false_reject_rate)
    rejected = sum(score >= threshold for score in scores)
    lines = [
        f"# From {len(scores)} pictures of good parts, of which {rejected} reach it.",
        f"# About {expected_rate:.2%} of good parts will be rejected.",
    ]
    if expected_rate > false_reject_rate:
        wanted, needed = f"{false_reject_rate:.2%}", math.ceil(1 / false_reject_rate) - 1
        lines.append(f"# {len(scores)} pictures cannot support the {wanted} requested: take at least {needed}.")
    return "\n".join([*lines, "decision:", f"  threshold: {threshold:.{DECIMALS}f}"])
