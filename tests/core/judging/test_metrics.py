import numpy as np
import pytest

from zsad_core.judging import curve_of_scores


def test_an_empty_class_has_no_metrics():
    assert curve_of_scores(np.array([]), np.array([1.0])) is None
    assert curve_of_scores(np.array([1.0]), np.array([])) is None


def test_a_nan_score_is_refused():
    with pytest.raises(ValueError, match="1 of 3 scores are NaN"):
        curve_of_scores(np.array([0.2, np.nan]), np.array([0.1]))


def test_hand_computed_case():
    curve = curve_of_scores(np.array([0.9, 0.4]), np.array([0.5, 0.1]))
    assert curve is not None
    metrics = curve.metrics()
    assert metrics.auroc == pytest.approx(0.75)  # 3 of 4 pairs are in the correct order
    assert metrics.ap == pytest.approx(0.5 * 1 + 0.5 * 2 / 3)
    assert metrics.f1_max == pytest.approx(0.8)  # both found, one false


def test_curve_starts_at_the_highest_score():
    curve = curve_of_scores(np.array([0.9, 0.4]), np.array([0.5, 0.4]))
    assert curve is not None
    assert curve.true_positives.tolist() == [1, 1, 2]
    assert curve.false_positives.tolist() == [0, 1, 2]
    assert curve.precision.tolist() == [1, 0.5, 0.5]


@pytest.mark.parametrize("levels", [3, 50, 100_000], ids=["many ties", "some ties", "no ties"])
def test_agrees_with_scikit_learn(levels: int):
    sklearn = pytest.importorskip("sklearn.metrics")
    rng = np.random.default_rng(levels)
    labels = rng.random(4000) < 0.05
    scores = np.round((rng.normal(0, 1, 4000) + labels) * levels / 5) / levels
    curve = curve_of_scores(scores[labels], scores[~labels])
    assert curve is not None
    ours = curve.metrics()
    precision, recall, _ = sklearn.precision_recall_curve(labels, scores)
    f1 = 2 * precision * recall / np.maximum(precision + recall, 1e-12)
    assert ours.auroc == pytest.approx(sklearn.roc_auc_score(labels, scores), abs=1e-9)
    assert ours.ap == pytest.approx(sklearn.average_precision_score(labels, scores), abs=1e-9)
    assert ours.f1_max == pytest.approx(f1.max(), abs=1e-9)
