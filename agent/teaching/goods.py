"""Which pictures of good parts are learned: each part once, readable, and of one product."""

import contextlib
import json
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias

import cv2
import numpy as np

from zsad_agent.config import HealthConfig
from zsad_agent.picture_health import unfit
from zsad_core.errors import ImageError, ZsadError
from zsad_core.picture import comment_of

Picture: TypeAlias = np.ndarray | Callable[[], np.ndarray]  # uint8 BGR [H, W, 3], or what reads it

LEAST_GOODS = 3
HEAD_BYTES = 1024
OVERLAY = "an overlay of the agent, not a picture of a part"
REJECTED = ("anomalous", "unknown")  # verdicts
LOOKS_SIDE = 128  # pictures are compared at this size, in grey, pixels
SAME_LOOKS = 8  # grey levels: largest difference of one part taken or saved twice; of two parts it is 29 and more
FAR_MADS, FAR_TIMES = 5.0, 2.0  # a stranger's distance is above the median by both
APART_TIMES = 1.5  # an outlier's score is that far above the highest one that is none; below, it is the goods' own tail
LEAST_SCORE = 0.5  # in deviations; the scores of goods are above
FEW = 5  # of fewer goods none is an outlier
MOST_OUTLIERS = 0.2  # share of the goods
ROUNDS = 3
# Suspects, in robust deviations above the median. Of six sets, 16 goods each, at most 4.5 % are named falsely.
SUSPECT_DISTANCE, SUSPECT_ZERO_SHOT = 2.0, 1.0
SUSPECT_TOP = 0.02  # share of a picture's tokens: the most different ones
# Two groups: their distance is so many times the median one of a picture to its nearest, and the largest one inside a
# group. Of 11 products alone, whose groups have more than a fifth, at most 1.5 and 1.3; of 110 pairs 89 are above both.
GROUP_TIMES, GROUP_GAP = 1.8, 1.4


@dataclass(frozen=True, kw_only=True, slots=True)
class LeftOut:
    """A picture among the goods that was not learned."""

    name: str
    reason: str  # for people
    score: float | None = None  # of an outlier: times the median of the goods


def read(picture: Picture) -> np.ndarray:
    """The picture, uint8 BGR [H, W, 3].

    Raises:
        ImageError: it cannot be read.
    """
    return picture() if callable(picture) else picture


def why_not_good(path: Path, *, unchecked: bool) -> str | None:
    """Why a file that the agent wrote is no picture of a good part; None if it may be one.

    `unchecked`: what the agent rejected may be good.
    """
    comment = verdict = None
    with contextlib.suppress(OSError, ValueError):
        if path.is_file():
            with path.open("rb") as file:
                comment = verdict = comment_of(file.read(HEAD_BYTES))
            beside = json.loads(path.with_suffix(".json").read_bytes())
            if isinstance(beside, dict) and beside.get("schema") == "zsad.result/1":
                verdict = beside.get("verdict")
    if is_overlay(path.name, comment):
        return OVERLAY
    if verdict in REJECTED and not unchecked:
        return f"evidence of the agent, which was {verdict}. If the part is good, add --unchecked"
    return None


def why_not_given(name: str, encoded: bytes, *, good: bool) -> str | None:
    """Why a file that a person gives is no picture of a good or bad part; None if it may be one."""
    comment = comment_of(encoded[:HEAD_BYTES])
    if is_overlay(name, comment):
        return OVERLAY
    if good and comment in REJECTED:
        return f"evidence of the agent, which was {comment}. If the part is good, mark its result as good"
    return None


def is_overlay(name: str, comment: str | None) -> bool:
    """Whether the agent has drawn over a picture. `comment`: of `zsad_core.picture.comment_of`."""
    return comment == "overlay" or name.lower().endswith(".overlay.jpg")


def screen(
    pictures: Sequence[tuple[str, Picture]],
    health: HealthConfig,
    left_out: list[LeftOut],
    progress: Callable[[int], None],
    *,
    unchecked: bool,
) -> list[tuple[str, Picture]]:
    """The pictures that may be learned.

    Args:
        pictures: each with its name. A name that is the path of a file is checked for what the agent wrote.
        health: limits of exposure and structure.
        left_out: receives the others with the reason.
        progress: called with the number of pictures seen.
        unchecked: pictures that look the same, or that the agent rejected, are learned too.
    """
    looks = Looks()
    kept: list[tuple[str, Picture]] = []
    for done, (name, picture) in enumerate(pictures, start=1):
        reason = why_not_good(Path(name), unchecked=unchecked)
        if reason is None:
            try:
                image = read(picture)
                finding = unfit(image, health)
                reason = finding.reason if finding is not None else None
                if reason is None and not unchecked and (twin := looks.twin(image)) is not None:
                    reason = f"the same part as {kept[twin][0]}. If it is another part, add --unchecked"
            except ImageError as error:
                reason = str(error).removeprefix(f"{name}: ")
        if reason is None:
            looks.add(image)
            kept.append((name, picture))
        else:
            left_out.append(LeftOut(name=name, reason=reason))
        progress(done)
    return kept


class Looks:
    """What the pictures look like, at a small size."""

    def __init__(self, newest: int | None = None) -> None:
        """`newest`: how many pictures are remembered; None: all."""
        self._looks: deque[np.ndarray] = deque(maxlen=newest)
        self._means: deque[float] = deque(maxlen=newest)

    def add(self, image_bgr: np.ndarray) -> None:
        self._looks.append(looks := _looks(image_bgr))
        self._means.append(float(looks.mean()))

    def twin(self, image_bgr: np.ndarray) -> int | None:
        """The number of the first picture added that looks the same."""
        looks = _looks(image_bgr)
        near = np.flatnonzero(np.abs(np.array(self._means) - looks.mean()) <= SAME_LOOKS)
        return next((int(other) for other in near if cv2.absdiff(self._looks[other], looks).max() <= SAME_LOOKS), None)


def _looks(image_bgr: np.ndarray) -> np.ndarray:
    small = cv2.resize(image_bgr, (LOOKS_SIDE, LOOKS_SIDE), interpolation=cv2.INTER_AREA)
    return cv2.cvtColor(small, cv2.COLOR_BGR2GRAY)


def far_ones(scores: np.ndarray) -> dict[int, float]:
    """Place -> times the median, of the scores that are far above the others.

    Args:
        scores: float [K], positive; higher is more different.
    """
    if len(scores) < FEW:
        return {}
    logs = np.log(np.maximum(scores, 1e-9))
    median = np.median(logs)
    limit = median + max(FAR_MADS * 1.4826 * float(np.median(np.abs(logs - median))), np.log(FAR_TIMES))
    return {int(place): float(np.exp(logs[place] - median)) for place in np.flatnonzero(logs > limit)}


def tail_limit(scores: np.ndarray, count: int) -> float:
    """The highest score that is plausible for one of so many good parts.

    Above the median the scores of good parts fall off about exponentially; the median and the 80 % quantile give the
    rate.

    Args:
        scores: float [K] of good parts, at least one.
        count: number of parts, at least K.
    """
    middle, high = np.quantile(scores, (0.5, 0.8))
    step = (high - middle) / np.log(0.5 / 0.2)
    return float(middle + step * np.log(max(1.0, 0.5 * count)))


def likely_good(
    goods: Mapping[str, Sequence[float]], found: Mapping[str, list[float]], left_out: list[LeftOut]
) -> dict[str, list[float]]:
    """Of the scores of doubtful parts those that the goods explain.

    Args:
        goods: of each good part its scores in z, the last one counts.
        found: the same of doubtful parts.
        left_out: receives the other ones with the reason.
    """
    limit = tail_limit(np.array([of[-1] for of in goods.values()]), len(goods) + len(found))
    for name, of in sorted(found.items(), key=lambda entry: -entry[1][-1]):
        if of[-1] > limit:
            reason = f"may be defective: its score of {of[-1]:.1f} is above {limit:.1f}, which good parts explain"
            left_out.append(LeftOut(name=name, reason=reason, score=of[-1]))
    return {name: of for name, of in found.items() if of[-1] <= limit}


def stand_apart(scores: np.ndarray, most: int) -> dict[int, float]:
    """Place -> times the median, of at most `most` scores that are far above the median and stand apart from the rest.

    A long tail without a gap is that of the goods: without it the threshold would promise too much.

    Args:
        scores: float [K], in z.
        most: may be 0.
    """
    if len(scores) < FEW:
        return {}
    order = np.argsort(-scores)
    ordered = np.maximum(scores[order], LEAST_SCORE)
    median = float(np.median(ordered))
    counts = [
        count
        for count in range(1, most + 1)
        if ordered[count - 1] >= max(FAR_TIMES * median, APART_TIMES * ordered[count])
    ]
    return {int(place): float(scores[place] / median) for place in order[: max(counts, default=0)]}


def set_by_one(scores: Mapping[str, float], threshold: float) -> list[str]:
    """The note for people if one part alone sets the threshold, far above the others: a defective one hides defects.

    Args:
        scores: of good parts by their names, in z.
        threshold: in z.
    """
    names = sorted(scores, key=lambda name: -scores[name])
    if len(names) < FEW or not threshold > scores[names[0]] >= APART_TIMES * max(scores[names[1]], LEAST_SCORE):
        return []
    times = scores[names[0]] / max(scores[names[1]], LEAST_SCORE)
    return [
        f"{names[0]} alone sets the threshold: its score is {times:.1f} times the next one. If the part is not good, "
        "teach again without it"
    ]


def token_distances(tokens: Sequence[np.ndarray]) -> np.ndarray:
    """float32 [K, K, N]: from each token of a picture (first), [h, w, C], to the nearest one of another (second)."""
    width = tokens[0].shape[-1]
    together = np.concatenate([one.reshape(-1, width) for one in tokens]).astype(np.float32)
    nearest = [(together @ one.reshape(-1, width).T.astype(np.float32)).max(axis=1) for one in tokens]
    return 1 - np.stack(nearest).reshape(len(tokens), len(tokens), -1).swapaxes(0, 1)


def find_suspects(distances: np.ndarray, zero_shot: np.ndarray) -> list[int]:
    """Places of the goods that may be defective, the most different one first; several may have the same defect.

    A defect that a few parts share has a near neighbour among them. So a token counts by its distance to the next
    picture after as many as may be outliers. The bundle alone must suspect the part too: goods have their own tail.

    Args:
        distances: as of `find_strangers`, without the strangers.
        zero_shot: float [K], scores of the bundle alone; their scale does not matter.
    """
    count = len(distances)
    if count < FEW:
        return []
    most = int(MOST_OUTLIERS * count)
    others = distances.astype(np.float32)
    others[np.arange(count), np.arange(count)] = np.inf
    tokens = np.partition(others, most, axis=1)[:, most]
    top = max(1, round(SUSPECT_TOP * tokens.shape[1]))
    different = _deviations(np.log(np.maximum(np.sort(tokens, axis=1)[:, -top:].mean(axis=1), 1e-9)))
    found = np.flatnonzero((different > SUSPECT_DISTANCE) & (_deviations(zero_shot) > SUSPECT_ZERO_SHOT))
    return sorted(found.tolist(), key=lambda place: -different[place])[:most]


def _deviations(values: np.ndarray) -> np.ndarray:
    """float [K]: how many robust deviations each value is above the median."""
    above = values - np.median(values)
    return above / max(1.4826 * float(np.median(np.abs(above))), 1e-9)


def find_strangers(distances: np.ndarray) -> dict[int, float]:
    """Place -> times the median, of the pictures that look different as a whole: another product, or another view.

    A picture is judged by its mean distance to the median one of the others, so several alike strangers are found.

    Args:
        distances: float [K, K, N]: of each token of a good (first) to the nearest token of another good (second).
    """
    kept = np.arange(len(distances))
    found: dict[int, float] = {}
    for _ in range(ROUNDS):
        among = distances[np.ix_(kept, kept)].astype(np.float32)
        among[np.arange(len(kept)), np.arange(len(kept))] = np.nan
        if len(kept) < FEW:
            break
        far = far_ones(np.nanmedian(among.mean(axis=2), axis=1))
        if not far:
            break
        found |= {int(kept[place]): times for place, times in far.items()}
        kept = np.delete(kept, list(far))
    return found


def smaller_group(distances: np.ndarray) -> list[int]:
    """Places of the smaller one of two groups of pictures that differ as two products do; empty if there is one group.

    Pictures are joined to the nearest one that is joined already, so the longest step leads to the other group.

    Args:
        distances: as of `find_strangers`, without the strangers.
    """
    if len(distances) < FEW:
        return []
    between = distances.mean(axis=2, dtype=np.float32)
    between = (between + between.T) / 2
    np.fill_diagonal(between, np.inf)
    joined, steps, near = [0], [], between[0].copy()
    while len(joined) < len(between):
        near[joined] = np.inf
        joined.append(int(near.argmin()))
        steps.append(float(near[joined[-1]]))
        near = np.minimum(near, between[joined[-1]])
    longest = int(np.argmax(steps))
    group = min(joined[: longest + 1], joined[longest + 1 :], key=len)
    inside = max(steps[:longest] + steps[longest + 1 :])
    limit = max(GROUP_TIMES * float(np.median(between.min(axis=1))), GROUP_GAP * inside)
    return sorted(group) if steps[longest] >= limit and len(group) > MOST_OUTLIERS * len(between) else []


def check_number(goods: int, outliers: int, left_out: Sequence[LeftOut]) -> None:
    """Checks that enough goods of one product are left.

    Args:
        goods: the pictures that are left.
        outliers: those among them that look different.
        left_out: the pictures that are no longer among them.

    Raises:
        ZsadError: too few are left, or too many look different.
    """
    if outliers > MOST_OUTLIERS * goods:
        raise ZsadError(
            f"these pictures show more than one product: {outliers} of {goods} look different from the others. "
            "Teach each product from its own pictures"
        )
    if goods - outliers < LEAST_GOODS:
        why = f" ({left_out[0].name}: {left_out[0].reason})" if left_out else ""
        raise ZsadError(
            f"too few pictures of different good parts can be learned: {goods - outliers}. At least {LEAST_GOODS} are "
            f"needed, better 20. Left out: {len(left_out) + outliers}{why}"
        )
