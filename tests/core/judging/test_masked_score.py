import numpy as np
import pytest
import torch

from zsad_core.facts import ScoreRule
from zsad_core.heads import top_mean
from zsad_core.judging import masked_score

MAP = np.random.default_rng(0).random((48, 64), np.float32)


@pytest.mark.parametrize("power", [1.0, 0.5])
@pytest.mark.parametrize(("fraction", "pool"), [(0.0, 1), (0.01, 4), (0.3, 1), (1.0, 5)])
def test_without_ignored_pixels_it_is_the_score_of_the_graph(fraction: float, pool: int, power: float) -> None:
    everything = np.ones(MAP.shape, bool)
    expected = float(top_mean(torch.from_numpy(MAP)[None], fraction, pool, power)[0])
    rule = ScoreRule(top_fraction=fraction, pool=pool, power=power)
    assert masked_score(MAP, everything, rule) == pytest.approx(expected, abs=1e-6)


def test_ignored_pixels_do_not_change_the_score_or_dilute_the_rest() -> None:
    anomaly_map = np.full((8, 8), 0.25, np.float32)
    anomaly_map[:, 4:] = 1.0
    judged = np.ones((8, 8), bool)
    judged[:, 4:] = False
    for rule in (ScoreRule(top_fraction=0.0, pool=1), ScoreRule(top_fraction=0.5, pool=2)):
        assert masked_score(anomaly_map, judged, rule) == 0.25


def test_defect_beside_the_mask_is_still_found() -> None:
    anomaly_map = np.zeros((8, 8), np.float32)
    anomaly_map[0, 0] = 0.9
    judged = np.ones((8, 8), bool)
    judged[4:] = False
    assert masked_score(anomaly_map, judged, ScoreRule(top_fraction=0.0, pool=1)) == pytest.approx(0.9)


def test_narrow_areas_and_an_empty_area() -> None:
    judged = np.zeros((8, 8), bool)
    assert masked_score(MAP[:8, :8], judged, ScoreRule(top_fraction=0.1, pool=4)) == 0.0
    judged[0, 0] = True
    assert masked_score(MAP[:8, :8], judged, ScoreRule(top_fraction=0.1, pool=4)) == MAP[0, 0]
