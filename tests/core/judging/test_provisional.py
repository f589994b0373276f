"""The threshold of a product that was not taught, from unlabelled frames."""

import numpy as np
import pytest

from zsad_core.judging import provisional_threshold

BUNDLE = 0.2
LOGIT = float(np.log(BUNDLE / (1 - BUNDLE)))
HIGHEST, LOWEST = (1 / (1 + np.exp(-(LOGIT + away))) for away in (1.5, -3.0))


def scores(middle: float, count: int, seed: int, *, spread: float = 0.4) -> np.ndarray:
    """Scores whose logits are normal around that of the bundle's threshold plus `middle`."""
    return 1 / (1 + np.exp(-(LOGIT + middle + spread * np.random.default_rng(seed).standard_normal(count))))


def threshold(values: np.ndarray) -> float:
    found = provisional_threshold(values.tolist(), BUNDLE)
    assert found is not None and found.frames == (values < HIGHEST).sum()
    return found.threshold


def test_hand_computed() -> None:
    logits = LOGIT - 2 + 0.1 * np.arange(19)  # median -1.1; the second highest is -0.3
    values = 1 / (1 + np.exp(-logits))
    deviation = 1.4826 * 0.5
    assert -1.1 + 2.5 * deviation > -0.3  # the limit does not act
    expected = LOGIT - 0.3 + 0.25 * 0.3
    assert threshold(values) == pytest.approx(1 / (1 + np.exp(-expected)))


@pytest.mark.parametrize("count", [0, 1, 8])
def test_few_frames_give_none(count: int) -> None:
    assert provisional_threshold(scores(-2, count, 0).tolist(), BUNDLE) is None


def test_nan_and_evident_defects_do_not_count() -> None:
    goods = scores(-2, 20, 0).tolist()
    assert provisional_threshold([*goods, float("nan"), 0.99, 0.6], BUNDLE) == provisional_threshold(goods, BUNDLE)
    assert provisional_threshold([0.99] * 200, BUNDLE) is None


@pytest.mark.parametrize("middle", [-3.0, -1.5, 0.3])  # the bundle's threshold finds few, some, or rejects most
def test_rejects_few_good_parts_wherever_their_scores_are(middle: float) -> None:
    rejected, found = [], []
    for seed in range(100):
        limit = threshold(scores(middle, 50, seed))
        rejected.append((scores(middle, 200, 1000 + seed) >= limit).mean())
        found.append((scores(middle + 3, 200, 2000 + seed) >= limit).mean())
    assert np.mean(rejected) <= 0.11 and np.mean(found) >= 0.95


@pytest.mark.parametrize("share", [0.02, 0.1, 0.2])
def test_defects_among_the_frames_do_not_hide_others(share: float) -> None:
    found = []
    for seed in range(50):
        bad = round(share * 50)
        frames = np.concatenate([scores(1, bad, seed), scores(-2, 50 - bad, 100 + seed)])  # defects first
        found.append((scores(1, 200, 1000 + seed) >= threshold(frames)).mean())
    assert np.mean(found) > 0.95


@pytest.mark.parametrize("share", [0.2, 0.5, 0.8])
def test_defects_among_lower_good_parts_never_raise_the_bundles_threshold(share: float) -> None:
    for seed in range(50):
        bad = round(share * 100)
        frames = np.concatenate([scores(1, bad, seed), scores(-2.5, 100 - bad, 100 + seed)])
        assert threshold(frames) <= BUNDLE + 1e-9


@pytest.mark.parametrize(("count", "rises"), [(9, False), (29, False), (30, True)])
def test_stream_that_starts_with_defects_does_not_raise_it_soon(count: int, rises: bool) -> None:
    assert (threshold(scores(0.5, count, 0)) > BUNDLE + 1e-9) is rises


@pytest.mark.parametrize("value", [0.0, 1e-9, 0.05, 0.2, 0.49])
def test_constant_scene_is_passed_and_bounds_hold(value: float) -> None:
    limit = threshold(np.full(200, value))
    assert limit > value and LOWEST - 1e-9 <= limit <= HIGHEST + 1e-9


def test_an_attack_never_lets_an_evident_defect_pass() -> None:
    """Frames of which each is as high as can enter; and random ones."""
    assert threshold(np.full(200, HIGHEST - 1e-6)) <= HIGHEST
    random = np.random.default_rng(0)
    for _ in range(200):
        values = random.random(int(random.integers(9, 200))) ** random.uniform(0.1, 5)
        found = provisional_threshold(values.tolist(), BUNDLE)
        assert found is None or LOWEST - 1e-9 <= found.threshold <= HIGHEST + 1e-9


@pytest.mark.parametrize("bundle", [0.0, 1e-6, 0.5, 1.0])
def test_any_threshold_of_a_bundle_gives_a_valid_one(bundle: float) -> None:
    found = provisional_threshold(scores(-2, 50, 0).tolist(), bundle)
    assert found is None or 0 <= found.threshold <= 1
