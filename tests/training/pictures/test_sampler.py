import pickle
from dataclasses import replace

import numpy as np
import pytest
from mvtec_tree import make_mvtec_tree, make_textures

torch = pytest.importorskip("torch")

from one_dataset import read_dataset

from zsad_training.config import SamplingSpec
from zsad_training.pictures import (
    TrainingPictures,
    at_most,
    collate,
    find_textures,
    random_crop,
    resize_mask,
    split,
    split_groups,
)

FULL = SamplingSpec(synthetic_fraction=0.5, augment="full", generic_name_fraction=0.5, train_hw=((32, 32), (48, 64)))


@pytest.fixture(scope="module")
def trees(tmp_path_factory):
    root = tmp_path_factory.mktemp("data")
    large = make_mvtec_tree(root / "large", category="plate", good=40, bad=40)
    small = make_mvtec_tree(root / "small", category="disc", good=4, bad=4, seed=1)
    samples = read_dataset(large) + read_dataset(small)
    return samples, find_textures(make_textures(root / "textures"))


def pictures(trees, spec: SamplingSpec, seed: int = 0) -> TrainingPictures:
    return TrainingPictures(*trees, spec, input_hw=(64, 64), batch_size=8, seed=seed)


def test_an_item_depends_only_on_seed_and_index(trees):
    first, second = pictures(trees, FULL), pictures(trees, FULL)
    second[3]
    for index in (0, 9, 77):
        np.testing.assert_array_equal(first[index].image_bgr, second[index].image_bgr)
        np.testing.assert_array_equal(first[index].mask, second[index].mask)
    assert any((pictures(trees, FULL, seed=1)[i].image_bgr.shape != first[i].image_bgr.shape) for i in range(0, 80, 8))


def test_a_worker_process_gives_the_same_items(trees):
    """Python 3.14 starts workers without forking, so that they get a pickled copy."""
    first = pictures(trees, FULL)
    copy = pickle.loads(pickle.dumps(first))
    for index in (0, 9, 77):
        np.testing.assert_array_equal(first[index].image_bgr, copy[index].image_bgr)


def test_a_batch_has_one_size_and_batches_have_several(trees):
    data = pictures(trees, FULL)
    sizes = set()
    for batch in range(8):
        items = [data[batch * 8 + index] for index in range(8)]
        assert len({item.image_bgr.shape for item in items}) == 1
        sizes.add(items[0].image_bgr.shape[:2])
    assert sizes == {(32, 32), (48, 64)}


def test_small_and_large_sets_and_both_classes_have_equal_weight(trees):
    items = [pictures(trees, SamplingSpec())[index] for index in range(400)]
    assert np.mean([item.product == "disc" for item in items]) == pytest.approx(0.5, abs=0.08)
    assert np.mean([item.is_anomalous for item in items]) == pytest.approx(0.5, abs=0.08)


def test_the_label_matches_the_cropped_mask(trees):
    data = pictures(trees, FULL)
    for index in range(120):
        item = data[index]
        assert item.is_anomalous == bool(item.mask.any())


def test_the_generic_name_is_used_as_often_as_configured(trees):
    items = [pictures(trees, SamplingSpec(generic_name_fraction=1))[index] for index in range(10)]
    assert {item.product for item in items} == {"object"}


def test_collate_makes_tensors_of_the_documented_shapes(trees):
    batch = collate([pictures(trees, SamplingSpec())[index] for index in range(3)])
    assert batch.images_bgr.shape == (3, 64, 64, 3) and batch.images_bgr.dtype == torch.uint8
    assert batch.masks.shape == (3, 64, 64) and batch.masks.dtype == torch.uint8


class PinnedAs(torch.Tensor):
    """Stands for a tensor on a machine with a GPU: pinning gives a copy with 1 added."""

    def pin_memory(self):
        return self + 1


def test_all_tensors_of_a_batch_are_pinned(trees):
    batch = collate([pictures(trees, SamplingSpec())[index] for index in range(2)])
    tensors = {name: value for name, value in vars(batch).items() if isinstance(value, torch.Tensor)}
    pinned = replace(batch, **{name: value.int().as_subclass(PinnedAs) for name, value in tensors.items()}).pin_memory()
    assert pinned.products == batch.products
    for name, value in tensors.items():
        assert torch.equal(getattr(pinned, name), value.int() + 1), name


def test_synthetic_images_need_textures(trees):
    with pytest.raises(ValueError, match="textures"):
        TrainingPictures(trees[0], [], FULL, input_hw=(64, 64), batch_size=8, seed=0)


def test_a_thin_defect_survives_shrinking():
    mask = np.zeros((400, 400), np.uint8)
    mask[:, 200:202] = 1
    assert resize_mask(mask, (100, 100)).any(axis=1).all()


@pytest.mark.parametrize("shape", [(1, 1), (1, 50), (9, 9), (300, 40)])
def test_crops_of_any_size_fit(shape):
    rng = np.random.default_rng(0)
    for _ in range(20):
        image, mask = random_crop(rng, np.zeros((*shape, 3), np.uint8), np.zeros(shape, np.uint8))
        assert image.size > 0 and image.shape[:2] == mask.shape


def test_a_split_is_stable_disjoint_and_of_the_given_size():
    names = [f"picture{index}" for index in range(2000)]
    fit, held_out = split(names, str, 0.15, seed=0)
    assert sorted(fit + held_out) == sorted(names)
    assert len(held_out) == pytest.approx(300, abs=50)
    assert split(reversed(names), str, 0.15, seed=0)[1][::-1] == held_out
    assert split(names, str, 0.15, seed=1)[1] != held_out
    assert len(at_most(names, str, lambda name: name[-1], 5, seed=0)) == 50


def test_a_split_of_groups_is_stable_and_has_every_group_in_both_parts():
    names = [f"{product}/{index:03}" for product in "abcdefghijklmno" for index in range(4)] + ["single/000"]

    def parts(items, seed=0):
        return split_groups(items, str, lambda name: name.partition("/")[0], 0.15, seed)

    fit, held_out = parts(names)
    assert sorted(fit + held_out) == sorted(names)
    assert {name[0] for name in held_out} >= set("abcdefghijklmno") <= {name[0] for name in fit}
    assert parts(reversed(names))[1][::-1] == held_out
    assert parts(names, seed=1)[1] != held_out
    many = [f"{product}/{index:03}" for product in "ab" for index in range(200)]
    assert parts(many) == split(many, str, 0.15, seed=0)  # no group has an empty part
