"""Faults in the trees of data sets and in their files."""

import re
from pathlib import Path

import cv2
import numpy as np
import pytest

pytest.importorskip("torch")

from layout_trees import BLANK, LOCO_FILES, PICTURE, SPOT, make, mvtec_tree
from one_dataset import read_dataset

from zsad_core.data.reader import MAX_FAULTS_SHOWN
from zsad_core.errors import DatasetError
from zsad_training.config import DatasetSpec
from zsad_training.pictures import read_datasets


def two_parts(root: Path) -> Path:
    """Two images with a defect, 000 and 001, and a good one."""
    extra = {"bottle/test/hole/001.png": PICTURE, "bottle/ground_truth/hole/001_mask.png": SPOT}
    return make(root, mvtec_tree("bottle") | extra)


def faults_of(*roots: Path, check: bool = True) -> list[str]:
    with pytest.raises(DatasetError) as caught:
        read_datasets([DatasetSpec(path=root) for root in roots], check=check)
    return str(caught.value).splitlines()


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("", r"1cls\.csv:1: no column object, split, label, image, mask; found nothing"),
        ("object,split,label,image\n", r"1cls\.csv:1: no column mask"),
        ("object,split,label,image,mask\nx,train,normal\n", r"1cls\.csv:2: 3 values for 5 columns"),
        ("object,split,label,image,mask\nx,dev,normal,a,\n", r"1cls\.csv:2: split is 'dev', expected train or test"),
        ("object,split,label,image,mask\nx,test,odd,a,\n", r"1cls\.csv:2: label is 'odd'"),
        ("object,split,label,image,mask\nx,test,normal,a.png,\n", r"a\.png: no such picture, but .*1cls\.csv lists it"),
        ("object,split,label,image,mask\nx,test,anomaly,b.png,\n", r"b\.png: no mask is listed in .*1cls\.csv"),
        ("object,split,label,image,mask\nx,test,anomaly,b.png,m.png\n", r"b\.png: no mask: expected .*m\.png"),
    ],
)
def test_an_invalid_csv_is_named_with_its_line(text, complaint, tmp_path):
    root = make(tmp_path / "set", {"split_csv/1cls.csv": text, "b.png": PICTURE})
    lines = faults_of(root)
    assert len(lines) == 1
    assert re.search(complaint, lines[0])


@pytest.mark.parametrize("text", ["", "[]", '{"meta": {"prefix": "x/"}}', '{"meta": {}, "train": [], "test": []}'])
def test_an_invalid_json_is_named(text, tmp_path):
    root = make(tmp_path / "set", {"realiad_jsons/x.json": text, "realiad_1024/x/1.jpg": PICTURE})
    with pytest.raises(DatasetError, match=r"x\.json: not a Real-IAD listing"):
        read_dataset(root)


def test_a_whole_tree_has_no_faults(tmp_path):
    assert len(read_datasets([DatasetSpec(path=two_parts(tmp_path / "set"))])) == 4


def test_every_kind_of_broken_file_is_named_in_one_error(tmp_path):
    root = two_parts(tmp_path / "set")
    picture = root / "bottle/test/hole"
    mask = root / "bottle/ground_truth/hole"
    (mask / "000_mask.png").unlink()
    cv2.imwrite(str(mask / "001_mask.png"), np.full((5, 6), 255, np.uint8))
    cv2.imwrite(str(picture / "002.png"), PICTURE)
    cv2.imwrite(str(mask / "002_mask.png"), BLANK)
    cv2.imwrite(str(picture / "003.png"), PICTURE)
    (mask / "003_mask.png").write_bytes(b"no picture")
    noise = np.random.default_rng(0).integers(0, 255, (64, 64, 3), np.uint8)
    cv2.imwrite(str(root / "bottle/test/good/001.jpg"), noise)
    whole = (root / "bottle/test/good/001.jpg").read_bytes()
    (root / "bottle/test/good/001.jpg").write_bytes(whole[: len(whole) // 2])
    (root / "bottle/test/good/002.png").write_bytes(b"")
    (root / "bottle/test/dent").mkdir()
    lines = faults_of(root)
    assert len(lines) == 7
    for path, complaint in [
        ("test/hole/000.png", "no mask: expected"),
        ("ground_truth/hole/001_mask.png", "the mask is 6x5, its picture 24x16"),
        ("ground_truth/hole/002_mask.png", "the mask is empty"),
        ("ground_truth/hole/003_mask.png", "not an image"),
        ("test/good/001.jpg", "truncated"),
        ("test/good/002.png", "the file is empty"),
        ("test/dent", "no pictures"),
    ]:
        assert [line for line in lines if line.startswith(f"{root}/bottle/{path}:") and complaint in line], path


def test_faults_of_several_sets_are_in_one_error(tmp_path):
    first, second = two_parts(tmp_path / "first"), two_parts(tmp_path / "second")
    (first / "bottle/ground_truth/hole/000_mask.png").unlink()
    (second / "bottle/test/hole/001.png").write_bytes(b"no picture")
    lines = faults_of(first, second, tmp_path / "third")
    assert [line.split(":")[0] for line in lines] == [
        f"{first}/bottle/test/hole/000.png",
        f"{tmp_path / 'third'}",
        f"{second}/bottle/test/hole/001.png",
    ]


def test_without_the_check_only_the_tree_is_checked(tmp_path):
    root = two_parts(tmp_path / "set")
    (root / "bottle/test/hole/001.png").write_bytes(b"no picture")
    assert len(read_datasets([DatasetSpec(path=root)], check=False)) == 4
    (root / "bottle/ground_truth/hole/000_mask.png").unlink()
    assert ["no mask" in line for line in faults_of(root, check=False)] == [True]


def test_only_the_requested_split_is_checked(tmp_path):
    root = two_parts(tmp_path / "set")
    (root / "bottle/train/good/000.png").write_bytes(b"no picture")
    assert len(read_datasets([DatasetSpec(path=root)], split="test")) == 3
    assert ["train/good/000.png" in line for line in faults_of(root)] == [True]


def test_of_many_faults_the_first_are_shown_and_the_rest_counted(tmp_path):
    count = MAX_FAULTS_SHOWN + 3
    root = make(tmp_path / "set", mvtec_tree("bottle"))
    for index in range(count):
        (root / f"bottle/test/good/x{index:02}.png").write_bytes(b"no picture")
    lines = faults_of(root)
    assert len(lines) == MAX_FAULTS_SHOWN + 1
    assert lines[-1] == "… and 3 more"


def test_a_category_without_test_images_is_named(tmp_path):
    root = make(tmp_path / "set", mvtec_tree("bottle") | {"cable/train/good/0.png": PICTURE})
    (root / "cable/test").mkdir()
    assert faults_of(root) == [f"{root}/cable: no test pictures"]


def test_each_part_of_a_mask_is_checked(tmp_path):
    root = make(tmp_path / "set", LOCO_FILES)
    part = root / "pushpins/ground_truth/logical_anomalies/000/001.png"
    cv2.imwrite(str(part), np.full((4, 4), 255, np.uint8))
    assert faults_of(root) == [f"{part}: the mask is 4x4, its picture 24x16"]
    for file in part.parent.iterdir():
        file.unlink()
    assert faults_of(root) == [
        f"{root}/pushpins/test/logical_anomalies/000.png: no mask: expected pictures in {part.parent}"
    ]


def test_a_broken_mask_that_sets_the_label_is_named_once(tmp_path):
    root = make(tmp_path / "set", {"kos01/Part0.jpg": PICTURE, "kos01/Part0_label.bmp": SPOT})
    (root / "kos01/Part0_label.bmp").write_bytes(b"no picture")
    lines = faults_of(root)
    assert len(lines) == 1
    assert lines[0].startswith(f"{root}/kos01/Part0_label.bmp: ")
