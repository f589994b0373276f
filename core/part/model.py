"""What is taught about a product's part: how to find it in a frame, and how much a part may differ."""

import base64
import binascii
from collections.abc import Iterator
from dataclasses import replace
from typing import Annotated, Final, Literal, Self

import numpy as np
from pydantic import Field, model_validator

from zsad_core.config import StrictModel
from zsad_core.part.foreground import Foreground, FoundPart, gather
from zsad_core.part.located import Located, NoPartError, PartError
from zsad_core.part.matching import Match, Surroundings

BOX_HW: Final = (48, 48)  # of the template
STRIP_HW: Final = (32, 96)
_NO_PART: Final = 0.25  # of the smallest taught area: less is no part
_OTHER_AREA: Final = 2.5  # times larger than every good: another part
_SAME_AREA: Final = 1.1  # times larger or smaller than the goods: certainly the whole part
_ALIKE_AREA: Final = 1.25  # the same: not broken, so its shape can be compared
_OTHER_ELONGATION: Final = 2.0
_OTHER_SIMILARITY: Final = 0.4  # below the goods' lowest
_BROKEN_SIMILARITY: Final = 0.5  # the same, for a part of another area: it can be a broken one
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
    template: Annotated[str, Field(max_length=20_000)]  # the goods' median view; base64 of int8 [h, w, 3], see `pixels`
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

    def pixels(self) -> np.ndarray:
        """float32 [h, w, 3]: the template, as a difference to the background's colour."""
        values = np.frombuffer(base64.b64decode(self.template), np.int8)
        return values.reshape(*self.template_hw, 3).astype(np.float32)

    def match(self, image_bgr: np.ndarray, found: Foreground, part: FoundPart, least: float) -> Match:
        """The pose in which the part is most like the template.

        If the similarity would be below `least`, any rotation is tried: a part that lies otherwise is no other part.
        The pose is rotated so only for a strip, whose part may be too broken to have a direction.
        """
        around = Surroundings(image_bgr, found, part.centre_xy, self.size_wh, self.template_hw)
        template = self.pixels()
        match = around.along(template, part.angle) if self.strip else around.upright(template, turns=self.turns)
        if match.similarity >= least:
            return match
        anyhow = around.anyhow(template)
        return anyhow if self.strip else replace(match, similarity=max(match.similarity, anyhow.similarity))


class PartModel(StrictModel):
    """How the part is found. `frame`: the view is the whole frame; `box`: a crop; `strip`: a crop, rotated, 3:1."""

    mode: Literal["frame", "box", "strip"]
    goods: Annotated[int, Field(ge=1)]  # pictures that it was learned from
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
        found = Foreground(image_bgr)
        if self.part.count > 1:
            _check_parts(found, self.part)
            return Located.whole(image_bgr)
        part = _one_part(found, self.part)
        if self.view is None:
            return Located.whole(image_bgr)
        least = self.view.similarity - (_OTHER_SIMILARITY if _is_whole(part, found, self.part) else _BROKEN_SIMILARITY)
        match = self.view.match(image_bgr, found, part, least)
        if match.similarity < least:
            raise PartError(
                f"another part: its likeness to the taught parts is {match.similarity:.2f}, "
                f"that of the good parts is at least {self.view.similarity:.2f}"
            )
        if self.mode == "frame":
            return Located.whole(image_bgr)
        return Located.cut(image_bgr, match.pose, strip=self.view.strip)


def _is_whole(part: FoundPart, found: Foreground, taught: TaughtPart) -> bool:
    """Whether the part's area shows that it is neither broken nor cut by the frame's border."""
    low, high = taught.area.low * found.area, taught.area.high * found.area
    return _factor(part.area, low, high) <= _ALIKE_AREA and not part.on_border


def _check_parts(found: Foreground, taught: TaughtPart) -> None:
    """Several equal parts: that one of them is missing is a defect; that all are missing is no part."""
    area = max(sum(part.area for part in found.parts(level)) for level in _levels(found, taught)) / found.area
    if area < _NO_PART * taught.area.low:
        raise NoPartError(_no_part(area, taught))


def _levels(found: Foreground, taught: TaughtPart) -> Iterator[float]:
    """Levels to try: the best one by the frame alone can take a shadow for a part, or lose a pale part."""
    least = _LEAST_CONTRAST_KEPT * taught.contrast
    for factor in (1.0, 0.6, 1.5):
        yield max(factor * found.level, least)


def _one_part(found: Foreground, taught: TaughtPart) -> FoundPart:
    """The part that is most likely the taught one, with its pieces if it is broken.

    A smaller part is a broken one, so that it gets a score; how alike it is decides elsewhere.
    """
    low, high = taught.area.low * found.area, taught.area.high * found.area
    best: FoundPart | None = None
    seconds = 0
    for level in _levels(found, taught):
        parts = found.parts(level)
        if not parts:
            continue
        seed = min(parts, key=lambda part: _factor(part.area, low, high))
        part = gather(parts, seed, high) if seed.area < low else seed
        if best is None or _factor(part.area, low, high) < _factor(best.area, low, high):
            best = part
            whole = [other for other in parts if other is not seed and other.area >= _SECOND_PART * low]
            seconds = len(whole) if part is seed else 0
        if _factor(best.area, low, high) <= _SAME_AREA:
            break
    share = best.area / found.area if best is not None else 0.0
    if best is None or best.area < _NO_PART * low:
        raise NoPartError(_no_part(share, taught))
    if best.area > high * _OTHER_AREA:
        raise PartError(f"another part: it covers {share:.1%} of the frame, good parts {_taught_area(taught)}")
    least, most = taught.elongation.low / _OTHER_ELONGATION, taught.elongation.high * _OTHER_ELONGATION
    if _factor(best.area, low, high) <= _ALIKE_AREA and not least <= best.elongation <= most:
        raise PartError(
            f"another part: it is {best.elongation:.1f} times as long as wide, "
            f"good parts {taught.elongation.low:.1f} to {taught.elongation.high:.1f}"
        )
    if seconds:
        raise PartError(f"another part: {1 + seconds} parts in the frame, 1 was taught")
    return best


def _factor(value: float, low: float, high: float) -> float:
    """How many times the value is below `low` or above `high`; 1 between them."""
    return max(low / value, value / high, 1.0)


def _no_part(share: float, taught: TaughtPart) -> str:
    found = f"what stands out covers {share:.1%} of the frame" if share else "nothing stands out from the background"
    return f"no part: {found}, good parts cover {_taught_area(taught)}"


def _taught_area(taught: TaughtPart) -> str:
    return f"{taught.area.low:.1%} to {taught.area.high:.1%} of the frame"
