from dataclasses import replace

import numpy as np
import pytest
from taught_fakes import scale

from zsad_agent.teaching.observe import (
    GRID_HW,
    MOST_TAKEN,
    MOST_WIDENED,
    Fusion,
    Observed,
    ZMaps,
    backgrounds,
    balanced,
)
from zsad_core.memory import Spread, top_mean
from zsad_core.part import Located

NAMES = ("vit-whole", "cnn-whole", "vit-tiles")
SCALES = tuple(scale(name, tiles=2 if name.endswith("tiles") else 1) for name in NAMES)


def maps(seed: int, **defects: float) -> ZMaps:
    """Noise, and a defect of some strength on some scales."""
    random = np.random.default_rng(seed)
    scales = {}
    for name in NAMES:
        scales[name] = random.normal(0, 1, GRID_HW).astype(np.float32)
        scales[name][:8, :8] += defects.get(name.partition("-")[0], 0)
    zero_shot = random.normal(0, 1, GRID_HW).astype(np.float32)
    zero_shot[:8, :8] += defects.get("zero_shot", 0)
    located = Located.whole(np.zeros((1, 1, 3), np.uint8))
    seen = Observed(located=located, tokens={}, zero_shot=zero_shot, map_hw=(40, 40))
    return ZMaps(seen=seen, scales=scales, zero_shot=zero_shot)


@pytest.mark.parametrize(
    ("count", "values", "expected"),
    [
        (4, (1, 5, 2, 6), 5.5),  # the CNN; the tiles have 4, the whole views 3
        (4, (5, 1, 4, 2), 4.5),  # the ViT and nine tenths of the first scale
        (4, (1, 2, 6, 7), 6.5),  # the tiles
        (4, (5, 6, 1, 1), 5.5),  # the whole views
        (4, (9, 0, 0, 0), 8.1),  # the first scale
        (4, (0, 9, 0, 0), 4.5),  # another one counts together with its neighbours alone
        (3, (1, 5, 2, 6), 3.0),
        (2, (1, 5, 2, 6), 3.0),
        (1, (1, 5, 2, 6), 1.0),
    ],
)
def test_highest_mean_of_scales_of_one_size_or_network_counts(
    count: int, values: tuple[float, ...], expected: float
) -> None:
    scales = (*SCALES, scale("cnn-tiles", tiles=2))
    maps = {one.name: np.full((1, 2), value, np.float32) for one, value in zip(scales, values, strict=True)}
    found = Fusion(scales=scales, weight=0.0).first(count).fused(maps, np.zeros((1, 2), np.float32))
    assert found.tolist() == [[pytest.approx(expected)] * 2]


@pytest.mark.parametrize(
    ("tail", "times"),
    [
        ((4.0, 3.0, 2.0), 4 / 2.5),  # the first scale counts no more than the others
        ((2.0, 3.0, 4.0), 1.0),
        ((9.0, 1.0, 1.0), MOST_WIDENED),
        ((4.0,), 1.0),
    ],
)
def test_good_parts_score_no_higher_on_the_first_scale_than_on_the_others(
    tail: tuple[float, ...], times: float
) -> None:
    goods, judged = 7, np.ones((7, 20, 20), bool)
    judged[:, :2] = False
    distances, spreads = {}, {}
    for name, high in zip(NAMES, tail, strict=False):
        distances[name] = np.full((goods, 20, 20), 0.5, np.float32)
        distances[name][:, 5, :5] += 0.1 * high  # more than a hundredth of the cells
        distances[name][:, 0] = 2.0  # not judged
        spreads[name] = Spread(mean=0.5, deviation=0.1, median=0.5)
    found = balanced(spreads, distances, judged)
    first = NAMES[0]
    assert {name: found[name] for name in found if name != first} == {
        name: spreads[name] for name in spreads if name != first
    }
    assert found[first].deviation == pytest.approx(0.1 * times, rel=1e-3)
    assert found[first].mean == 0.5 and found[first].median == 0.5
    score = np.median(
        [top_mean(z, ~counted) for z, counted in zip(found[first].z(distances[first]), judged, strict=True)]
    )
    assert score == pytest.approx(tail[0] / times, rel=1e-3)


def brighter(found: ZMaps, by: float, at_the_defect: float) -> ZMaps:
    """The same part, that differs everywhere, and more at one place."""
    scales = {name: values + np.float32(by) for name, values in found.scales.items()}
    for values in scales.values():
        values[:8, :8] += at_the_defect - by
    return ZMaps(seen=found.seen, scales=scales, zero_shot=found.zero_shot)


@pytest.mark.parametrize(("rise", "taken"), [(2.0, MOST_TAKEN), (1.3, 0.3), (0.8, 0.0), (0.0, 0.0)])
def test_what_good_parts_show_everywhere_is_taken_off(rise: float, taken: float) -> None:
    goods = [brighter(maps(seed, vit=9, cnn=9), by := seed % 5 / 2, rise * by) for seed in range(20)]
    plain = Fusion(scales=SCALES)
    shares = backgrounds(plain, goods, None)
    assert shares == pytest.approx([taken] * 21, abs=0.06)
    before, after = (
        np.std([one.score(replace(plain, background=share), None) for one in goods]) for share in (0, taken)
    )
    assert after < 0.8 * before if taken else after == before


def test_a_good_part_has_no_say_in_its_own_share() -> None:
    odd = brighter(maps(9, vit=9, cnn=9), 3, 12)
    shares = backgrounds(Fusion(scales=SCALES), [*(maps(seed, vit=9, cnn=9) for seed in range(8)), odd], None)
    assert shares[0] == MOST_TAKEN and shares[-1] == 0


def test_too_few_or_equal_goods_take_nothing_off() -> None:
    few = [brighter(maps(seed), seed, 2 * seed) for seed in range(3)]
    assert backgrounds(Fusion(scales=SCALES), few, None) == [0] * 4
    assert backgrounds(Fusion(scales=SCALES), [maps(seed) for seed in range(20)], None) == [0] * 21
