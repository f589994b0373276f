import cv2
import numpy as np
import pytest
from mvtec_tree import make_mvtec_tree
from one_dataset import read_dataset

from zsad_core.errors import DatasetError


def test_samples_of_a_whole_tree(tmp_path):
    samples = read_dataset(make_mvtec_tree(tmp_path / "drawn", good=4, bad=3))
    assert [(s.dataset, s.product) for s in samples] == [("drawn", "plate")] * 7
    assert sum(s.is_anomalous for s in samples) == 3
    assert sum(s.split == "train" for s in samples) == 2
    for sample in samples:
        image, mask = sample.load()
        assert mask.shape == image.shape[:2]
        assert mask.any() == sample.is_anomalous
        assert set(np.unique(mask)) <= {0, 1}


def test_the_root_may_be_the_category_itself(tmp_path):
    root = make_mvtec_tree(tmp_path / "drawn", good=2, bad=1)
    assert read_dataset(root / "plate") == read_dataset(root)


def test_a_missing_folder_and_an_unknown_layout_have_different_errors(tmp_path):
    with pytest.raises(DatasetError, match="no such folder"):
        read_dataset(tmp_path / "none")
    with pytest.raises(DatasetError, match="no known layout here"):
        read_dataset(tmp_path)


def test_every_missing_mask_is_named(tmp_path):
    root = make_mvtec_tree(tmp_path / "drawn", bad=3)
    for name in ("000", "002"):
        (root / "plate/ground_truth/blot" / f"{name}_mask.png").unlink()
    with pytest.raises(DatasetError) as caught:
        read_dataset(root)
    assert [line.split(": no mask")[0][-7:] for line in str(caught.value).splitlines()] == ["000.png", "002.png"]


def test_a_defect_folder_without_masks_has_no_pixel_truth(tmp_path):
    root = make_mvtec_tree(tmp_path / "drawn", good=2, bad=2)
    for mask in (root / "plate/ground_truth/blot").iterdir():
        mask.unlink()
    (root / "plate/ground_truth/blot").rmdir()
    bad = [sample for sample in read_dataset(root) if sample.is_anomalous]
    assert [sample.has_pixel_truth for sample in bad] == [False, False]


def test_a_mask_of_another_size_and_a_broken_image_are_named(tmp_path):
    root = make_mvtec_tree(tmp_path / "drawn", good=2, bad=2)
    cv2.imwrite(str(root / "plate/ground_truth/blot/000_mask.png"), np.zeros((5, 6), np.uint8))
    (root / "plate/test/blot/001.png").write_bytes(b"no picture")
    first, second = [sample for sample in read_dataset(root) if sample.is_anomalous]
    with pytest.raises(DatasetError, match=r"000_mask\.png: the mask is 6x5, its picture 96x72"):
        first.load()
    with pytest.raises(DatasetError, match=r"001\.png"):
        second.load()
