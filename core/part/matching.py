"""Finds the pose in which a part is most like the taught template."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from math import ceil, hypot
from typing import Final

import cv2
import numpy as np

from zsad_core.part.located import Pose, cut, sampled

MOST_TURN: Final = 25.0  # degrees by which a part that is not elongated may be rotated
LEAST_GAIN: Final = 0.02  # of correlation; a smaller one does not justify a rotation
_REACH: Final = 0.22  # how far the part may lie off its centroid's place, share of the view's side
_NEAR: Final = 0.06  # the same, once the place is known coarsely
_TURNS: Final = tuple(range(-24, 25, 8))  # degrees
_STEPS: Final = (4.0, 2.0, 1.0)  # degrees, one after the other


@dataclass(frozen=True, kw_only=True)
class Match:
    """A pose and how like the template the view in it is."""

    pose: Pose
    similarity: float  # correlation, [-1, 1]


class Matcher:
    """Compares the surroundings of one part with a template: coarsely at half size, then finely."""

    def __init__(
        self, image_bgr: np.ndarray, centre_xy: tuple[float, float], size_wh: tuple[float, float], template: np.ndarray
    ) -> None:
        self._size_wh = size_wh
        height, width = template.shape[:2]
        side = (1 + 2 * _REACH) * hypot(*size_wh)
        pixels = 2 * ceil(side / min(size_wh[0] / width, size_wh[1] / height) / 2)
        self._around = Pose(centre_xy=centre_xy, size_wh=(side, side))
        patch = cut(image_bgr, self._around, (pixels, pixels))
        self._fine = patch, template
        self._coarse = _halved(patch), _halved(template)

    def _match(self, pose: Pose, reach: float, level: tuple[np.ndarray, np.ndarray]) -> Match:
        """The best place up to `reach` of the view's sides off the one in `pose`."""
        patch, template = level
        height, width = template.shape[:2]
        wide = width + 2 * max(1, round(reach * width)), height + 2 * max(1, round(reach * height))
        searched = replace(pose, size_wh=(pose.size_wh[0] * wide[0] / width, pose.size_wh[1] * wide[1] / height))
        to_frame = searched.to_frame(wide)
        corner = self._around.to_frame((1, 1))[:, 2]
        zoom = len(patch) / self._around.size_wh[0]
        to_patch = np.column_stack([to_frame[:, :2], to_frame[:, 2] - corner]) * zoom
        scores = cv2.matchTemplate(sampled(patch, to_patch, wide), template, cv2.TM_CCOEFF_NORMED)
        _, best, _, (x, y) = cv2.minMaxLoc(scores)
        found = to_frame @ (x + width / 2, y + height / 2, 1.0)
        similarity = float(np.clip(best, -1, 1)) if np.isfinite(best) else 0.0
        return Match(pose=replace(pose, centre_xy=(float(found[0]), float(found[1]))), similarity=similarity)

    def at(self, *angles: float) -> Match:
        """The best match at one of these angles, degrees."""
        start = [replace(self._around, size_wh=self._size_wh, angle=angle) for angle in angles]
        coarse = max((self._match(pose, _REACH, self._coarse) for pose in start), key=_similarity)
        return self._match(coarse.pose, _NEAR, self._fine)

    def near(self, *angles: float) -> Match:
        """The best match near one of these angles."""
        best = self.at(*angles)
        for step in _STEPS:
            poses = [replace(best.pose, angle=best.pose.angle + turn) for turn in (-step, step)]
            best = max([best, *(self._match(pose, _NEAR, self._fine) for pose in poses)], key=_similarity)
        return best

    def upright(self, *, turns: bool) -> Match:
        """The best match without rotation, or with one up to `MOST_TURN` that makes the part clearly more alike."""
        straight = self.at(0.0)
        if not turns:
            return straight
        turned = self.near(*_TURNS)
        gains = turned.similarity >= straight.similarity + LEAST_GAIN and abs(turned.pose.angle) <= MOST_TURN
        return turned if gains else straight

    def along(self, angle: float) -> Match:
        """The best match of an elongated part: along `angle` or the other way round."""
        return self.near(angle, angle + 180.0)


def _similarity(match: Match) -> float:
    return match.similarity


def _halved(image: np.ndarray) -> np.ndarray:
    return cv2.resize(image, (image.shape[1] // 2, image.shape[0] // 2), interpolation=cv2.INTER_AREA)


def self_similarity(template: np.ndarray, turn: float) -> float:
    """Correlation of the middle of a template with itself, rotated by `turn` degrees. Round parts: near 1."""
    height, width = template.shape[:2]
    matrix = cv2.getRotationMatrix2D(((width - 1) / 2, (height - 1) / 2), turn, 1.0)
    turned = cv2.warpAffine(template, matrix, (width, height), borderMode=cv2.BORDER_REPLICATE)
    return float(cv2.matchTemplate(turned, template, cv2.TM_CCOEFF_NORMED)[0, 0])


def median_view(views: Sequence[np.ndarray]) -> np.ndarray:
    """uint8 [h, w, 3]: the median of each pixel."""
    return np.median(np.stack(views), axis=0).astype(np.uint8)
