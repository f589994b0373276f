"""How the scales and the zero-shot map become one score."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from zsad_agent.teaching.observe import Observed
from zsad_core.bundle import FeatureScale
from zsad_core.memory import FLOOR, fuse, top_mean

WEIGHT = 0.25  # of the zero-shot map
ALONE = 0.9  # of the first scale's map, beside the means of several scales

# A good part's score rises with its map's median by some slope. What is above `LEAST_SLOPE` is taken off, at most
# `MOST_TAKEN` of the median. On boards (slope 0.4 to 0.6) defects raise the median, too, so nothing is taken off.
LEAST_SLOPE, MOST_TAKEN = 1.0, 0.6
MEDIAN_NOISE = 0.1  # in z: medians that differ by less say nothing
LEAST_FOR_SLOPE = 8  # goods

QUARTILE = 0.25  # of the map, for `foreign`


@dataclass(frozen=True, kw_only=True)
class Fusion:
    """Which scales are used, the weight of the zero-shot map, and the share of the median that is subtracted.

    The mean of several scales is surer than one: scales of one size are averaged, and scales of one network. The
    maximum of these means counts, and that of the first scale at nine tenths.
    """

    scales: tuple[FeatureScale, ...]  # in the bundle's order, at least one
    weight: float = WEIGHT
    background: float = 0.0

    @property
    def names(self) -> tuple[str, ...]:
        return tuple(scale.name for scale in self.scales)

    def first(self, count: int) -> "Fusion":
        """The same with the first `count` scales alone."""
        return replace(self, scales=self.scales[:count])

    def fused(self, maps: Mapping[str, np.ndarray], zero_shot: np.ndarray) -> np.ndarray:
        """float32 [grid] in z, from the maps of all scales and the zero-shot map, each float32 [grid] in z."""
        found = [(maps[scale.name], scale.tiles > 1, _network(scale)) for scale in self.scales]
        sizes = [[one for one, tiled, _ in found if tiled == size] for size in (False, True)]
        networks = [[one for one, _, name in found if name == network] for network in {name for *_, name in found}]
        groups = [[np.float32(ALONE) * found[0][0]], *filter(len, sizes), *(group for group in networks if group[1:])]
        return fuse(groups, zero_shot, self.weight, self.background)


@dataclass(frozen=True, kw_only=True)
class ZMaps:
    """The maps of one picture in z, each float32 [grid]; those of the scales by their names."""

    seen: Observed
    scales: Mapping[str, np.ndarray]
    zero_shot: np.ndarray

    def in_frame(self, fusion: Fusion) -> np.ndarray:
        """float32 [map_hw]: the fused map at its place in the frame."""
        fused = fusion.fused(self.scales, self.zero_shot)
        return self.seen.located.map_to_frame(fused, self.seen.map_hw, FLOOR)

    def score(self, fusion: Fusion, ignored: np.ndarray | None) -> float:
        """The score in z, at the resolution of the view; of a small part the frame's map is coarser.

        With `ignored`, bool [map_hw], True where the map does not count, it is that of the frame's map.

        Raises:
            ValueError: a value is NaN.
        """
        if ignored is None:
            return top_mean(fusion.fused(self.scales, self.zero_shot))
        return top_mean(self.in_frame(fusion), ignored)

    def quartile(self, name: str) -> float:
        """The lower quartile of a scale's map: high where nothing of the picture is as taught."""
        return float(np.quantile(self.scales[name], QUARTILE))


def backgrounds(fusion: Fusion, goods: Sequence[ZMaps], ignored: np.ndarray | None) -> list[float]:
    """The share of the median that makes the scores of the goods most alike, within bounds: first that of all goods.

    Then for each good that of the others. With it, its score says what the threshold does to a new part: a share that
    it has chosen itself would make its score too low.

    Args:
        fusion: its own share does not count.
        goods: leave-one-out maps.
        ignored: bool [map_hw], True where the map does not count.
    """
    plain = replace(fusion, background=0.0)
    medians = np.array([np.median(plain.fused(maps.scales, maps.zero_shot)) for maps in goods])
    scores = np.array([maps.score(plain, ignored) for maps in goods])
    others = [np.arange(len(goods)) != place for place in range(len(goods))]
    return [_share(medians, scores), *(_share(medians[one], scores[one]) for one in others)]


def _share(medians: np.ndarray, scores: np.ndarray) -> float:
    if len(medians) < LEAST_FOR_SLOPE:
        return 0.0
    slope = float(np.mean((medians - medians.mean()) * scores) / (medians.var() + MEDIAN_NOISE**2))
    return min(max(slope - LEAST_SLOPE, 0.0), MOST_TAKEN)


def _network(scale: FeatureScale) -> str:
    return scale.name.partition("-")[0]
