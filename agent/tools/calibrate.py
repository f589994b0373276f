"""`zsad-agent calibrate`: a threshold for this station, from the zero-shot scores of good parts only.

The threshold is a high order statistic of the scores, because users only have good parts. `zsad-agent teach` sets one
too, and finds more defects.
"""

from __future__ import annotations

import math
import statistics
import sys
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from zsad_agent import teaching
from zsad_agent.system import configure_logging, one_line, printable
from zsad_agent.tools.flags import (
    add_model_flags,
    add_picture_flags,
    add_rate_flag,
    command_parser,
    model_config,
    read_part,
)
from zsad_agent.tools.score import MAX_REASON, find_pictures
from zsad_core.errors import DeviceError, ImageError, ZsadError

if TYPE_CHECKING:  # numpy takes longer than parsing
    import numpy as np

MIN_PICTURES = 5
LOOKS_SIDE = 32  # pictures are compared at this size, pixels
SAME_LOOKS = 3  # grey levels: greatest difference of one picture saved twice; of two parts it is 20 and more
OUTLIER_MADS, OUTLIER_MARGIN = 6.0, 0.15  # an outlier's score is above the median by both
UNSCORED = "without a score"
DECIMALS = 4  # of the threshold, rounded up
MIN_FALSE_REJECT_RATE = 1e-6  # needs a million good parts


def main(arguments: list[str]) -> int:
    """Prints a threshold as YAML."""
    parser = command_parser(
        "calibrate",
        "Prints a threshold for the config, from pictures of good parts. It learns nothing else from them: "
        "zsad-agent teach finds more defects with the same pictures.",
        examples="zsad-agent calibrate good-parts --product bottle --false-reject-rate 0.02",
    )
    parser.add_argument(
        "paths", nargs="+", type=Path, metavar="PATH", help="pictures of good parts, or folders of them"
    )
    add_model_flags(parser)
    add_picture_flags(parser)
    add_rate_flag(parser)
    args = parser.parse_args(arguments)
    rate = args.false_reject_rate
    if not MIN_FALSE_REJECT_RATE <= rate < 1:
        parser.error(f"--false-reject-rate: {rate} is not between {MIN_FALSE_REJECT_RATE:g} and 1")
    configure_logging("WARNING")

    from zsad_agent.model import Detector
    from zsad_core.bundle import load_bundle

    inference = model_config(args).inference
    detector, goods = Detector(load_bundle(inference.bundle), inference), Goods(unchecked=args.unchecked)
    for path, _ in find_pictures(args.paths):
        if (reason := teaching.why_not_good(path, unchecked=args.unchecked)) is not None:
            goods.leave_out(path, reason, "written by the agent")
            continue
        try:
            image = read_part(path, args)
            goods.add(path, image, detector.predict(image).anomaly_score)
        except (ImageError, DeviceError) as error:
            goods.leave_out(path, str(error), UNSCORED)
    notes = goods.notes()
    print(as_yaml(list(goods.scores.values()), rate, notes))
    return 1 if goods.left_out[UNSCORED] else 0


@dataclass(kw_only=True)
class Goods:
    """The pictures of good parts, each once, with what they look like."""

    unchecked: bool  # also those that look the same
    scores: dict[Path, float] = field(default_factory=dict)
    left_out: Counter[str] = field(default_factory=Counter)
    _looks: dict[Path, np.ndarray] = field(default_factory=dict)  # int16 [32, 32, 3]

    def add(self, path: Path, image_bgr: np.ndarray, score: float) -> None:
        """Adds a picture, uint8 BGR [H, W, 3], unless another one looks the same."""
        looks = looks_of(image_bgr)
        same = (known for known, others in self._looks.items() if look_same(looks, others))
        if not self.unchecked and (twin := next(same, None)) is not None:
            reason = f"the same picture as {twin}. If it shows another part, add --unchecked"
            self.leave_out(path, reason, "the same as another")
        else:
            self._looks[path], self.scores[path] = looks, score

    def leave_out(self, path: Path, reason: str, kind: str) -> None:
        """Names a picture on stderr."""
        text = one_line(f"{path}: {reason.removeprefix(f'{path}: ')}", MAX_REASON)
        print(f"zsad-agent: left out: {printable(text)}", file=sys.stderr)
        self.left_out[kind] += 1

    def notes(self) -> list[str]:
        """What a person should check, for the YAML. Names the outliers on stderr."""
        notes = []
        if self.left_out:
            notes.append(f"Left out: {', '.join(f'{count} {kind}' for kind, count in self.left_out.items())}.")
        for path in (outliers := find_outliers(self.scores)):
            print(
                f"zsad-agent: outlier: {printable(str(path))}: scores {self.scores[path]:.3f}, far above the others. "
                "Check this part. If it is not good, remove the picture and calibrate again",
                file=sys.stderr,
            )
        if outliers:
            notes.append(
                f"{len(outliers)} score far above the others: if they show a defect, the threshold is too high."
            )
        return notes


def looks_of(image_bgr: np.ndarray) -> np.ndarray:
    """int16 [32, 32, 3]: what a picture, uint8 BGR [H, W, 3], looks like, for `look_same`."""
    import cv2

    return cv2.resize(image_bgr, (LOOKS_SIDE, LOOKS_SIDE), interpolation=cv2.INTER_AREA).astype("int16")


def look_same(one: np.ndarray, other: np.ndarray) -> bool:
    """Whether two pictures, as `looks_of` gives them, show the same part at the same moment."""
    return bool(abs(one - other).max() <= SAME_LOOKS)


def find_outliers(scores: Mapping[Path, float]) -> list[Path]:
    """The pictures whose scores are far above the others, so that they may show a defect."""
    if len(scores) < MIN_PICTURES:
        return []
    median = statistics.median(scores.values())
    mad = 1.4826 * statistics.median(abs(score - median) for score in scores.values())
    return [path for path, score in scores.items() if score > median + max(OUTLIER_MADS * mad, OUTLIER_MARGIN)]


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
        raise ZsadError(
            f"{len(scores)} different pictures can be scored, at least {MIN_PICTURES} are needed, better 100"
        )
    rank = max(1, math.floor(false_reject_rate * (len(scores) + 1)))  # rank of the score just below the threshold
    passing = sorted(scores, reverse=True)[rank - 1]
    threshold = round(passing, DECIMALS)
    while threshold <= passing:
        threshold = round(threshold + 10**-DECIMALS, DECIMALS)
    if threshold > 1:
        raise ZsadError("a good part scores 1.0, the highest possible score: this bundle does not fit these parts")
    return threshold, rank / (len(scores) + 1)


def as_yaml(scores: Sequence[float], false_reject_rate: float, notes: Sequence[str] = ()) -> str:
    """The snippet for the config file, its data and `notes` as comments. Arguments and errors as of `calibrate`."""
    threshold, expected_rate = calibrate(scores, false_reject_rate)
    rejected = sum(score >= threshold for score in scores)
    lines = [
        f"# From {len(scores)} pictures of good parts, of which {rejected} reach it.",
        f"# About {expected_rate:.2%} of good parts will be rejected.",
    ]
    if expected_rate > false_reject_rate:
        wanted, needed = f"{false_reject_rate:.2%}", math.ceil(1 / false_reject_rate) - 1
        lines.append(
            f"# {len(scores)} pictures are too few for the {wanted} that was asked for: take at least {needed}."
        )
    lines += [f"# {note}" for note in notes]
    lines.append("# zsad-agent teach finds more defects with the same pictures; it sets its own threshold.")
    return "\n".join([*lines, "decision:", f"  threshold: {threshold:.{DECIMALS}f}"])
