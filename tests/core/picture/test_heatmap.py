import numpy as np
import pytest

from zsad_core.picture import blend, with_half_at

GREY = np.full((48, 64, 3), 128, np.uint8)


def test_zero_map_does_not_change_the_image() -> None:
    np.testing.assert_array_equal(blend(GREY, np.zeros((6, 8), np.float32)), GREY)


def test_colour_of_a_value_does_not_depend_on_the_rest_of_the_map() -> None:
    flat = np.full((6, 8), 0.3, np.float32)
    with_peak = flat.copy()
    with_peak[0, 0] = 1.0
    np.testing.assert_array_equal(blend(GREY, flat)[-1, -1], blend(GREY, with_peak)[-1, -1])


def test_higher_value_gives_more_colour() -> None:
    spread = [np.ptp(blend(GREY, np.full((2, 2), value, np.float32))[0, 0]) for value in (0.0, 0.1, 0.3, 0.8)]
    assert spread == sorted(spread)
    assert spread[1] <= 10  # a good area is hardly tinted


@pytest.mark.parametrize("value", [np.nan, np.inf, 7.0])
def test_invalid_map_value_is_drawn_as_anomalous(value: float) -> None:
    painted = blend(GREY, np.full((6, 8), value, np.float32))
    np.testing.assert_array_equal(painted, blend(GREY, np.ones((6, 8), np.float32)))


def test_the_shifted_map_has_a_half_at_the_level_and_keeps_order_and_ends() -> None:
    values = np.array([[0.0, 0.01, 0.04, 0.3, 1.0]], np.float32)
    shifted = with_half_at(values, 0.04)
    np.testing.assert_allclose(shifted[0, [0, 2, 4]], [0, 0.5, 1], atol=1e-6)
    assert (np.diff(shifted[0]) > 0).all() and shifted.dtype == np.float32
    np.testing.assert_allclose(with_half_at(values, 0.5), values, atol=1e-6)
    assert np.isfinite(with_half_at(values, 0.0)).all() and np.isfinite(with_half_at(values, 1.0)).all()
    assert np.isnan(with_half_at(np.array([[np.nan]], np.float32), 0.1)).all()
