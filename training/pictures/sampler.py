"""The images of a training batch: real and synthetic, balanced over data sets and classes.

Item `index` depends only on (seed, index). A resumed run therefore gets the same items as an uninterrupted one, for
any number of workers.
"""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Self

import cv2
import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from zsad_core.bundle import GENERIC_PRODUCT
from zsad_core.data import Sample
from zsad_core.errors import DatasetError
from zsad_core.picture import find_images, read_image, resize_to_input
from zsad_training.config import SamplingSpec
from zsad_training.pictures.anomalies import add_anomalies
from zsad_training.pictures.augmentation import flip_and_turn, photometric, random_crop, resize_mask
from zsad_training.pictures.drawing import MIN_AREA_PX, Image, Rng
from zsad_training.pictures.good_pictures import (
    object_picture,
    printed_picture,
    texture_picture,
    with_fixture,
    with_inclusions,
)


@dataclass(frozen=True, kw_only=True)
class Item:
    image_bgr: np.ndarray  # uint8 [H, W, 3]
    mask: np.ndarray  # uint8 [H, W] of 0 and 1
    is_anomalous: bool
    has_pixel_truth: bool
    product: str


@dataclass(frozen=True, kw_only=True)
class Batch:
    images_bgr: Tensor  # uint8 [B, H, W, 3]
    masks: Tensor  # uint8 [B, H, W] of 0 and 1
    is_anomalous: Tensor  # int64 [B]
    has_pixel_truth: Tensor  # bool [B]
    products: list[str]

    def pin_memory(self) -> Self:
        """A copy in pinned memory, for asynchronous transfer to a GPU; torch's loader calls this."""
        tensors: dict[str, Any] = {name: value for name, value in vars(self).items() if isinstance(value, Tensor)}
        return replace(self, **{name: value.pin_memory() for name, value in tensors.items()})


def collate(items: list[Item]) -> Batch:
    """Makes a batch of items of one size."""
    return Batch(
        images_bgr=torch.from_numpy(np.stack([item.image_bgr for item in items])),
        masks=torch.from_numpy(np.stack([item.mask for item in items])),
        is_anomalous=torch.tensor([int(item.is_anomalous) for item in items]),
        has_pixel_truth=torch.tensor([item.has_pixel_truth for item in items]),
        products=[item.product for item in items],
    )


@dataclass(frozen=True, kw_only=True)
class Texture:
    material: str
    image: Path


def find_textures(root: Path) -> list[Texture]:
    """The images of <root>/<material>/, sorted.

    Raises:
        DatasetError: there are none.
    """
    textures = [Texture(material=path.parent.name, image=path) for path in find_images(root)]
    if not textures:
        raise DatasetError(
            f"{root.absolute()}: no textures here: expected <material>/*.png. Name the folder with --textures, or its "
            "parent folder with --data-root"
        )
    return textures


class TrainingPictures(Dataset[Item]):
    """An endless data set: every index from 0 is an item. Items of one batch have the same size."""

    def __init__(
        self,
        samples: list[Sample],
        textures: list[Texture],
        spec: SamplingSpec,
        *,
        input_hw: tuple[int, int],
        batch_size: int,
        seed: int,
    ) -> None:
        if spec.synthetic_fraction > 0 and not textures:
            raise ValueError("synthetic pictures need a folder of textures")
        self._classes: dict[str, dict[bool, list[Sample]]] = {}  # each worker process has a copy
        for sample in samples:
            classes = self._classes.setdefault(sample.dataset, {False: [], True: []})
            classes[sample.is_anomalous].append(sample)
        self._datasets = sorted(self._classes)
        self._textures = textures
        self._spec = spec
        self._sizes = spec.train_hw or (input_hw,)
        self._batch_size = batch_size
        self._seed = seed

    def __getitem__(self, index: int) -> Item:
        size_rng = np.random.default_rng([self._seed, 1, index // self._batch_size])
        size_hw = self._sizes[int(size_rng.integers(len(self._sizes)))]
        rng = np.random.default_rng([self._seed, 2, index])
        if rng.random() < self._spec.synthetic_fraction:
            return self._named(rng, self._synthetic(rng, size_hw))
        return self._named(rng, self._real(rng, size_hw))

    def _named(self, rng: Rng, item: Item) -> Item:
        if rng.random() >= self._spec.generic_name_fraction:
            return item
        return Item(**{**item.__dict__, "product": GENERIC_PRODUCT})

    def _pick(self, rng: Rng, is_anomalous: bool) -> Sample:
        datasets = [name for name in self._datasets if self._classes[name][is_anomalous]]
        if not datasets:
            raise ValueError(f"no training set has {'anomalous' if is_anomalous else 'good'} pictures")
        choices = self._classes[datasets[int(rng.integers(len(datasets)))]][is_anomalous]
        return choices[int(rng.integers(len(choices)))]

    def _real(self, rng: Rng, size_hw: tuple[int, int]) -> Item:
        sample = self._pick(rng, bool(rng.random() < self._spec.anomalous_fraction))
        image, mask = sample.load()
        if self._spec.augment == "none":
            image, mask = resize_to_input(image, size_hw), resize_mask(mask, size_hw)
        else:
            if sample.has_pixel_truth:  # a crop could lose a defect that has no mask
                image, mask = random_crop(rng, image, mask)
            image, mask = flip_and_turn(rng, resize_to_input(image, size_hw), resize_mask(mask, size_hw))
            image = photometric(rng, image)
        is_anomalous = bool(mask.sum() >= MIN_AREA_PX) if sample.has_pixel_truth else sample.is_anomalous
        return Item(
            image_bgr=image,
            mask=mask if is_anomalous else mask * 0,
            is_anomalous=is_anomalous,
            has_pixel_truth=sample.has_pixel_truth,
            product=sample.product,
        )

    def _synthetic(self, rng: Rng, size_hw: tuple[int, int]) -> Item:
        silhouette, donor = None, self._texture(rng, size_hw)[0]
        is_printed = bool(rng.random() < self._spec.printed_fraction)
        if is_printed:
            picture, product = printed_picture(rng, size_hw), GENERIC_PRODUCT
        elif rng.random() < self._spec.texture_fraction:
            picture, product = self._texture(rng, size_hw)
            if rng.random() < 0.25:
                picture = with_inclusions(rng, picture)
            if rng.random() < 0.5:
                picture, silhouette = object_picture(rng, picture, self._texture(rng, size_hw)[0])
            if rng.random() < 0.3:
                before = picture
                picture = with_fixture(rng, picture)
                if silhouette is None:  # no anomalies on the covered part
                    silhouette = (cv2.absdiff(before, picture).max(axis=2) == 0).astype(np.uint8)
        else:
            sample = self._pick(rng, is_anomalous=False)
            image, mask = random_crop(rng, *sample.load())
            picture, _ = flip_and_turn(rng, resize_to_input(image, size_hw), resize_mask(mask, size_hw))
            product = sample.product
        mask = np.zeros(picture.shape[:2], np.uint8)
        if rng.random() < self._spec.anomalous_fraction:
            picture, mask = add_anomalies(rng, picture, donor, silhouette, of_edges=is_printed)
        return Item(
            image_bgr=photometric(rng, picture),
            mask=mask,
            is_anomalous=bool(mask.any()),
            has_pixel_truth=True,
            product=product,
        )

    def _texture(self, rng: Rng, size_hw: tuple[int, int]) -> tuple[Image, str]:
        texture = self._textures[int(rng.integers(len(self._textures)))]
        return texture_picture(rng, read_image(texture.image), size_hw), texture.material
