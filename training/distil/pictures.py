"""The images of a distillation batch, each at the student's and at the teacher's input size."""

import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from zsad_core.bundle import GENERIC_PRODUCT
from zsad_core.data import GOOD, Sample, is_mask, raise_faults
from zsad_core.errors import DatasetError
from zsad_core.picture import find_images, resize_to_input
from zsad_training.config import SamplingSpec
from zsad_training.distil.config import DistilConfig, FolderSpec
from zsad_training.pictures import (
    MIN_AREA_PX,
    Batch,
    Item,
    Texture,
    TrainingPictures,
    check_samples,
    collate,
    flip_and_turn,
    photometric,
    random_crop,
    resize_mask,
)


@dataclass(frozen=True, kw_only=True)
class DistilItem(Item):
    teachers_image_bgr: np.ndarray  # uint8 [H', W', 3], the same image at the size that the teacher asks for
    digest: str  # sha256 of that image
    is_labelled: bool  # if false, mask and `is_anomalous` have no meaning


@dataclass(frozen=True, kw_only=True)
class DistilBatch(Batch):
    teachers_images_bgr: Tensor  # uint8 [B, H', W', 3]
    digests: list[str]
    is_labelled: Tensor  # bool [B]


def collate_distil(items: list[DistilItem]) -> DistilBatch:
    """Makes a batch of items of one size."""
    return DistilBatch(
        **vars(collate(list(items))),
        teachers_images_bgr=torch.from_numpy(np.stack([item.teachers_image_bgr for item in items])),
        digests=[item.digest for item in items],
        is_labelled=torch.tensor([item.is_labelled for item in items]),
    )


def read_unlabelled(specs: Iterable[FolderSpec], *, check: bool) -> list[list[Sample]]:
    """The images of each folder, as samples of the generic product.

    Args:
        specs: the folders.
        check: decode every image.

    Raises:
        DatasetError: a folder has no images, or (with `check`) files are broken.
    """
    folders = []
    for spec in specs:
        found = [
            Sample(
                dataset=spec.path.name,
                product=GENERIC_PRODUCT,
                split="train",
                defect=GOOD,
                image=image,
                place=image.relative_to(spec.path).as_posix(),
                mask=None,
            )
            for image in find_images(spec.path)
            if not is_mask(image.relative_to(spec.path))
        ]
        if not found:
            raise DatasetError(f"{spec.path}: no pictures in this folder or below it")
        folders.append(found)
    if check:
        raise_faults(check_samples([sample for folder in folders for sample in folder]))
    return folders


class DistilPictures(Dataset[DistilItem]):
    """An endless data set: item `index` depends only on (seed, index). Items of one batch have the same size.

    With a pool of N images, every N indices use each image once, in a new random order. Images are made at the larger
    of the teacher's and the student's sizes and shrunk for the other.
    """

    def __init__(
        self,
        samples: list[Sample],
        textures: list[Texture],
        unlabelled: Sequence[list[Sample]],
        config: DistilConfig,
        *,
        teachers_hw: tuple[int, int],
    ) -> None:
        self._sizes = config.sampling.train_hw or (config.model.input_hw,)
        self._teachers_hw = teachers_hw
        heights, widths = zip(teachers_hw, *self._sizes, strict=True)
        self._drawn_hw = max(heights), max(widths)
        self._spec: SamplingSpec = config.sampling.model_copy(update={"train_hw": None})
        self._batch_size = config.optimisation.batch_size
        self._seed = config.seed
        self._labelled = TrainingPictures(
            samples, textures, self._spec, input_hw=self._drawn_hw, batch_size=self._batch_size, seed=config.seed
        )
        self._unlabelled = unlabelled
        self._unlabelled_fraction = config.distillation.unlabelled_fraction
        self._pool = config.distillation.pool

    def __getitem__(self, index: int) -> DistilItem:
        size_rng = np.random.default_rng([self._seed, 1, index // self._batch_size])
        size_hw = self._sizes[int(size_rng.integers(len(self._sizes)))]
        if self._pool is not None:
            turn, place = divmod(index, self._pool)
            index = int(_order(self._seed, turn, self._pool)[place])
        rng = np.random.default_rng([self._seed, 4, index])
        is_labelled = bool(rng.random() >= self._unlabelled_fraction)
        item = self._labelled[index] if is_labelled else self._draw_unlabelled(rng)
        teachers = resize_to_input(item.image_bgr, self._teachers_hw)
        mask = resize_mask(item.mask, size_hw)
        is_anomalous = item.is_anomalous and (not item.has_pixel_truth or int(mask.sum()) >= MIN_AREA_PX)
        return DistilItem(
            image_bgr=resize_to_input(item.image_bgr, size_hw),
            mask=mask if is_anomalous else mask * 0,
            is_anomalous=is_anomalous,
            has_pixel_truth=item.has_pixel_truth,
            product=item.product,
            teachers_image_bgr=teachers,
            digest=hashlib.sha256(str(teachers.shape).encode() + teachers.tobytes()).hexdigest(),
            is_labelled=is_labelled,
        )

    def _draw_unlabelled(self, rng: np.random.Generator) -> Item:
        folder = self._unlabelled[int(rng.integers(len(self._unlabelled)))]
        image, mask = folder[int(rng.integers(len(folder)))].load()
        if self._spec.augment == "full":
            image, mask = random_crop(rng, image, mask)
        image, mask = resize_to_input(image, self._drawn_hw), resize_mask(mask, self._drawn_hw)
        if self._spec.augment == "full":
            image, mask = flip_and_turn(rng, image, mask)
            image = photometric(rng, image)
        return Item(image_bgr=image, mask=mask, is_anomalous=False, has_pixel_truth=False, product=GENERIC_PRODUCT)


@lru_cache(maxsize=2)
def _order(seed: int, turn: int, count: int) -> np.ndarray:
    return np.random.default_rng([seed, 5, turn]).permutation(count)
