import numpy as np
import pytest

from zsad_training.pictures import (
    KINDS,
    MIN_AREA_PX,
    add_anomalies,
    object_picture,
    photometric,
    printed_picture,
    texture_picture,
    with_fixture,
    with_inclusions,
)

SIZE = (96, 128)


def picture(seed: int) -> np.ndarray:
    rng = np.random.default_rng(seed)
    return texture_picture(rng, rng.integers(60, 200, (64, 64, 3)).astype(np.uint8), SIZE)


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.__name__)
def test_every_kind_of_anomaly_changes_the_image(kind):
    rng = np.random.default_rng(4)
    changed, alpha = kind(rng, picture(1), picture(2), np.array([60.0, 40.0]))
    assert changed.shape == (*SIZE, 3) and changed.dtype == np.uint8
    assert alpha.shape == SIZE and alpha.min() >= 0 and 0 < alpha.max() <= 1


@pytest.mark.parametrize("seed", range(30))
def test_the_mask_marks_only_changed_pixels(seed: int):
    before = picture(seed)
    after, mask = add_anomalies(np.random.default_rng(seed), before, picture(seed + 1))
    difference = np.abs(after.astype(int) - before).max(axis=2)
    assert set(np.unique(mask)) <= {0, 1}
    if mask.any():
        assert mask.sum() >= MIN_AREA_PX
        assert difference[mask > 0].mean() > 5
    else:
        np.testing.assert_array_equal(after, before)


def test_anomalies_are_only_in_the_allowed_area():
    allowed = np.zeros(SIZE, np.uint8)
    allowed[:, :64] = 1
    for seed in range(20):
        before = picture(seed)
        after, mask = add_anomalies(np.random.default_rng(seed), before, picture(seed + 1), allowed)
        assert not mask[:, 64:].any()
        np.testing.assert_array_equal(after[:, 64:], before[:, 64:])


def test_an_object_covers_part_of_its_image():
    for seed in range(20):
        drawn, silhouette = object_picture(np.random.default_rng(seed), picture(seed), picture(seed + 1))
        assert drawn.shape == (*SIZE, 3) and drawn.dtype == np.uint8
        assert 0.02 < silhouette.mean() < 0.98


def test_a_printed_pattern_has_two_different_colours():
    for seed in range(20):
        printed = printed_picture(np.random.default_rng(seed), SIZE)
        assert printed.shape == (*SIZE, 3) and printed.dtype == np.uint8
        colours, counts = np.unique(printed.reshape(-1, 3), axis=0, return_counts=True)
        ground, print_ = colours[np.argsort(-counts)[:2]].astype(int)
        assert np.abs(ground - print_).max() >= 15 or len(colours) > 2


@pytest.mark.parametrize("side", [16, 33])
def test_a_printed_pattern_may_be_small(side: int):
    for seed in range(20):
        assert printed_picture(np.random.default_rng(seed), (side, side)).shape == (side, side, 3)


def test_anomalies_at_edges_have_a_colour_of_the_image():
    alike = []
    for seed in range(40):
        rng = np.random.default_rng(seed)
        printed = np.zeros((*SIZE, 3), np.uint8)
        printed[:, ::16], printed[:, 1::16], printed[:, 2::16] = 255, 255, 255
        after, mask = add_anomalies(rng, printed, printed, of_edges=True)
        if mask.any():
            values = after[mask > 0].astype(int)
            alike.append(np.minimum(values, 255 - values).max(axis=1).mean() < 60)
    assert np.mean(alike) > 0.5


def test_photometric_changes_keep_shape_and_type():
    for seed in range(20):
        changed = photometric(np.random.default_rng(seed), picture(seed))
        assert changed.shape == (*SIZE, 3) and changed.dtype == np.uint8


@pytest.mark.parametrize("change", [with_inclusions, with_fixture], ids=lambda change: change.__name__)
def test_inclusions_and_fixtures_change_part_of_the_image(change):
    for seed in range(20):
        before = picture(seed)
        after = change(np.random.default_rng(seed), before)
        assert after.shape == (*SIZE, 3) and after.dtype == np.uint8
        difference = np.abs(after.astype(int) - before).max(axis=2)
        assert difference.any()
        assert (difference > 14).mean() < 0.6


def test_a_fixture_is_at_the_border():
    for seed in range(20):
        before = picture(seed)
        after = with_fixture(np.random.default_rng(seed), before)
        changed = np.abs(after.astype(int) - before).max(axis=2) > 0
        assert changed[[0, -1]].any() or changed[:, [0, -1]].any()
        assert not changed[40:56, 50:78].any()
