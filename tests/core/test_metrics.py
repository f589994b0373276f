import numpy as np
import pytest

from zsad_core.metrics import AUPRO_MAX_FPR, aupro, binary_metrics


def naive_aupro(maps: list[np.ndarray], masks: list[np.ndarray], good: np.ndarray) -> float:
    """Every distinct value as a threshold, regions one by one, trapezoids up to the limit."""
    import cv2

    values = np.unique(np.concatenate([*[one.ravel() for one in maps], good.ravel()]))
    points = [(0.0, 0.0)]
    for threshold in values[::-1]:
        overlaps = []
        for one, mask in zip(maps, masks, strict=True):
            count, labels = cv2.connectedComponents(mask, connectivity=8)
            overlaps += [float((one[labels == label] >= threshold).mean()) for label in range(1, count)]
        points.append((float((good >= threshold).mean()), float(np.mean(overlaps))))
    x, y = np.array(points).T
    grid = np.linspace(0, AUPRO_MAX_FPR, 20001)
    return float(np.trapezoid(np.interp(grid, x, y), grid) / AUPRO_MAX_FPR)


def test_an_empty_class_has_no_metrics():
    assert binary_metrics(np.array([]), np.array([1.0])) is None
    assert binary_metrics(np.array([1.0]), np.array([])) is None
    assert aupro([], [], np.array([0.1])) is None


def test_hand_computed_case():
    metrics = binary_metrics(np.array([0.9, 0.4]), np.array([0.5, 0.1]))
    assert metrics is not None
    assert metrics.auroc == pytest.approx(0.75)  # 3 of 4 pairs are ordered right
    assert metrics.ap == pytest.approx(0.5 * 1 + 0.5 * 2 / 3)
    assert metrics.f1_max == pytest.approx(0.8)  # both found, one false


@pytest.mark.parametrize("levels", [3, 50, 100_000], ids=["many ties", "some ties", "no ties"])
def test_agrees_with_scikit_learn(levels: int):
    sklearn = pytest.importorskip("sklearn.metrics")
    rng = np.random.default_rng(levels)
    labels = rng.random(4000) < 0.05
    scores = np.round((rng.normal(0, 1, 4000) + labels) * levels / 5) / levels
    ours = binary_metrics(scores[labels], scores[~labels])
    precision, recall, _ = sklearn.precision_recall_curve(labels, scores)
    f1 = 2 * precision * recall / np.maximum(precision + recall, 1e-12)
    assert ours is not None
    assert ours.auroc == pytest.approx(sklearn.roc_auc_score(labels, scores), abs=1e-9)
    assert ours.ap == pytest.approx(sklearn.average_precision_score(labels, scores), abs=1e-9)
    assert ours.f1_max == pytest.approx(f1.max(), abs=1e-9)


@pytest.mark.parametrize("signal", [0.0, 1.0, 6.0], ids=["chance", "weak", "strong"])
def test_aupro_agrees_with_the_naive_loop(signal: float):
    rng = np.random.default_rng(3)
    maps, masks = [], []
    for _ in range(4):
        mask = np.zeros((40, 48), np.uint8)
        mask[5:12, 6:20] = 1
        mask[25:28, 30:33] = 1
        maps.append((rng.normal(0, 1, mask.shape) + signal * mask).astype(np.float32))
        masks.append(mask)
    good = np.concatenate([one[mask == 0] for one, mask in zip(maps, masks, strict=True)])
    assert aupro(maps, masks, good) == pytest.approx(naive_aupro(maps, masks, good), abs=2e-3)


def test_a_perfect_map_has_an_aupro_of_one():
    mask = np.zeros((32, 32), np.uint8)
    mask[4:9, 4:9] = 1
    assert aupro([mask.astype(np.float32)], [mask], np.zeros(5000, np.float32)) == pytest.approx(1.0)
