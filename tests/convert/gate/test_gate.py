"""The gate on labelled images: the images that it reads, and the losses that it refuses."""

import shutil
from pathlib import Path

import cv2
import numpy as np
import pytest

torch = pytest.importorskip("torch")

from mvtec_tree import make_mvtec_tree

from zsad_convert.gate import Metrics, labelled_pictures
from zsad_convert.gate.gate import gate_faults
from zsad_core.bundle import Gate, GateRow
from zsad_core.data import GOOD, Sample, is_mask
from zsad_core.errors import DatasetError


@pytest.fixture
def data(tmp_path):
    return make_mvtec_tree(tmp_path / "drawn", good=8, bad=6)


def test_good_and_defective_images_are_found_with_their_masks(data):
    for root in (data, data / "plate"):
        found = labelled_pictures(root, 100)
        assert [one.is_anomalous for one in found] == [False] * 4 + [True] * 6
        image, mask = found[-1].load()
        assert image.shape[:2] == mask.shape and mask.max() == 1
        assert not found[0].load()[1].any()


def test_at_most_the_given_number_is_read_and_half_are_good(data):
    found = labelled_pictures(data, 4)
    assert [one.is_anomalous for one in found] == [False, False, True, True]


def test_a_folder_without_a_data_set_is_an_error(data, tmp_path):
    with pytest.raises(DatasetError, match="no such folder"):
        labelled_pictures(tmp_path / "none", 10)
    with pytest.raises(DatasetError, match="no mvtec_ad layout here"):
        labelled_pictures(data / "plate" / "test", 10)
    shutil.rmtree(data / "plate" / "test" / "good")
    with pytest.raises(DatasetError, match="plate has no good test pictures"):
        labelled_pictures(data, 10)


def test_missing_masks_and_masks_of_another_size_are_named(data):
    masks = data / "plate" / "ground_truth" / "blot"
    cv2.imwrite(str(masks / "000_mask.png"), np.zeros((3, 5), np.uint8))
    with pytest.raises(DatasetError, match=r"000_mask\.png: the mask is 5x3, its picture 96x72"):
        labelled_pictures(data, 100)[4].load()
    (masks / "000_mask.png").unlink()
    with pytest.raises(DatasetError, match=r"000\.png: no mask"):
        labelled_pictures(data, 100)
    shutil.rmtree(masks)
    assert not any(one.has_pixel_truth for one in labelled_pictures(data, 100) if one.is_anomalous)


def test_metrics_are_means_over_categories():
    metrics, mask = Metrics(), np.array([[1, 0]], np.uint8)
    for category, score in (("a", 0.9), ("b", 0.1)):  # the defective image; the good one has 0.5
        for is_anomalous in (True, False):
            one = Sample(
                dataset="drawn",
                product=category,
                split="test",
                defect="blot" if is_anomalous else GOOD,
                image=Path("0.png"),
                place="0.png",
                mask=None,
            )
            metrics.update(one, mask * 0, np.zeros((1, 2), np.float32), score if is_anomalous else 0.5)
    assert metrics.image_auroc() == 0.5
    assert metrics.pixel_ap() is None
    assert sorted(metrics.score_of_each()) == [0.1, 0.5, 0.5, 0.9]


def row(**changes) -> GateRow:
    same = {"image_auroc_torch": 0.9, "image_auroc_ir": 0.9, "pixel_ap_torch": 0.4, "pixel_ap_ir": 0.4}
    return GateRow(dataset="drawn", images=9, changed_verdicts=0, **same | changes)


@pytest.mark.parametrize(
    ("changes", "fault"),
    [
        ({}, None),
        ({"image_auroc_ir": 0.896, "pixel_ap_ir": 0.385}, None),
        ({"pixel_ap_torch": None, "pixel_ap_ir": None}, None),
        ({"image_auroc_ir": 0.894}, "image AUROC 0.8940, in torch 0.9000"),
        ({"image_auroc_ir": 0.906}, "image AUROC 0.9060, in torch 0.9000"),  # a higher value also shows another model
        ({"pixel_ap_ir": 0.379}, "pixel AP 0.3790, in torch 0.4000"),
    ],
)
def test_a_difference_above_its_tolerance_is_a_fault(changes, fault):
    gate = Gate(image_auroc_tolerance=0.005, pixel_ap_tolerance=0.05, rows=(row(), row(**changes)))
    faults = gate_faults(gate)
    assert (faults == []) if fault is None else (len(faults) == 1 and fault in faults[0])


@pytest.mark.parametrize(
    ("place", "is_one"),
    [
        ("candle/Data/Masks/Anomaly/000.png", True),
        ("candle/Data/Images/Anomaly/000.png", False),
        ("plate/ground_truth_xor/hole/000_mask.png", True),
        ("Ground Truth/1.tif", True),
        ("masks/1.png", True),
        ("unmasked/1.png", False),
        ("test/good/masks.png", False),
    ],
)
def test_a_mask_is_recognised_by_its_folder(place, is_one):
    assert is_mask(Path(place)) is is_one
