import numpy as np
import pytest

from zsad_core.errors import ImageError
from zsad_core.memory import FLOOR, Spread, from_unit, fuse, taught_score, to_unit, top_mean


def test_spread_of_goods_and_of_goods_that_are_all_equal() -> None:
    spread = Spread.of(np.array([1.0, 3.0]))
    assert (spread.mean, spread.deviation) == (2.0, 1.0)
    assert spread.z(np.array([[4.0]])).tolist() == [[2.0]]
    assert np.isfinite(Spread.of(np.zeros(5)).z(np.ones(1))).all()


@pytest.mark.parametrize("values", [np.zeros(0), np.array([1.0, np.nan]), np.array([np.inf])])
def test_spread_of_no_number_is_an_error(values: np.ndarray) -> None:
    with pytest.raises(ValueError, match="expected finite values"):
        Spread.of(values)


def test_fused_map_is_the_highest_mean_of_a_group_and_a_share_of_the_zero_shot_map() -> None:
    one, two, six = (np.array([value], np.float32) for value in ([1, 5], [3, 1], [0, 6]))
    zero_shot = np.array([[4, -4]], np.float32)
    assert fuse([[one, two], [six]], zero_shot, 0.25, 0.0).tolist() == [[3.0, 5.0]]
    assert fuse([[two, two]], zero_shot, 0.0, 0.0).tolist() == two.tolist()
    assert fuse([[-9 * one]], one[None], 0.0, 0.0).min() > FLOOR


def test_share_of_the_median_of_each_map_is_subtracted_within_a_bound() -> None:
    maps = np.array([[[1, 2, 9]], [[20, 20, 30]], [[-2, -2, 4]]], np.float32)
    found = fuse([[maps]], np.zeros_like(maps), 0.0, 0.5)
    assert found.tolist() == [[[0.0, 1.0, 8.0]], [[18.5, 18.5, 28.5]], [[-1.0, -1.0, 5.0]]]  # half of 2, 3 and -2
    assert fuse([[maps[0] - 6]], np.zeros((1, 3)), 0.0, 0.0).min() > FLOOR


@pytest.mark.parametrize("scale", [-2.0, 0.0, 3.0, 40.0])
def test_threshold_is_a_half_and_the_inverse_gives_z_again(scale: float) -> None:
    z = np.linspace(FLOOR + 1e-3, 80, 999)
    values = to_unit(z, scale)
    assert to_unit(np.array([scale]), scale).tolist() == [0.5]
    assert (np.diff(values) > 0).all() and values[0] > 0 and values[-1] < 1
    if scale >= 0:
        assert np.allclose(from_unit(values, scale), z, atol=2e-3)


def test_pixels_beside_the_part_stay_beside_it() -> None:
    assert to_unit(np.array([FLOOR, -50.0]), 2.0).tolist() == [0.0, 0.0]
    assert from_unit(np.array([0.0]), 2.0).tolist() == [FLOOR]


def test_values_of_one_and_above_have_a_finite_inverse() -> None:
    assert np.isfinite(from_unit(np.array([1.0, 1.5]), 3.0)).all()


def test_score_is_the_mean_of_the_highest_hundredth_of_the_part() -> None:
    z = np.full((20, 20), FLOOR, np.float32)  # of which half is the part: the 2 highest pixels count
    z[:10] = 0.0
    z[0, :3] = 4.0, 6.0, 5.0
    assert top_mean(z) == 5.5
    ignored = np.zeros((20, 20), bool)
    ignored[0, 1] = True
    assert top_mean(z, ignored) == 4.5
    assert top_mean(z, np.ones((20, 20), bool)) == FLOOR


def test_score_of_the_final_map_is_that_of_the_map_in_z() -> None:
    z = np.random.default_rng(0).normal(1, 2, (56, 56)).clip(FLOOR + 1e-3)
    z[:, :20] = FLOOR
    found = taught_score(to_unit(z, 3.0), 3.0)
    assert found == pytest.approx(float(to_unit(top_mean(z), 3.0)), abs=1e-6)
    with pytest.raises(ImageError, match="nothing of it was inspected"):
        taught_score(to_unit(z, 3.0), 3.0, z > FLOOR)


def test_nan_in_a_map_is_an_error_and_not_a_good_part() -> None:
    z = np.zeros((4, 4))
    z[1, 1] = np.nan
    with pytest.raises(ValueError, match="1 of 16 map values are NaN"):
        top_mean(z)
    with pytest.raises(ValueError, match="NaN"):
        taught_score(to_unit(z, 1.0), 1.0)
