"""Compares the streamed pixel metrics with scikit-learn and with simple loops."""

import pickle
from itertools import pairwise

import cv2
import numpy as np
import pytest

from zsad_core.judging import PixelMetrics
from zsad_core.judging.pixel_metrics import _bins

HW = (40, 48)
Pictures = list[tuple[np.ndarray, np.ndarray]]  # map float32 [H, W], mask uint8 [H, W]


def streamed(pictures: Pictures) -> PixelMetrics:
    metrics = PixelMetrics()
    for anomaly_map, mask in pictures:
        metrics.update(anomaly_map, mask)
    return metrics


def naive_aupro(pictures: Pictures, limit: float = 0.3) -> float:
    """AUPRO with every distinct value as a threshold, one region at a time, and straight lines between the points."""
    good = np.concatenate([one[mask == 0] for one, mask in pictures])
    regions = []
    for one, mask in pictures:
        count, labels = cv2.connectedComponents(mask, connectivity=8)
        regions += [one[labels == label] for label in range(1, count)]
    points = [(0.0, 0.0)]
    for threshold in np.unique(np.concatenate([one.ravel() for one, _ in pictures]))[::-1]:
        overlaps = [np.count_nonzero(region >= threshold) / region.size for region in regions]
        points.append((np.count_nonzero(good >= threshold) / good.size, sum(overlaps) / len(overlaps)))
    area = 0.0
    for (x0, y0), (x1, y1) in pairwise(points):
        if x1 > limit:
            y_at_limit = y0 + (y1 - y0) * (limit - x0) / (x1 - x0)
            return (area + (limit - x0) * (y0 + y_at_limit) / 2) / limit
        area += (x1 - x0) * (y0 + y1) / 2
    raise AssertionError("the last threshold finds every pixel")


def draw_mask(rng: np.random.Generator) -> np.ndarray:
    mask = np.zeros(HW, np.uint8)
    mask[5:12, 6:20] = 1
    mask[25:28, 30:33] = 255
    mask[rng.integers(30, 40), rng.integers(0, 20)] = 1  # a single pixel
    mask[15, 30], mask[16, 31] = 1, 1  # joined at a corner
    return mask


def draw(kind: str, count: int = 3) -> Pictures:
    """Images with maps of one kind: some with defects, and one good image."""
    rng = np.random.default_rng(7)
    pictures = []
    for index in range(count + 1):
        mask = draw_mask(rng) if index < count else np.zeros(HW, np.uint8)
        signal = rng.normal(0, 1, HW) + 1.5 * (mask > 0)
        anomaly_map = {
            "logistic": lambda x: 1 / (1 + np.exp(-x)),
            "ties": lambda x: np.round(x * 2).clip(-3, 5) / 8,
            "two values": lambda x: x > 1,
            "tiny": lambda x: 1e-7 * (1 + 0.1 * x.clip(-5, 5)),
            "log-uniform": lambda x: 10.0 ** (-9 + 2 * x.clip(-4, 4)),
            "saturated": lambda x: 1 / (1 + np.exp(-6 - 2 * x)),
            "negative": lambda x: 3 * x - 20,
            "large": lambda x: 1e30 * x,
            "all zero": np.zeros_like,
            "constant": lambda x: np.full_like(x, 0.3),
        }[kind](signal)
        pictures.append((anomaly_map.astype(np.float32), mask))
    return pictures


KINDS = (
    *("all zero", "constant", "two values", "ties", "tiny", "log-uniform"),
    *("saturated", "logistic", "negative", "large"),
)


@pytest.mark.parametrize("kind", KINDS)
def test_agrees_with_scikit_learn(kind: str):
    sklearn = pytest.importorskip("sklearn.metrics")
    pictures = draw(kind)
    values = np.concatenate([one.ravel() for one, _ in pictures])
    labels = np.concatenate([mask.ravel() > 0 for _, mask in pictures])
    precision, recall, _ = sklearn.precision_recall_curve(labels, values)
    f1 = 2 * precision * recall / np.maximum(precision + recall, 1e-12)
    ours = streamed(pictures).result()
    assert ours is not None
    assert ours.auroc == pytest.approx(sklearn.roc_auc_score(labels, values), abs=1e-3)
    assert ours.ap == pytest.approx(sklearn.average_precision_score(labels, values), abs=1e-3)
    assert ours.f1_max == pytest.approx(f1.max(), abs=1e-3)


@pytest.mark.parametrize("kind", KINDS)
def test_aupro_agrees_with_the_naive_loop(kind: str):
    pictures = draw(kind, count=2)
    ours = streamed(pictures).result()
    assert ours is not None
    assert ours.aupro == pytest.approx(naive_aupro(pictures), abs=1e-3)


def test_hand_computed_aupro():
    # 11 good pixels and two regions: one pixel, which is found first, and two pixels, of which one is found last.
    mask = np.array([[1, 0, 0, 1, 1, 0, 0], [0] * 7], np.uint8)
    anomaly_map = np.array([[0.9, 0.5, 0, 0.6, 0, 0, 0], [0] * 7], np.float32)
    ours = streamed([(anomaly_map, mask)]).result()
    assert ours is not None
    # Points (rate, overlap): (0, 1/2), (0, 3/4), (1/11, 3/4), (1, 1); the limit is on the last line.
    at_limit = 0.75 + 0.25 * (0.3 - 1 / 11) / (10 / 11)
    assert ours.aupro == pytest.approx((0.75 / 11 + (0.3 - 1 / 11) * (0.75 + at_limit) / 2) / 0.3)


def test_regions_have_equal_weight_regardless_of_area():
    mask = np.zeros(HW, np.uint8)
    mask[2:22, 2:22] = 1
    mask[30, 30] = 1
    found_large, found_small = np.zeros(HW, np.float32), np.zeros(HW, np.float32)
    found_large[2:22, 2:22] = 1
    found_small[30, 30] = 1
    large, small = (streamed([(one, mask)]).result() for one in (found_large, found_small))
    assert large is not None and small is not None
    assert large.aupro == pytest.approx(small.aupro)


def test_a_perfect_map_has_metrics_of_one():
    mask = draw_mask(np.random.default_rng(0))
    ours = streamed([((mask > 0).astype(np.float32), mask)]).result()
    assert ours is not None
    assert (ours.auroc, ours.ap, ours.f1_max, ours.aupro) == pytest.approx((1, 1, 1, 1))


def test_there_are_no_metrics_without_a_defect_or_a_good_pixel():
    value = np.full(HW, 0.5, np.float32)
    assert PixelMetrics().result() is None
    assert streamed([(value, np.zeros(HW, np.uint8))]).result() is None
    assert streamed([(value, np.ones(HW, np.uint8))]).result() is None


@pytest.mark.parametrize("kind", ["logistic", "negative", "ties"])
def test_the_order_of_images_does_not_change_the_result(kind: str):
    pictures = draw(kind, count=5)
    forwards, backwards = streamed(pictures).result(), streamed(pictures[::-1]).result()
    assert forwards is not None and backwards is not None
    assert vars(backwards) == pytest.approx(vars(forwards), abs=1e-12)


@pytest.mark.parametrize("broken", [np.nan, np.inf, -np.inf])
def test_a_nan_or_infinite_value_is_refused_and_its_image_not_counted(broken: float):
    metrics = streamed(draw("logistic"))
    before = metrics.result()
    anomaly_map = np.full(HW, 0.99, np.float32)
    anomaly_map[3, 4] = broken
    with pytest.raises(ValueError, match=f"1 of {HW[0] * HW[1]} values of the anomaly map are NaN or infinite"):
        metrics.update(anomaly_map, np.zeros(HW, np.uint8))
    assert metrics.result() == before


def test_a_mask_of_another_size_is_refused():
    with pytest.raises(ValueError, match=r"\(40, 48\) and \(48, 40\)"):
        PixelMetrics().update(np.zeros(HW, np.float32), np.zeros(HW[::-1], np.uint8))


def test_bins_keep_the_order_of_every_float32():
    rng = np.random.default_rng(0)
    bits = rng.integers(0, 2**32, 200_000, dtype=np.uint32)
    near = np.concatenate([np.float32(centre) + rng.normal(0, 1e-3, 20_000) for centre in (0.5, 1, 2)])
    edges = [0.0, -0.0, 0.5, 1.0, np.nextafter(np.float32(0.5), np.float32(0)), 1 - 2**-24, 1 + 2**-23]
    values = np.concatenate([bits.view(np.float32), near.astype(np.float32), np.array(edges, np.float32)])
    values = np.sort(values[np.isfinite(values)])
    assert (np.diff(_bins(values)) >= 0).all()


@pytest.mark.parametrize("value", [1e-30, 1e-7, 0.01, 0.3, 1.0, 5.0, -0.2])
def test_values_a_thousandth_apart_have_different_bins(value: float):
    low, high = sorted([value, value * 1.001])
    first, second = _bins(np.array([low, high], np.float32))
    assert first < second


@pytest.mark.parametrize("gap", [1e-3, 1e-5, 6e-8])
def test_values_next_to_one_have_different_bins(gap: float):
    first, second, one = _bins(np.array([1 - 2 * gap, 1 - gap, 1], np.float32))
    assert first < second < one


def test_memory_does_not_grow_with_the_number_of_images():
    rng = np.random.default_rng(0)
    metrics = PixelMetrics()
    for _ in range(3):
        metrics.update(np.array([[0, 1e-38, 0.5, 1]], np.float32), np.array([[0, 1, 0, 1]], np.uint8))
    size = len(pickle.dumps(metrics))
    for _ in range(30):
        metrics.update(rng.random(HW, dtype=np.float32), draw_mask(rng))
    assert len(pickle.dumps(metrics)) == size < 8_000_000
