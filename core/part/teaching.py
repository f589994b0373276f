"""Learns from pictures of good parts where the part is."""

import base64
from collections.abc import Sequence
from dataclasses import dataclass
from math import sqrt
from typing import Final

import numpy as np

from zsad_core.part.foreground import Foreground, FoundPart, find_foreground
from zsad_core.part.located import Pose, cut
from zsad_core.part.matching import Match, median_view, self_similarity
from zsad_core.part.model import BOX_HW, STRIP_HW, PartModel, Span, TaughtPart, TaughtView, match_view

LEAST_GOODS: Final = 3  # with fewer, a blob of a surface looks like a part
_MOST_VIEWS: Final = 24  # that the template is the median of
_ALIKE_SHARE: Final = 0.9  # of the goods must show alike parts
_AREA_SPREAD: Final = 0.3  # off the median
_ELONGATION_SPREAD: Final = 0.4
_AREA_SHARE: Final = (0.005, 0.8)  # of the frame
_MOST_ON_BORDER: Final = 0.3  # of the goods may show a part that the frame's border cuts
_EQUAL_PART: Final = 0.7  # of the largest part's area
_MOST_BESIDE: Final = 0.1  # of the part's area: more beside it belongs to the product, and a crop would lose it
_STRIP_FROM: Final = 1.8  # elongation
_MARGIN: Final = 0.1  # of the part, at each side
_TURN_GAIN: Final = 0.03  # of the goods' mean similarity, by rotation
_ROUND: Final = 0.97  # similarity of a round template with itself, rotated by 10 degrees


@dataclass(frozen=True, kw_only=True)
class _Good:
    image: np.ndarray
    found: Foreground

    @property
    def part(self) -> FoundPart:
        return self.found.parts[0]

    @property
    def area(self) -> float:
        """Of the largest part, share of the frame."""
        return self.part.area / self.found.area

    @property
    def beside(self) -> float:
        """Area of the other blobs that the frame's border does not cut, share of the largest one's."""
        return sum(part.area for part in self.found.parts[1:] if not part.on_border) / self.part.area

    @property
    def count(self) -> int:
        """Parts about as large as the largest."""
        return sum(part.area >= _EQUAL_PART * self.part.area for part in self.found.parts)


def part_models(images: Sequence[np.ndarray]) -> list[PartModel]:
    """The models that fit these good pictures, uint8 BGR [H, W, 3]. The first is always of mode `frame`.

    Raises:
        ValueError: there are no images.
    """
    if not images:
        raise ValueError("expected at least one picture of a good part")
    goods = [_Good(image=image, found=find_foreground(image)) for image in images]
    alike = _alike([good for good in goods if good.found.parts])
    if len(goods) < LEAST_GOODS or len(alike) < _ALIKE_SHARE * len(goods):
        return [PartModel(mode="frame", goods=len(goods))]
    part = TaughtPart(
        count=min(64, int(np.median([good.count for good in alike]))),
        area=_span([good.area for good in alike]),
        elongation=_span([good.part.elongation for good in alike]),
        contrast=min(good.found.contrast for good in alike),
    )
    if part.count > 1 or np.median([good.beside for good in alike]) > _MOST_BESIDE:
        return [PartModel(mode="frame", goods=len(goods), part=part)]
    strip = np.median([good.part.elongation for good in alike]) >= _STRIP_FROM
    views = [_learn_view(alike, strip=False)] + ([_learn_view(alike, strip=True)] if strip else [])
    # A part that lies at any rotation is recognised in its strip, not in its box.
    models = [PartModel(mode="frame", goods=len(goods), part=part, view=views[-1])]
    models += [PartModel(mode="box", goods=len(goods), part=part, view=views[0])]
    return models + [PartModel(mode="strip", goods=len(goods), part=part, view=view) for view in views[1:]]


def _alike(goods: Sequence[_Good]) -> list[_Good]:
    """The goods whose largest part has about the median's area and shape; none if they cannot be taught."""
    if not goods:
        return []
    area = float(np.median([good.area for good in goods]))
    elongation = float(np.median([good.part.elongation for good in goods]))
    alike = [
        good
        for good in goods
        if abs(good.area / area - 1) <= _AREA_SPREAD
        and abs(good.part.elongation / elongation - 1) <= _ELONGATION_SPREAD
    ]
    cut_by_border = sum(good.part.on_border for good in alike)
    taught = _AREA_SHARE[0] <= area <= _AREA_SHARE[1] and cut_by_border <= _MOST_ON_BORDER * len(alike)
    return alike if taught else []


def _span(values: Sequence[float]) -> Span:
    return Span(low=min(values), high=max(values))


def _learn_view(goods: Sequence[_Good], *, strip: bool) -> TaughtView:
    """The size and the template of the view, from goods in a common pose."""
    size_wh = _view_size(goods, strip=strip)
    some = [goods[i] for i in np.linspace(0, len(goods) - 1, min(len(goods), _MOST_VIEWS)).astype(int)]
    template, turns = _learn_template(some, size_wh, strip=strip, turns=False), False
    if not strip:
        turned = _learn_template(some, size_wh, strip=False, turns=True)
        still, moved = (
            np.mean([_match(good, size_wh, view, strip=False, turns=turn).similarity for good in some])
            for view, turn in ((template, False), (turned, True))
        )
        round_part = min(self_similarity(template, -10), self_similarity(template, 10)) >= _ROUND
        turns = bool(moved >= still + _TURN_GAIN or (moved >= still and not round_part))
        template = turned if turns else template
    likeness = [_match(good, size_wh, template, strip=strip, turns=turns).similarity for good in goods]
    encoded = base64.b64encode(template.tobytes()).decode()
    return TaughtView(strip=strip, size_wh=size_wh, turns=turns, template=encoded, similarity=min(likeness))


def _learn_template(goods: Sequence[_Good], size_wh: tuple[float, float], *, strip: bool, turns: bool) -> np.ndarray:
    """uint8 [h, w, 3]: the median of the goods' views, first in the pose of the most usual one."""
    areas = [good.area for good in goods]
    usual = goods[int(np.argsort(areas)[len(areas) // 2])]
    height, width = STRIP_HW if strip else BOX_HW
    pose = Pose(
        centre_xy=tuple(np.divide(_rectangle(usual, strip=strip)[0], usual.found.scale).tolist()),
        size_wh=_in_pixels(usual, size_wh),
        angle=usual.part.angle if strip else 0.0,
    )
    template = cut(usual.image, pose, (width, height))
    for _ in range(2):
        matches = [_match(good, size_wh, template, strip=strip, turns=turns) for good in goods]
        views = [cut(good.image, match.pose, (width, height)) for good, match in zip(goods, matches, strict=True)]
        template = median_view(views)
    return template


def _match(good: _Good, size_wh: tuple[float, float], template: np.ndarray, *, strip: bool, turns: bool) -> Match:
    return match_view(good.image, good.part, good.found.scale, size_wh, template, strip=strip, turns=turns)


def _in_pixels(good: _Good, size_wh: tuple[float, float]) -> tuple[float, float]:
    unit = sqrt(good.image.shape[0] * good.image.shape[1])
    return size_wh[0] * unit, size_wh[1] * unit


def _view_size(goods: Sequence[_Good], *, strip: bool) -> tuple[float, float]:
    """Width and height that hold every good's part with the margin; of a strip 3:1."""
    sizes = [np.divide(_rectangle(good, strip=strip)[1], sqrt(good.found.area)) for good in goods]
    width, height = np.max(sizes, axis=0) * (1 + 2 * _MARGIN)
    if strip:
        width = max(width, 3 * height)
        height = width / 3
    return float(width), float(height)


def _rectangle(good: _Good, *, strip: bool) -> tuple[tuple[float, float], tuple[float, float]]:
    """Centre and sides of the part's rectangle, pixels of the searched picture."""
    return good.part.rectangle(good.part.angle if strip else 0.0)
