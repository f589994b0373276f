"""Images of a distillation: each at the student's and the teacher's size, and repeated from a pool."""

from pathlib import Path

import numpy as np
import pytest
from small_model import write_pictures
from small_run import HW, make_data

torch = pytest.importorskip("torch")

from small_distillation import TEACHERS_HW, distil_config, small_pictures

from zsad_core.errors import DatasetError
from zsad_core.picture import resize_to_input
from zsad_training.distil import FolderSpec, collate_distil, read_unlabelled
from zsad_training.pictures import MIN_AREA_PX


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> Path:
    root = make_data(tmp_path_factory.mktemp("data"))
    write_pictures(root / "raw" / "deep" / "deeper")
    return root


def with_unlabelled(data: Path, fraction: float, **sampling: object):
    unlabelled = ({"path": data / "raw"},)
    config = distil_config(data, data / "out", unlabelled=unlabelled, unlabelled_fraction=fraction)
    return config.model_copy(update={"sampling": config.sampling.model_copy(update=sampling)})


def test_the_teacher_gets_the_same_image_at_its_own_size(data):
    item = small_pictures(distil_config(data, data / "out"))[0]
    assert item.image_bgr.shape == (*HW, 3)
    assert item.mask.shape == HW
    assert item.teachers_image_bgr.shape == (*TEACHERS_HW, 3)
    np.testing.assert_array_equal(item.image_bgr, resize_to_input(item.teachers_image_bgr, HW))


def test_each_pass_has_every_image_of_the_pool_once_in_a_new_order(data):
    pictures = small_pictures(distil_config(data, data / "out", pool=6))
    first, second = ([pictures[index].digest for index in range(start, start + 6)] for start in (0, 6))
    assert len(set(first)) == 6
    assert set(second) == set(first)
    assert second != first


def test_without_a_pool_no_image_repeats(data):
    pictures = small_pictures(distil_config(data, data / "out", pool=None))
    assert len({pictures[index].digest for index in range(20)}) == 20


def test_with_several_student_sizes_each_batch_has_one(data):
    sizes = ((64, 96), (32, 48))
    config = with_unlabelled(data, 0.5, train_hw=sizes)
    batches = [[small_pictures(config)[4 * batch + place] for place in range(4)] for batch in range(6)]
    found = [{item.image_bgr.shape[:2] for item in batch} for batch in batches]
    assert {size for batch in found for size in batch} == set(sizes)
    assert {len(batch) for batch in found} == {1}
    assert collate_distil(batches[0]).teachers_images_bgr.shape == (4, *TEACHERS_HW, 3)


def test_an_image_whose_defect_is_lost_at_the_students_size_is_good(data):
    config = with_unlabelled(data, 0.0, train_hw=((16, 16),), anomalous_fraction=1.0)
    items = [small_pictures(config)[index] for index in range(20)]
    assert {int(item.mask.sum()) >= MIN_AREA_PX for item in items if item.is_anomalous} == {True}
    lost = [item for item in items if not item.is_anomalous]
    assert lost  # every image was made with a defect
    assert not any(item.mask.any() for item in lost)


@pytest.mark.parametrize("augment", ["none", "full"])
def test_unlabelled_images_come_from_all_subfolders(data, augment):
    items = [small_pictures(with_unlabelled(data, 1.0, augment=augment))[index] for index in range(12)]
    assert not any(item.is_labelled or item.has_pixel_truth or item.is_anomalous for item in items)
    assert {item.product for item in items} == {"object"}
    assert (len({item.digest for item in items}) == 3) == (augment == "none")  # the folder has three


def test_the_masks_of_a_data_set_are_no_unlabelled_images(tmp_path):
    for folder in ("test/dent", "ground_truth/dent"):
        write_pictures(tmp_path / "plates" / folder)
    (found,) = read_unlabelled((FolderSpec(path=tmp_path / "plates"),), check=True)
    assert found and all(one.place.startswith("test/") for one in found)


def test_the_configured_share_is_unlabelled(data):
    labelled = [small_pictures(with_unlabelled(data, 0.5))[index].is_labelled for index in range(12)]
    assert 2 < sum(labelled) < 10


def test_an_empty_folder_and_a_damaged_image_are_named(data, tmp_path):
    with pytest.raises(DatasetError, match="no pictures in this folder or below it"):
        read_unlabelled([FolderSpec(path=tmp_path)], check=False)
    (tmp_path / "cut.png").write_bytes((data / "raw" / "deep" / "deeper" / "0.png").read_bytes()[:-40])
    with pytest.raises(DatasetError, match=r"cut\.png"):
        read_unlabelled([FolderSpec(path=tmp_path)], check=True)
