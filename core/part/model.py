"""What is taught about a product's part: how to find it in a frame, and how much a part may differ."""

import base64
import binascii
from math import sqrt
from typing import Annotated, Final, Literal, Self

import numpy as np
from pydantic import Field, model_validator

from zsad_core.config import StrictModel
from zsad_core.part.foreground import LEAST_CONTRAST, Foreground, FoundPart, find_foreground, gather
from zsad_core.part.located import Located, PartError
from zsad_core.part.matching import Match, Matcher

BOX_HW: Final = (48, 48)  # of the template
STRIP_HW: Final = (32, 96)
_NO_PART: Final = 0.25  # of the smallest taught area: less is no part
_OTHER_AREA: Final = 2.5  # times larger or smaller than every good: another part
_OTHER_ELONGATION: Final = 2.0
_OTHER_SIMILARITY: Final = 0.5  # below the goods' lowest
_SECOND_PART: Final = 0.6  # of the smallest taught area: a further blob of this size is a second part
_LEAST_CONTRAST_KEPT: Final = 0.25  # of the taught contrast: less is background

Side = Annotated[float, Field(gt=0, le=8)]


class Span(StrictModel):
    """The smallest and the largest value of the goods."""

    low: Annotated[float, Field(gt=0, le=1000)]
    high: Annotated[float, Field(gt=0, le=1000)]

    @model_validator(mode="after")
    def _is_ordered(self) -> Self:
        if self.low > self.high:
            raise ValueError(f"low must be at most high, got {self.low} and {self.high}")
        return self


class TaughtPart(StrictModel):
    """How the goods' parts stand out from the background."""

    count: Annotated[int, Field(ge=1, le=64)]  # equal parts in one frame
    area: Span  # of one part, share of the frame
    elongation: Span  # ratio of the principal axes
    contrast: Annotated[float, Field(gt=0, le=1000)]  # lowest colour distance between parts and background


class TaughtView(StrictModel):
    """What the goods look like, cut out and in a common pose."""

    strip: bool  # rotated so that the part lies along a strip of 3:1
    size_wh: tuple[Side, Side]  # of the cut rectangle; 1 is the square root of the frame's area
    turns: bool  # small rotations of a part that is not elongated are compensated
    template: Annotated[str, Field(max_length=20_000)]  # the goods' median view; base64 of uint8 BGR [h, w, 3]
    similarity: Annotated[float, Field(ge=-1, le=1)]  # lowest correlation of a good's view with the template

    @model_validator(mode="after")
    def _template_is_whole(self) -> Self:
        height, width = self.template_hw
        try:
            found = len(base64.b64decode(self.template, validate=True))
        except binascii.Error as error:
            raise ValueError(f"the template is not base64: {error}") from error
        if found != height * width * 3:
            raise ValueError(f"the template has {found} bytes, expected {height * width * 3}")
        return self

    @property
    def template_hw(self) -> tuple[int, int]:
        return STRIP_HW if self.strip else BOX_HW

    def match(self, image_bgr: np.ndarray, part: FoundPart, scale: float) -> Match:
        """The pose in which the part is most like the template. `scale`: of `part`, as of `Foreground`."""
        template = np.frombuffer(base64.b64decode(self.template), np.uint8).reshape(*self.template_hw, 3)
        return match_view(image_bgr, part, scale, self.size_wh, template, strip=self.strip, turns=self.turns)


def match_view(
    image_bgr: np.ndarray,
    part: FoundPart,
    scale: float,
    size_wh: tuple[float, float],
    template: np.ndarray,
    *,
    strip: bool,
    turns: bool,
) -> Match:
    """As `TaughtView.match`, for a view that is still being learnt."""
    unit = sqrt(image_bgr.shape[0] * image_bgr.shape[1])
    centre = part.centre_xy[0] / scale, part.centre_xy[1] / scale
    matcher = Matcher(image_bgr, centre, (size_wh[0] * unit, size_wh[1] * unit), template)
    return matcher.along(part.angle) if strip else matcher.upright(turns=turns)


class PartModel(StrictModel):
    """How the part is found. `frame`: the view is the whole frame; `box`: a crop; `strip`: a crop, rotated, 3:1."""

    mode: Literal["frame", "box", "strip"]
    goods: Annotated[int, Field(ge=1)]  # pictures that it was learnt from
    part: TaughtPart | None = None  # None: no part stands out, the surface fills the frame
    view: TaughtView | None = None  # None: parts are not compared with a template

    @model_validator(mode="after")
    def _is_complete(self) -> Self:
        if self.mode != "frame" and (self.view is None or self.view.strip != (self.mode == "strip")):
            raise ValueError(f"mode {self.mode} needs a view of its own kind")
        if self.view is not None and (self.part is None or self.part.count != 1):
            raise ValueError("a view needs one taught part")
        return self

    def locate(self, image_bgr: np.ndarray) -> Located:
        """The view of the part in a frame, uint8 BGR [H, W, 3].

        Raises:
            PartError: the frame shows no part, or another part than taught.
        """
        if self.part is None:
            return Located.whole(image_bgr)
        found = find_foreground(image_bgr, max(LEAST_CONTRAST, _LEAST_CONTRAST_KEPT * self.part.contrast))
        if self.part.count > 1:
            _check_parts(found, self.part)
            return Located.whole(image_bgr)
        part = _one_part(found, self.part)
        if self.view is None:
            return Located.whole(image_bgr)
        match = self.view.match(image_bgr, part, found.scale)
        if match.similarity < self.view.similarity - _OTHER_SIMILARITY:
            raise PartError(
                f"another part: its likeness to the taught parts is {match.similarity:.2f}, "
                f"that of the good parts is at least {self.view.similarity:.2f}"
            )
        if self.mode == "frame":
            return Located.whole(image_bgr)
        return Located.cut(image_bgr, match.pose, strip=self.view.strip)


def _check_parts(found: Foreground, taught: TaughtPart) -> None:
    """Several equal parts: that one of them is missing is a defect; that all are missing is no part."""
    area = sum(part.area for part in found.parts) / found.area
    if area < _NO_PART * taught.area.low:
        raise PartError(_no_part(area, taught))


def _one_part(found: Foreground, taught: TaughtPart) -> FoundPart:
    """The part that is most likely the taught one, with its pieces if it is broken."""
    low, high = taught.area.low * found.area, taught.area.high * found.area
    if not found.parts:
        raise PartError(_no_part(0.0, taught))
    middle = sqrt(low * high)
    seed = min(found.parts, key=lambda part: max(part.area / middle, middle / part.area))
    part = gather(found.parts, seed, high) if seed.area < low else seed
    share = part.area / found.area
    if part.area < _NO_PART * low:
        raise PartError(_no_part(share, taught))
    if not low / _OTHER_AREA <= part.area <= high * _OTHER_AREA and not (part.area < low and part.on_border):
        raise PartError(f"another part: it covers {share:.1%} of the frame, {_taught_area(taught)}")
    least, most = taught.elongation.low / _OTHER_ELONGATION, taught.elongation.high * _OTHER_ELONGATION
    if low <= part.area <= high and not least <= part.elongation <= most:
        raise PartError(
            f"another part: it is {part.elongation:.1f} times as long as wide, "
            f"good parts {taught.elongation.low:.1f} to {taught.elongation.high:.1f}"
        )
    seconds = [other for other in found.parts if other.area >= _SECOND_PART * low and other is not seed]
    if seconds and part is seed:
        raise PartError(f"another part: {1 + len(seconds)} parts in the frame, 1 was taught")
    return part


def _no_part(share: float, taught: TaughtPart) -> str:
    found = f"what stands out covers {share:.1%} of the frame" if share else "nothing stands out from the background"
    return f"no part: {found}, {_taught_area(taught)}"


def _taught_area(taught: TaughtPart) -> str:
    return f"good parts cover {taught.area.low:.1%} to {taught.area.high:.1%}"
