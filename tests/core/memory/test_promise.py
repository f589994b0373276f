from math import comb

import numpy as np
import pytest

from zsad_core.memory import promise, promise_at, recall_interval


def at_most(seen: int, count: int, rate: float) -> float:
    """Exact: P(X <= seen), X binomial."""
    return sum(comb(count, hits) * rate**hits * (1 - rate) ** (count - hits) for hits in range(seen + 1))


@pytest.mark.parametrize(
    ("count", "rate", "rank"),
    [(1, 0.01, 1), (20, 0.05, 20), (19, 0.05, 19), (99, 0.01, 99), (100, 0.01, 100), (199, 0.01, 198), (39, 0.1, 36)],
)
def test_threshold_is_the_score_of_the_right_rank(count: int, rate: float, rank: int) -> None:
    scores = np.random.default_rng(0).permutation(count) + 1.0
    found = promise(scores.tolist(), rate)
    assert rank < found.threshold < rank + 0.01
    assert found.rate == pytest.approx(1 - rank / (count + 1))


@pytest.mark.parametrize(("rate", "needed"), [(0.01, 99), (0.05, 19), (0.5, 1), (0.001, 999), (0.03, 33)])
def test_needed_number_supports_the_rate_and_one_less_does_not(rate: float, needed: int) -> None:
    assert promise([1.0], rate).needed == needed
    assert promise([1.0] * needed, rate).rate <= rate + 1e-12
    if needed > 1:
        assert promise([1.0] * (needed - 1), rate).rate > rate


@pytest.mark.parametrize(("rate", "apart"), [(0.01, 1), (0.05, 3), (0.3, 0)])
def test_goods_that_are_apart_need_further_ones(rate: float, apart: int) -> None:
    needed = promise([1.0], rate, apart=apart).needed
    assert promise([1.0] * needed, rate, apart=apart).rate <= rate + 1e-12
    assert promise([1.0] * (needed - 1), rate, apart=apart).rate > rate


@pytest.mark.parametrize("count", [1, 2, 5, 16, 60, 300])
@pytest.mark.parametrize("rate", [0.01, 0.1, 0.5])
def test_bound_is_the_smallest_rate_that_the_goods_make_unlikely(count: int, rate: float) -> None:
    found = promise(list(range(count)), rate)
    above = sum(score >= found.threshold for score in range(count))
    assert at_most(above, count, found.rate_90) <= 0.1 + 1e-9
    if found.rate_90 < 1:
        assert at_most(above, count, found.rate_90 - 1e-6) > 0.1


@pytest.mark.parametrize("count", [1, 5, 60, 300])
@pytest.mark.parametrize("rate", [0.01, 0.1, 0.5])
def test_a_given_threshold_promises_what_the_found_one_does(count: int, rate: float) -> None:
    scores = np.random.default_rng(count).permutation(count).tolist()
    found = promise(scores, rate)
    kept = promise_at(scores, found.threshold)
    assert (kept.rate, kept.rate_90, kept.goods) == (pytest.approx(found.rate), found.rate_90, count)
    assert promise_at(scores, -9.0).rate == promise_at(scores, -9.0).rate_90 == 1.0
    assert promise_at(scores, 999.0).rejected == 0 and promise_at(scores, max(scores)).rejected == 1
    kept = promise_at(scores, max(scores), apart=2)
    assert (kept.rejected, kept.goods, kept.rate) == (3, len(scores) + 2, pytest.approx(4 / (len(scores) + 3)))


@pytest.mark.parametrize("scores", [[], [0.5, float("nan")]])
def test_a_threshold_without_scores_promises_nothing(scores: list[float]) -> None:
    with pytest.raises(ValueError, match="scores of good parts"):
        promise_at(scores, 0.5)


def test_other_goods_keep_the_promise_in_the_mean_and_the_bound_in_nine_of_ten_lines() -> None:
    random = np.random.default_rng(1)
    rates, bounds = [], []
    for _ in range(3000):
        found = promise(random.uniform(0, 1, 40).tolist(), 0.05)
        rates.append(1 - found.threshold)
        bounds.append(found.rate_90)
    assert np.mean(rates) <= 0.05 < 0.06
    assert np.mean(np.array(rates) <= np.array(bounds)) >= 0.88


def test_goods_that_were_left_out_as_outliers_count_as_rejected() -> None:
    odd_share = 0.05  # of good parts, far above the others
    random = np.random.default_rng(2)
    found, promised, uncounted = [], [], []
    for _ in range(3000):
        apart = int(random.binomial(16, odd_share))
        usual = random.uniform(0, 1, 16 - apart).tolist()
        kept = promise(usual, 0.01, apart=apart)
        found.append(odd_share + (1 - odd_share) * (1 - kept.threshold))
        promised.append(kept.rate)
        uncounted.append(promise(usual, 0.01).rate)
    assert np.mean(found) == pytest.approx(np.mean(promised), abs=0.005)
    assert np.mean(found) > 1.5 * np.mean(uncounted)


@pytest.mark.parametrize(("found", "total"), [(0, 5), (5, 5), (3, 10), (59, 60), (150, 300)])
def test_recall_interval_is_that_of_clopper_and_pearson(found: int, total: int) -> None:
    low, high = recall_interval(found, total)
    assert 0 <= low <= found / total <= high <= 1
    if found < total:
        assert at_most(found, total, high) == pytest.approx(0.05, abs=1e-6)
    else:
        assert high == 1
    if found > 0:
        assert 1 - at_most(found - 1, total, low) == pytest.approx(0.05, abs=1e-6)
    else:
        assert low == 0


@pytest.mark.parametrize(
    ("scores", "rate"), [([], 0.01), ([1.0, float("nan")], 0.01), ([float("inf")], 0.1), ([1.0], 0.0), ([1.0], 1.0)]
)
def test_no_promise_without_numbers(scores: list[float], rate: float) -> None:
    with pytest.raises(ValueError, match="expected"):
        promise(scores, rate)


def test_many_goods_are_no_problem() -> None:
    assert promise(list(range(100_000)), 0.01).rate_90 == pytest.approx(0.0104, abs=2e-4)
