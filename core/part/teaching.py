"""Learns from pictures of good parts where the part is."""

import base64
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from math import sqrt
from typing import Final

import numpy as np

from zsad_core.part.foreground import Foreground, FoundPart
from zsad_core.part.matching import Match, Surroundings, self_similarity
from zsad_core.part.model import BOX_HW, STRIP_HW, PartModel, Span, TaughtPart, TaughtView

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
    image: np.ndarray  # uint8 BGR [H, W, 3]
    found: Foreground
    parts: list[FoundPart]  # largest first

    @property
    def part(self) -> FoundPart:
        return self.parts[0]

    @property
    def area(self) -> float:
        """Of the largest part, share of the frame."""
        return self.part.area / self.found.area

    @property
    def beside(self) -> float:
        """Area of the other blobs that the frame's border does not cut, share of the largest one's."""
        return sum(part.area for part in self.parts[1:] if not part.on_border) / self.part.area

    @property
    def count(self) -> int:
        """Parts about as large as the largest."""
        return sum(part.area >= _EQUAL_PART * self.part.area for part in self.parts)


def part_models(images: Sequence[np.ndarray]) -> list[PartModel]:
    """The models that fit these good pictures, uint8 BGR [H, W, 3]. The first is always of mode `frame`.

    Raises:
        ValueError: there are no images.
    """
    if not images:
        raise ValueError("expected at least one picture of a good part")
    frames = [(image, Foreground(image)) for image in images]
    goods = [_Good(image=image, found=found, parts=found.parts()) for image, found in frames]
    alike = _alike([good for good in goods if good.parts])
    if len(goods) < LEAST_GOODS or len(alike) < _ALIKE_SHARE * len(goods):
        return [PartModel(mode="frame", goods=len(goods))]
    part = TaughtPart(
        count=min(64, int(np.median([good.count for good in alike]))),
        area=_span([good.area for good in alike]),
        elongation=_span([good.part.elongation for good in alike]),
        contrast=min(good.found.contrast(good.part) for good in alike),
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
    size_wh, hw = _view_size(goods, strip=strip), STRIP_HW if strip else BOX_HW
    around = [Surroundings(good.image, good.found, good.part.centre_xy, size_wh, hw) for good in goods]
    some = np.linspace(0, len(goods) - 1, min(len(goods), _MOST_VIEWS)).astype(int)
    usual = min(some, key=lambda i: abs(goods[i].area - np.median([good.area for good in goods])))
    centre_xy, _ = _rectangle(goods[usual], strip=strip)
    first = around[usual].pose(centre_xy, goods[usual].part.angle if strip else 0.0)

    def learn(match: Callable[[int, np.ndarray], Match]) -> tuple[np.ndarray, list[float]]:
        """The template, and how alike each good is to it."""
        template = around[usual].view(first, (hw[1], hw[0]))
        for _ in range(2):
            poses = [match(i, template).pose for i in some]
            middle = 0.0 if strip else float(np.median([pose.angle for pose in poses]))
            poses = [replace(pose, angle=pose.angle - middle) for pose in poses]  # not the usual good's own rotation
            views = [around[i].view(pose, (hw[1], hw[0])) for i, pose in zip(some, poses, strict=True)]
            template = np.median(np.rint(views), axis=0).clip(-128, 127).astype(np.int8).astype(np.float32)
        return template, [match(i, template).similarity for i in range(len(goods))]

    turns = False
    if strip:
        template, alike = learn(lambda i, template: around[i].along(template, goods[i].part.angle))
    else:
        template, alike = learn(lambda i, template: around[i].upright(template, turns=False))
        turned, turned_alike = learn(lambda i, template: around[i].upright(template, turns=True))
        gain = np.mean(turned_alike) - np.mean(alike)
        turns = bool(gain >= _TURN_GAIN or (gain >= 0 and not _is_round(template)))
        template, alike = (turned, turned_alike) if turns else (template, alike)
    encoded = base64.b64encode(template.astype(np.int8).tobytes()).decode()
    return TaughtView(strip=strip, size_wh=size_wh, turns=turns, template=encoded, similarity=min(alike))


def _is_round(template: np.ndarray) -> bool:
    return min(self_similarity(template, -10), self_similarity(template, 10)) >= _ROUND


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
