"""Finds the pose in which a part is most like the taught template."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from math import ceil, hypot
from typing import Final

import cv2
import numpy as np

from zsad_core.part.located import Pose, cut, sampled

MOST_TURN: Final = 25.0  # degrees by which a part that is not elongated may be rotated
LEAST_GAIN: Final = 0.02  # of correlation; a smaller one does not justify a rotation
_REACH: Final = 0.22  # how far the part may lie off its centroid's place, share of the view's side
_COARSE: Final = tuple(np.arange(-24.0, 25.0, 8.0))
_FINE: Final = (4.0, 2.0, 1.0)


@dataclass(frozen=True, kw_only=True)
class Match:
    """A pose and how like the template the view in it is."""

    pose: Pose
    similarity: float  # correlation, [-1, 1]


class Matcher:
    """Compares the surroundings of one part with a template."""

    def __init__(
        self, image_bgr: np.ndarray, centre_xy: tuple[float, float], size_wh: tuple[float, float], template: np.ndarray
    ) -> None:
        self._template, self._size_wh = template, size_wh
        th, tw = template.shape[:2]
        side = (1 + 2 * _REACH) * hypot(*size_wh)
        pixels = ceil(side / min(size_wh[0] / tw, size_wh[1] / th))
        self._around = Pose(centre_xy=centre_xy, size_wh=(side, side))
        self._patch = cut(image_bgr, self._around, (pixels, pixels))
        self._zoom = pixels / side  # pixels of the patch per pixel of the frame

    def match(self, angle: float, centre_xy: tuple[float, float] | None = None, reach: float = _REACH) -> Match:
        """The best place at `angle`, degrees, up to `reach` of the view's sides off `centre_xy`."""
        th, tw = self._template.shape[:2]
        more_x, more_y = max(1, round(reach * tw)), max(1, round(reach * th))
        centre_xy = centre_xy or self._around.centre_xy
        pose = Pose(centre_xy=centre_xy, size_wh=self._size_wh, angle=angle)
        wide = tw + 2 * more_x, th + 2 * more_y
        searched = replace(pose, size_wh=(self._size_wh[0] * wide[0] / tw, self._size_wh[1] * wide[1] / th))
        to_frame = searched.to_frame(wide)
        corner = self._around.to_frame((1, 1))[:, 2]
        to_patch = np.column_stack([to_frame[:, :2], to_frame[:, 2] - corner]) * self._zoom
        view = sampled(self._patch, to_patch, wide)
        scores = cv2.matchTemplate(view, self._template, cv2.TM_CCOEFF_NORMED)
        _, best, _, (x, y) = cv2.minMaxLoc(scores)
        found = to_frame @ (x + tw / 2, y + th / 2, 1.0)
        similarity = float(np.clip(best, -1, 1)) if np.isfinite(best) else 0.0
        return Match(pose=replace(pose, centre_xy=(float(found[0]), float(found[1]))), similarity=similarity)

    def best(self, angles: Iterable[float]) -> Match:
        """The best match near one of these angles."""
        best = max((self.match(angle) for angle in angles), key=lambda match: match.similarity)
        for step in _FINE:
            tries = [self.match(best.pose.angle + turn, best.pose.centre_xy, reach=0.06) for turn in (-step, step)]
            best = max([best, *tries], key=lambda match: match.similarity)
        return best

    def upright(self, *, turns: bool) -> Match:
        """The best match without rotation, or with one up to `MOST_TURN` that makes the part clearly more alike."""
        straight = self.match(0.0)
        if not turns:
            return straight
        turned = self.best(_COARSE)
        gains = turned.similarity >= straight.similarity + LEAST_GAIN and abs(turned.pose.angle) <= MOST_TURN
        return turned if gains else straight

    def along(self, angle: float) -> Match:
        """The best match of an elongated part: along `angle` or the other way round."""
        return self.best((angle, angle + 180.0))


def self_similarity(template: np.ndarray, turn: float) -> float:
    """Correlation of the middle of a template with itself, rotated by `turn` degrees. Round parts: near 1."""
    height, width = template.shape[:2]
    matrix = cv2.getRotationMatrix2D(((width - 1) / 2, (height - 1) / 2), turn, 1.0)
    turned = cv2.warpAffine(template, matrix, (width, height), borderMode=cv2.BORDER_REPLICATE)
    return float(cv2.matchTemplate(turned, template, cv2.TM_CCOEFF_NORMED)[0, 0])


def median_view(views: Sequence[np.ndarray]) -> np.ndarray:
    """uint8 [h, w, 3]: the median of each pixel."""
    return np.median(np.stack(views), axis=0).astype(np.uint8)
