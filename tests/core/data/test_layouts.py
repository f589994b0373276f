"""Every layout of the table, read from a small tree in the form that its authors publish."""

from pathlib import Path
from typing import get_args

import numpy as np
import pytest

pytest.importorskip("torch")

from industrial_trees import INDUSTRIAL
from layout_trees import AREA, IMAGE_LEVEL, PICTURE, SPOT, SPOT_2, Expected, make, mvtec_tree
from medical_trees import MEDICAL
from one_dataset import read_dataset

from zsad_core.data import LayoutName
from zsad_core.data.table import LAYOUTS
from zsad_core.errors import DatasetError
from zsad_training.pictures import check_samples

CASES = INDUSTRIAL + MEDICAL


def read(root: Path, layout: LayoutName) -> list[Expected]:
    found: list[Expected] = []
    for sample in read_dataset(root, layout=layout):
        image, mask = sample.load()
        assert image.shape == PICTURE.shape
        assert sample.dataset == root.name
        area = int(mask.sum()) if sample.has_pixel_truth else IMAGE_LEVEL
        name = sample.image.relative_to(root).as_posix()
        found.append((sample.split, sample.product, sample.defect, name, area))
    return found


@pytest.mark.parametrize("case", CASES, ids=lambda case: f"{case.layout}-{case.form}".rstrip("-"))
def test_a_published_tree_is_read_by_layout_name_and_if_unique_by_content(case, tmp_path):
    root = make(tmp_path / "set", case.tree)
    expected = sorted(case.samples, key=lambda one: one[3])
    assert sorted(read(root, case.layout), key=lambda one: one[3]) == expected
    if case.by_content:
        assert sorted(read(root, "auto"), key=lambda one: one[3]) == expected
    assert check_samples(read_dataset(root, layout=case.layout)) == []


def test_every_layout_of_the_table_has_a_name_and_a_case():
    assert set(get_args(LayoutName)) == {"auto", *LAYOUTS}
    assert {case.layout for case in CASES} == set(LAYOUTS)


@pytest.mark.parametrize("layout", ["mvtec_ad", "btad", "mvtec_ad_2", "mvtec_loco", "dagm", "bmad"])
def test_one_category_is_read_as_the_set_with_only_that_category(layout, tmp_path):
    case = next(case for case in CASES if case.layout == layout)
    root = make(tmp_path / "set", case.tree)
    category = root / case.samples[0][1]
    assert read_dataset(category, layout=layout) == read_dataset(root, layout=layout)


def test_a_tree_of_several_layouts_is_refused_with_their_names(tmp_path):
    root = make(tmp_path / "set", {"images/1.png": PICTURE, "masks/1.png": SPOT})
    with pytest.raises(DatasetError, match=r"several layouts fit.*cvc_clinicdb, cvc_colondb, endo, folder, kvasir_seg"):
        read_dataset(root)


def test_a_tree_of_no_layout_is_refused_with_all_names(tmp_path):
    root = make(tmp_path / "set", {"some/1.png": PICTURE})
    with pytest.raises(DatasetError, match=r"no known layout.*bmad, br35h, .*visa_2cls_highshot"):
        read_dataset(root)


def test_a_tree_of_another_layout_is_refused_with_the_expected_folders(tmp_path):
    root = make(tmp_path / "set", mvtec_tree("bottle"))
    with pytest.raises(
        DatasetError, match=r"no tn3k layout here: expected in it test-image/ and test-mask/, or <category>"
    ):
        read_dataset(root / "bottle" / "train", layout="tn3k")


def test_another_mask_folder_is_used_if_the_layout_has_mask_folders(tmp_path):
    files = mvtec_tree("pcb") | {"pcb/ground_truth_xor/hole/000_mask.png": np.maximum(SPOT, SPOT_2)}
    root = make(tmp_path / "set", files)
    bad = [sample for sample in read_dataset(root, mask_folder="ground_truth_xor") if sample.is_anomalous]
    assert [int(sample.load()[1].sum()) for sample in bad] == [2 * AREA]
    tn3k = make(tmp_path / "tn3k", {"test-image/1.jpg": PICTURE, "test-mask/1.jpg": SPOT})
    with pytest.raises(DatasetError, match=r"mask folder 'other'.*has no mask folder"):
        read_dataset(tn3k, mask_folder="other")


@pytest.mark.parametrize(("chosen", "area"), [(None, AREA), ("ground_truth_2", 2 * AREA)])
def test_masks_of_a_further_annotation_are_no_pictures(tmp_path, chosen, area):
    both = np.maximum(SPOT, SPOT_2)
    files = {"good/0.png": PICTURE, "bad/0.png": PICTURE, "ground_truth/bad/0.png": SPOT}
    root = make(tmp_path / "set", files | {"ground_truth_2/bad/0.png": both})
    (bad,) = [sample for sample in read_dataset(root, mask_folder=chosen) if sample.is_anomalous]
    assert (bad.defect, int(bad.load()[1].sum())) == ("bad", area)


def test_masks_in_a_folder_of_another_name_are_no_pictures(tmp_path, caplog):
    root = make(tmp_path / "set", {"good/0.png": PICTURE, "hole/0.png": PICTURE, "masks/hole/0.png": SPOT})
    assert [(sample.defect, sample.has_pixel_truth) for sample in read_dataset(root)] == [
        ("good", True),
        ("hole", False),
    ]
    assert "is skipped, as masks. To use them, name it" in caplog.text
    assert all(sample.has_pixel_truth for sample in read_dataset(root, mask_folder="masks"))


def test_the_current_folder_has_its_name(tmp_path, monkeypatch):
    monkeypatch.chdir(make(tmp_path / "bolts", {"good/0.png": PICTURE, "bad/0.png": PICTURE}))
    assert {(sample.dataset, sample.product) for sample in read_dataset(Path())} == {("bolts", "bolts")}


def test_hidden_folders_are_ignored(tmp_path):
    root = make(tmp_path / "set", mvtec_tree("bottle") | {"bottle/test/.ipynb_checkpoints/1.png": PICTURE})
    assert len(read_dataset(root)) == 3


def test_a_set_of_defective_images_only_has_pixel_truth(tmp_path):
    root = make(tmp_path / "set", {"images/1.jpg": PICTURE, "masks/1.jpg": SPOT})
    (sample,) = read_dataset(root, layout="kvasir_seg")
    assert sample.is_anomalous and sample.has_pixel_truth
