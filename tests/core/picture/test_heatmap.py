import numpy as np
import pytest

from zsad_core.picture import blend

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
