"""Scores that leave those of the goods: a slow rise, a sudden change, and a line that stays as it was."""

import numpy as np
import pytest

from zsad_agent.learning import DriftWatch


def line(seed: int, shift: float = 0.0, count: int = 20_000, spread: float = 0.04) -> np.ndarray:
    return np.clip(np.random.default_rng(seed).normal(0.25 + shift, spread, count), 0, 0.99)


@pytest.fixture
def watch() -> DriftWatch:
    return DriftWatch(line(0, count=60).tolist())


@pytest.mark.parametrize("seed", range(1, 6))
def test_a_line_without_drift_has_no_fault_for_a_day(watch: DriftWatch, seed: int) -> None:
    for score in line(seed):
        watch.add(score, accepted=True)
        assert watch.fault is None


def test_a_slow_rise_is_named_with_figures_before_half_the_parts_are_rejected(watch: DriftWatch) -> None:
    found = None
    for number, score in enumerate(line(1, count=3000)):
        watch.add(score + 0.00005 * number, accepted=bool(score + 0.00005 * number < 0.5))
        if (found := watch.fault) is not None:
            break
    assert found is not None and found.startswith("drift") and "teach the product again" in found
    assert number < 2500


def test_a_sudden_change_is_an_alarm_within_twenty_parts_and_ends_with_it(watch: DriftWatch) -> None:
    for score in line(1, count=100):
        watch.add(score, accepted=True)
    for score in line(2, shift=0.3, count=20):
        watch.add(score, accepted=False)
    assert watch.fault is not None and watch.fault.startswith("sudden change")
    for score in line(3, count=20):
        watch.add(score, accepted=True)
    assert watch.fault is None


def test_single_bad_parts_are_no_drift(watch: DriftWatch) -> None:
    for number, score in enumerate(line(1, count=2000)):
        is_bad = number % 8 == 0
        watch.add(0.9 if is_bad else score, accepted=not is_bad)
        assert watch.fault is None


def test_stats_show_both_distributions_and_the_overrides(watch: DriftWatch) -> None:
    assert watch.stats.accepted_p50 is None
    for score in line(1, shift=0.1, count=600):
        watch.add(score, accepted=True)
    watch.add(0.8, accepted=False)
    watch.override()
    stats = watch.stats
    assert stats.accepted_p50 == pytest.approx(0.35, abs=0.02) and stats.goods_p50 == pytest.approx(0.25, abs=0.02)
    assert (stats.rejects, stats.overridden) == (1, 1)


def test_too_few_goods_say_nothing() -> None:
    watch = DriftWatch([0.1, 0.2])
    for _ in range(100):
        watch.add(0.9, accepted=False)
    assert watch.fault is None
