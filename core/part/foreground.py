"""The parts that stand out from the background, whose colour is that of the frame's border."""

from collections.abc import Iterable
from dataclasses import dataclass
from math import atan2, cos, degrees, radians, sin, sqrt
from typing import Final, Self

import cv2
import numpy as np

from zsad_core.part.background import Background, border_of
from zsad_core.picture import resize_to_input

WORK_SIDE: Final = 256  # longest side of the picture that is searched, pixels
_BORDER: Final = 0.03  # width of the border, share of the shorter side
_LAB_SCALE: Final = np.array(
    [0.3, 1.0, 1.0], np.float32
)  # of OpenCV's 8-bit Lab: light and shadow count less than colour
_LEAST_CONTRAST: Final = 10.0  # colour distance between a part and the background, in that scale
_CLEAR_CONTRAST: Final = 45.0  # a larger distance counts as this one, so that a part of two colours stays whole
_MOST_BORDER: Final = 0.45  # share of the border's pixels that parts may cover
_LEAST_AREA: Final = 0.002  # share of the frame; a smaller blob is dirt
_MOST_ON_BORDER: Final = 0.55  # of a blob's bounding box; a blob with more is the rim of a tray
_OUTER_CONTOURS: Final = (cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_NONE)
_PIECE_GAP: Final = 0.12  # of the longer side of a part: a nearer blob is a piece of the same part


@dataclass(frozen=True, kw_only=True)
class FoundPart:
    """One part, in pixels of the searched picture."""

    area: float  # pixels, holes included
    centre_xy: tuple[float, float]  # centroid
    spread: tuple[float, float, float]  # second central moments xx, xy, yy; pixels squared
    outline: np.ndarray  # float64 [N, 2], points of the outer contour
    on_border: bool  # it touches the frame's border

    @classmethod
    def from_contour(cls, contour: np.ndarray, frame_wh: tuple[int, int]) -> Self:
        """The part inside an outer contour."""
        moments = cv2.moments(contour)
        area = max(moments["m00"], 1.0)
        left, top, width, height = cv2.boundingRect(contour)
        return cls(
            area=area,
            centre_xy=(moments["m10"] / area + 0.5, moments["m01"] / area + 0.5),
            spread=(moments["mu20"] / area, moments["mu11"] / area, moments["mu02"] / area),
            outline=contour[:, 0] + 0.5,
            on_border=left <= 1 or top <= 1 or left + width >= frame_wh[0] - 1 or top + height >= frame_wh[1] - 1,
        )

    def joined(self, other: "FoundPart") -> "FoundPart":
        """Both as one part."""
        area = self.area + other.area
        mine, its = self.area / area, other.area / area
        centre = [mine * a + its * b for a, b in zip(self.centre_xy, other.centre_xy, strict=True)]
        dx, dy = (b - a for a, b in zip(self.centre_xy, other.centre_xy, strict=True))
        between = (dx * dx, dx * dy, dy * dy)
        both = zip(self.spread, other.spread, between, strict=True)
        return FoundPart(
            area=area,
            centre_xy=(centre[0], centre[1]),
            spread=tuple(mine * a + its * b + mine * its * c for a, b, c in both),  # type: ignore[arg-type]
            outline=np.concatenate([self.outline, other.outline]),
            on_border=self.on_border or other.on_border,
        )

    @property
    def elongation(self) -> float:
        """Ratio of the principal axes, 1 or more."""
        xx, xy, yy = self.spread
        half, root = (xx + yy) / 2, sqrt(((xx - yy) / 2) ** 2 + xy * xy)
        return sqrt((half + root) / max(half - root, 1e-3 * half, 1e-9))

    @property
    def angle(self) -> float:
        """Of the longer axis, degrees clockwise from the x axis, [-90, 90]."""
        xx, xy, yy = self.spread
        return degrees(atan2(2 * xy, xx - yy)) / 2

    @property
    def box(self) -> tuple[float, float, float, float]:
        """Left, top, right, bottom of the upright rectangle around it."""
        (x, y), (width, height) = self.rectangle(0.0)
        return x - width / 2, y - height / 2, x + width / 2, y + height / 2

    def rectangle(self, angle: float) -> tuple[tuple[float, float], tuple[float, float]]:
        """Centre, and length along and across `angle`, degrees, of the smallest rectangle around it."""
        turn = radians(angle)
        axes = np.array([[cos(turn), -sin(turn)], [sin(turn), cos(turn)]])
        places = self.outline @ axes
        low, high = places.min(axis=0) - 0.5, places.max(axis=0) + 0.5
        x, y = axes @ ((low + high) / 2)
        length, width = high - low
        return (float(x), float(y)), (float(length), float(width))

    def is_near(self, other: "FoundPart") -> bool:
        """Whether `other` is so near that it can be a piece of this part."""
        left, top, right, bottom = self.box
        reach = _PIECE_GAP * max(right - left, bottom - top)
        return bool(
            other.box[0] <= right + reach
            and other.box[2] >= left - reach
            and other.box[1] <= bottom + reach
            and other.box[3] >= top - reach
        )


class Foreground:
    """A frame, uint8 BGR [H, W, 3], whose parts are searched."""

    def __init__(self, image_bgr: np.ndarray) -> None:
        small = _shrunk(image_bgr)
        height, width = small.shape[:2]
        self.wh = width, height  # of the searched picture
        self.area = width * height
        self.scale = width / image_bgr.shape[1]  # pixels of the searched picture per pixel of the frame
        self.background = Background.of(small)
        total = np.zeros((height, width), np.float32)
        for channel in self.background.difference(small):
            cv2.accumulateSquare(channel, total)
        self._distance = cv2.sqrt(total)  # to the background's colour
        self._border = border_of(self._distance)
        # Few pixels of the background exceed this distance. Parts may cover less than half of the border.
        self.least_level = max(_LEAST_CONTRAST, 3 * float(np.median(self._border)))
        clear = (np.minimum(self._distance, _CLEAR_CONTRAST) * (255 / _CLEAR_CONTRAST)).astype(np.uint8)
        otsu, _ = cv2.threshold(clear, 0, 255, cv2.THRESH_OTSU)
        self.level = max(otsu * _CLEAR_CONTRAST / 255, self.least_level)  # the distance that parts the two best

    def parts(self, level: float | None = None) -> list[FoundPart]:
        """The parts that differ from the background by more than `level` (None: the best level), largest first.

        None: the surface fills the frame, or nothing is there.
        """
        level = max(level or self.level, self.least_level)
        if (self._border > level).mean() > _MOST_BORDER:
            return []
        mask: np.ndarray = (self._distance > level).astype(np.uint8)
        mask = cv2.morphologyEx(mask, cv2.MORPH_OPEN, np.ones((3, 3), np.uint8))
        disc = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (5, 5))
        mask = cv2.morphologyEx(cv2.copyMakeBorder(mask, 3, 3, 3, 3, cv2.BORDER_REPLICATE), cv2.MORPH_CLOSE, disc)
        contours, _ = cv2.findContours(np.ascontiguousarray(mask[3:-3, 3:-3]), *_OUTER_CONTOURS)
        blobs = [FoundPart.from_contour(contour, self.wh) for contour in contours]
        parts = [
            blob
            for blob in blobs
            if blob.area >= _LEAST_AREA * self.area and _share_on_border(blob, self.wh) <= _MOST_ON_BORDER
        ]
        return sorted(parts, key=lambda part: -part.area)

    def contrast(self, part: FoundPart) -> float:
        """Mean colour distance between the part, holes included, and the background."""
        mask = np.zeros(self._distance.shape, np.uint8)
        cv2.fillPoly(mask, [part.outline.astype(np.int32)], 1)
        return float(cv2.mean(self._distance, mask)[0])


def gather(parts: Iterable[FoundPart], seed: FoundPart, most_area: float) -> FoundPart:
    """`seed` with the pieces near it, largest first, as long as all together have at most `most_area` pixels."""
    whole = seed
    for piece in parts:
        if piece is not seed and whole.is_near(piece) and whole.area + piece.area <= most_area:
            whole = whole.joined(piece)
    return whole


def _shrunk(image_bgr: np.ndarray) -> np.ndarray:
    height, width = image_bgr.shape[:2]
    scale = min(1.0, WORK_SIDE / max(height, width))
    image_bgr = resize_to_input(image_bgr, (max(1, round(height * scale)), max(1, round(width * scale))))
    return cv2.GaussianBlur(image_bgr, (3, 3), 0)


def _share_on_border(part: FoundPart, wh: tuple[int, int]) -> float:
    """Share of the part's bounding box that lies on the frame's border."""
    left, top, right, bottom = part.box
    width, height = right - left, bottom - top
    on_border = width * ((top <= 1) + (bottom >= wh[1] - 1)) + height * ((left <= 1) + (right >= wh[0] - 1))
    return on_border / (2 * (width + height))
