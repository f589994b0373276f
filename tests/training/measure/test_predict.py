"""Tallies, sheets and reports of hand-made scored images, without a model."""

import copy
import threading
import tracemalloc
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from mvtec_tree import make_mvtec_tree
from one_dataset import read_dataset
from small_model import small_detector, text_embeddings

from zsad_core.data import GOOD, Sample
from zsad_training.config import ValidationSpec
from zsad_training.evaluate import draw_report
from zsad_training.measure import (
    PixelLevel,
    Scored,
    Sheets,
    Tally,
    ValidationPictures,
    evaluate_groups,
    score_pictures,
    tally_groups,
)
from zsad_training.measure.sheet import CELL, GAP, TEXT_HEIGHT, choose
from zsad_training.measure.validation import good_part_threshold
from zsad_training.run import Processes

HW = (30, 40)


def sample(defect: str = GOOD, number: int = 0, *, product: str = "plate", has_mask: bool = True) -> Sample:
    mask = Path("mask.png") if defect != GOOD and has_mask else None
    return Sample(
        dataset="drawn",
        product=product,
        split="test",
        defect=defect,
        image=Path(f"{number:03}.png"),
        place=f"{product}/{number:03}.png",
        mask=mask,
    )


def scored(one: Sample, score: float, inside: float = 0.9, outside: float = 0.1) -> Scored:
    mask = np.zeros(HW, np.uint8)
    if one.is_anomalous and one.mask is not None:
        mask[5:15, 5:25] = 1
    anomaly_map = np.where(mask > 0, inside, outside).astype(np.float32)
    return Scored(
        sample=one, image_bgr=np.full((*HW, 3), 128, np.uint8), anomaly_map=anomaly_map, mask=mask, anomaly_score=score
    )


def test_no_images_give_a_row_without_metrics():
    row = Tally().row("drawn/plate", seen=False, threshold=0.5)
    assert row.images == 0
    assert (row.image_auroc, row.pixel_ap, row.aupro, row.recall) == (None, None, None, None)


def test_each_product_has_a_row_with_its_own_metrics():
    stream = [
        scored(sample("dent", 0), 0.9),
        scored(sample(number=1), 0.2),
        scored(sample(number=2, product="bolt"), 0.7),
        scored(sample("dent", 3), 0.4),
        scored(sample(number=4), 0.5),
    ]
    bolt, plate = evaluate_groups(tally_groups(stream), seen=lambda group: group[1] == "bolt", threshold=0.5)
    assert (bolt.dataset, bolt.images, bolt.seen_in_training, bolt.image_auroc) == ("drawn/bolt", 1, True, None)
    assert bolt.false_reject_rate == 1
    assert (plate.dataset, plate.images, plate.seen_in_training) == ("drawn/plate", 4, False)
    assert plate.image_auroc == pytest.approx(0.75)
    assert (plate.pixel_auroc, plate.pixel_ap, plate.aupro) == pytest.approx((1, 1, 1))
    assert (plate.recall, plate.false_reject_rate) == (0.5, 0.5)


class OneOfTwo:
    """One of two processes that share a validation; here threads."""

    device = torch.device("cpu")
    count = 2

    def __init__(self, rank: int, met: threading.Barrier, gathered: dict[int, Any]) -> None:
        self.rank, self._met, self._gathered = rank, met, gathered

    def gather(self, own: Any) -> list[Any]:
        self._gathered[self.rank] = own
        self._met.wait(100)
        return [copy.deepcopy(self._gathered[rank]) for rank in range(self.count)]


def test_two_processes_validate_half_the_images_each_with_the_same_result(tmp_path):
    samples = read_dataset(make_mvtec_tree(tmp_path / "drawn", good=7, bad=6))
    pictures = ValidationPictures(samples, [], ValidationSpec(), input_hw=(32, 32), seed=0)
    detector, met, gathered = small_detector((32, 32)), threading.Barrier(2), {}
    alone = pictures.run(detector, text_embeddings(), processes=Processes(device=OneOfTwo.device))
    two = [OneOfTwo(rank, met, gathered) for rank in range(2)]
    with ThreadPoolExecutor(2) as threads:
        results = list(threads.map(lambda one: pictures.run(detector, text_embeddings(), processes=one), two))
    assert results[0] == results[1]
    shared = results[0]
    assert (shared.threshold, shared.false_reject_rate) == (alone.threshold, alone.false_reject_rate)
    assert (shared.criterion, shared.region_level) == pytest.approx((alone.criterion, alone.region_level), rel=1e-12)
    for row, expected in zip(shared.rows, alone.rows, strict=True):
        assert (row.dataset, row.images, row.image_auroc) == (expected.dataset, expected.images, expected.image_auroc)
        found = (row.pixel_auroc, row.pixel_ap, row.pixel_f1_max, row.aupro)
        assert found == pytest.approx(
            (expected.pixel_auroc, expected.pixel_ap, expected.pixel_f1_max, expected.aupro), rel=1e-12
        )
    parts = [evaluate_groups(gathered[rank][1], seen=lambda group: True) for rank in (0, 1)]
    assert [[row.images for row in rows] for rows in parts] == [[6], [7]]


def test_a_defective_image_without_a_mask_counts_only_in_image_metrics():
    stream = [scored(sample("dent", has_mask=False), 0.9, outside=0.8), scored(sample(number=1), 0.1)]
    (row,) = evaluate_groups(tally_groups(stream), seen=lambda group: False)
    assert (row.image_auroc, row.pixel_auroc) == (1, None)


def test_a_map_with_nan_is_named():
    with pytest.raises(ValueError, match=r"007\.png: 1200 of 1200 values of the anomaly map are NaN"):
        tally_groups([scored(sample(number=7), 0.5, outside=np.nan)])


def test_memory_does_not_grow_with_the_number_of_images():
    def stream(count: int) -> Iterator[Scored]:
        for number in range(count):
            yield scored(sample("dent" if number % 2 else GOOD, number), 0.5)

    tally_groups(stream(2))
    tracemalloc.start()
    tallies = tally_groups(stream(400))  # 2 MB of maps
    held, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert sum(len(tally.good_scores) for tally in tallies.values()) == 200
    assert held < 500_000


def test_every_group_has_equal_weight_in_the_threshold():
    threshold, rate = good_part_threshold({("a", "x"): [0.1] * 98 + [0.2, 0.3], ("b", "y"): [0.4, 0.5]}, 0.25)
    assert threshold == pytest.approx(0.4)
    assert rate == pytest.approx(0.25)  # half of the group of two is a quarter of all weight


def test_region_level_lies_between_good_and_defective_values():
    level = PixelLevel()
    for number in range(3):
        level.update(scored(sample("dent", number), 0.5, inside=0.7, outside=0.3))
    level.update(scored(sample("dent", has_mask=False), 0.5, outside=0.99))  # the place of this defect is unknown
    assert 0.3 < level.result() <= 0.7


def test_region_level_is_not_chosen_without_masks():
    level = PixelLevel()
    level.update(scored(sample("dent", has_mask=False), 0.5, outside=0.99))
    level.update(scored(sample("good", 1), 0.1, outside=0.2))
    assert level.result() == 0.5


@pytest.mark.parametrize("count", [0, 1, 3, 8])
def test_a_sheet_has_good_images_and_images_of_every_defect(count: int):
    samples = [sample(number=n) for n in range(50)] + [sample("crack", n) for n in range(9)] + [sample("dent", 1)]
    chosen = choose(samples, count)
    assert len(chosen) == len(set(chosen)) == count
    kinds = [one.defect for one in chosen]
    assert {kind: kinds.count(kind) for kind in kinds} == {
        0: {},
        1: {GOOD: 1},
        3: {GOOD: 1, "crack": 1, "dent": 1},
        8: {GOOD: 4, "crack": 3, "dent": 1},
    }[count]


def test_a_sheet_has_all_images_if_there_are_few():
    samples = [sample(number=n) for n in range(2)] + [sample("dent", n) for n in range(3)]
    assert sorted(choose(samples)) == sorted(samples)


def test_a_sheet_shows_image_mask_and_heatmap_with_defects_first():
    samples = [sample(number=1), sample("dent", 2)]
    sheets = Sheets(samples, threshold=0.5)
    for one in [*samples, sample("dent", 3)]:  # the third was not in the list of samples
        sheets.update(scored(one, 0.25, inside=1.0, outside=0.0))
    sheet = sheets.sheet(("drawn", "plate"))
    row_height = TEXT_HEIGHT + CELL * HW[0] // HW[1] + GAP
    assert sheet.shape == (TEXT_HEIGHT + 2 * row_height, GAP + 3 * (CELL + GAP), 3)
    scale = CELL / HW[1]
    top = TEXT_HEIGHT + TEXT_HEIGHT + round(10 * scale)  # a line through the defect of the first row
    picture, truth, heatmap = (
        sheet[top, GAP + column * (CELL + GAP) : GAP + column * (CELL + GAP) + CELL] for column in range(3)
    )
    assert (picture == 128).all()
    assert (truth == (0, 0, 255)).all(axis=1).sum() == 2  # it crosses the outline twice
    assert (heatmap[round(15 * scale)] != 128).any() and (heatmap[-1] == 128).all()
    assert (sheet[top + row_height, GAP : GAP + CELL] == 128).all()


@pytest.mark.parametrize("good", [0, 2], ids=["one class", "both"])
def test_a_report_has_a_sheet_and_a_plot(tmp_path, good: int):
    cv2 = pytest.importorskip("cv2")
    pytest.importorskip("matplotlib")
    samples = [sample("dent", n) for n in range(3)] + [sample(number=n) for n in range(good)]
    samples = [Sample(**(vars(one) | {"product": "plate 1/2"})) for one in samples]
    sheets = Sheets(samples)
    tallies = tally_groups([scored(one, 0.5) for one in samples], sheets.update)
    draw_report(tmp_path, tallies, sheets)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["drawn-plate_1_2-curves.png", "drawn-plate_1_2.jpg"]
    for path in tmp_path.iterdir():
        picture = cv2.imread(str(path))
        assert picture is not None and picture.std() > 1


@pytest.mark.parametrize("size", [2, 16])
def test_batches_do_not_change_the_scores(size: int):
    rng = np.random.default_rng(0)
    pictures = []
    for number in range(5):  # of several sizes, the last batch not full
        image = rng.integers(0, 256, (40 + 10 * number, 90, 3)).astype(np.uint8)
        one = sample(number=number, product="bottle" if number % 2 else "object")
        pictures.append((one, lambda image=image: (image, np.zeros(image.shape[:2], np.uint8))))
    alone, batched = (
        list(
            score_pictures(
                small_detector(), pictures, text_embeddings(), device=torch.device("cpu"), total=5, batch_size=count
            )
        )
        for count in (None, size)
    )
    assert [one.sample for one in batched] == [one for one, _ in pictures]
    for one, other in zip(alone, batched, strict=True):
        assert other.anomaly_map.shape == one.mask.shape
        assert other.anomaly_score == pytest.approx(one.anomaly_score, abs=1e-5)
        np.testing.assert_allclose(other.anomaly_map, one.anomaly_map, rtol=0, atol=1e-5)
        assert np.array_equal(other.image_bgr, one.image_bgr)
