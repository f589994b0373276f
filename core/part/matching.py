"""Finds the pose in which a part is most like the taught template."""

from dataclasses import dataclass, replace
from math import ceil, hypot, sqrt
from typing import Final

import cv2
import numpy as np

from zsad_core.part.foreground import Foreground
from zsad_core.part.located import Pose, cut, sampled

MOST_TURN: Final = 25.0  # degrees by which a part that is not elongated may be rotated
LEAST_GAIN: Final = 0.02  # of correlation; a smaller one does not justify a rotation
_REACH: Final = 0.22  # how far the part may lie off its centroid's place, share of the view's side
_NEAR: Final = 0.06  # the same, once the place is known coarsely
_TURNS: Final = tuple(range(-24, 25, 8))  # degrees
_ALL_ROUND: Final = tuple(range(0, 360, 12))
_STEPS: Final = (4.0, 2.0, 1.0)  # degrees, one after the other


@dataclass(frozen=True, kw_only=True)
class Match:
    """A pose and how like the template the view in it is."""

    pose: Pose
    similarity: float  # correlation, [-1, 1]


class Surroundings:
    """The surroundings of one part, without the background's colour, to be compared with templates.

    Images are float32 [h, w, 3], as of `Background.difference`: a gradient of the light does not count.
    """

    def __init__(
        self,
        image_bgr: np.ndarray,
        found: Foreground,
        centre_xy: tuple[float, float],
        size_wh: tuple[float, float],
        template_hw: tuple[int, int],
    ) -> None:
        """`centre_xy`: of the part in the searched picture. `size_wh`: of the view, 1 is the root of the frame's area.

        `template_hw`: of all templates.
        """
        frame_h, frame_w = image_bgr.shape[:2]
        unit = sqrt(frame_h * frame_w)
        width, height = size_wh[0] * unit, size_wh[1] * unit
        side = (1 + 2 * _REACH) * hypot(width, height)
        pixels = 2 * ceil(side / min(width / template_hw[1], height / template_hw[0]) / 2)
        self._scale = found.scale
        x, y = centre_xy[0] / found.scale, centre_xy[1] / found.scale
        self._start = Pose(centre_xy=(x, y), size_wh=(width, height))
        self._corner_xy, self._side = (x - side / 2, y - side / 2), side
        patch = cut(image_bgr, replace(self._start, size_wh=(side, side)), (pixels, pixels))
        across, down = (
            (low / most, (low + side) / most) for low, most in zip(self._corner_xy, (frame_w, frame_h), strict=True)
        )
        self._patch = cv2.merge(found.background.difference(patch, across, down))
        self._half_patch = _halved(self._patch)

    def pose(self, centre_xy: tuple[float, float], angle: float) -> Pose:
        """The view's rectangle with this centre, in the searched picture."""
        x, y = centre_xy[0] / self._scale, centre_xy[1] / self._scale
        return replace(self._start, centre_xy=(x, y), angle=angle)

    def view(self, pose: Pose, wh: tuple[int, int], *, halved: bool = False) -> np.ndarray:
        """What `pose` shows of the surroundings, as float32 [h, w, 3]."""
        patch = self._half_patch if halved else self._patch
        to_frame = pose.to_frame(wh)
        to_frame[:, 2] -= self._corner_xy
        return sampled(patch, to_frame * (len(patch) / self._side), wh)

    def _match(self, pose: Pose, reach: float, template: np.ndarray, *, halved: bool = False) -> Match:
        """The best place up to `reach` of the view's sides off the one in `pose`."""
        height, width = template.shape[:2]
        wide = width + 2 * max(1, round(reach * width)), height + 2 * max(1, round(reach * height))
        searched = replace(pose, size_wh=(pose.size_wh[0] * wide[0] / width, pose.size_wh[1] * wide[1] / height))
        scores = cv2.matchTemplate(self.view(searched, wide, halved=halved), template, cv2.TM_CCOEFF_NORMED)
        _, best, _, (x, y) = cv2.minMaxLoc(scores)
        centre = searched.to_frame(wide) @ (x + width / 2, y + height / 2, 1.0)
        similarity = float(np.clip(best, -1, 1)) if np.isfinite(best) else 0.0
        return Match(pose=replace(pose, centre_xy=(float(centre[0]), float(centre[1]))), similarity=similarity)

    def at(self, template: np.ndarray, *angles: float) -> Match:
        """The best match at one of these angles, degrees: first coarsely, at half size."""
        half = _halved(template)
        starts = [replace(self._start, angle=angle) for angle in angles]
        coarse = max((self._match(start, _REACH, half, halved=True) for start in starts), key=_similarity)
        return self._match(coarse.pose, _NEAR, template)

    def near(self, template: np.ndarray, *angles: float) -> Match:
        """The best match near one of these angles."""
        best = self.at(template, *angles)
        for step in _STEPS:
            poses = [replace(best.pose, angle=best.pose.angle + turn) for turn in (-step, step)]
            best = max([best, *(self._match(pose, _NEAR, template) for pose in poses)], key=_similarity)
        return best

    def upright(self, template: np.ndarray, *, turns: bool) -> Match:
        """The best match without rotation, or with one up to `MOST_TURN` that makes the part clearly more alike."""
        straight = self.at(template, 0.0)
        if not turns:
            return straight
        turned = self.near(template, *_TURNS)
        gains = turned.similarity >= straight.similarity + LEAST_GAIN and abs(turned.pose.angle) <= MOST_TURN
        return turned if gains else straight

    def along(self, template: np.ndarray, angle: float) -> Match:
        """The best match of an elongated part: along `angle` or the other way round."""
        return self.near(template, angle, angle + 180.0)

    def anyhow(self, template: np.ndarray) -> Match:
        """The best match at any rotation."""
        return self.near(template, *_ALL_ROUND)


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
