"""Data sets in MVTec layout, as samples.

    <root>/<category>/train/good/*            pictures without defects
    <root>/<category>/test/good/*             the same
    <root>/<category>/test/<defect>/*         pictures with a defect
    <root>/<category>/ground_truth/<defect>/<stem>_mask.png   or <stem>.png; anything but 0 is the defect

`<root>` may be the category itself. A defect folder without any masks is used for image metrics alone.
"""

import logging
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np

from zsad_core.errors import DatasetError, ImageError
from zsad_core.imaging import find_images, read_image, read_mask

logger = logging.getLogger(__name__)

GOOD = "good"
MAX_FAULTS_SHOWN = 20


@dataclass(frozen=True, kw_only=True, order=True)
class Sample:
    dataset: str
    product: str  # the category's folder name
    split: Literal["train", "test"]
    defect: str  # "good" without one
    image: Path
    mask: Path | None  # None for good pictures, and where the source has none

    @property
    def is_anomalous(self) -> bool:
        return self.defect != GOOD

    @property
    def has_pixel_truth(self) -> bool:
        return not self.is_anomalous or self.mask is not None

    def load(self) -> tuple[np.ndarray, np.ndarray]:
        """(picture uint8 BGR [H, W, 3], mask uint8 [H, W] of 0 and 1, all 0 where there is none).

        Raises:
            DatasetError: a file cannot be read, or their sizes differ.
        """
        try:
            image = read_image(self.image)
            if self.mask is None:
                return image, np.zeros(image.shape[:2], np.uint8)
            mask = read_mask(self.mask)
        except ImageError as error:
            raise DatasetError(str(error)) from error
        if mask.shape != image.shape[:2]:
            sizes = f"{mask.shape[1]}x{mask.shape[0]}, its picture {image.shape[1]}x{image.shape[0]}"
            raise DatasetError(f"{self.mask}: the mask is {sizes}")
        return image, mask


def read_mvtec_layout(root: Path, *, mask_folder: str = "ground_truth") -> list[Sample]:
    """All samples below `root`, sorted.

    Raises:
        DatasetError: no such folder, no category in it, a category without test pictures, or masks missing; one line
            per file.
    """
    if not root.is_dir():
        raise DatasetError(f"{root}: no such folder")
    if (root / "test").is_dir():
        categories, dataset = [root], root.parent.name
    else:
        categories, dataset = sorted(path.parent for path in root.glob("*/test") if path.is_dir()), root.name
    if not categories:
        raise DatasetError(f"{root}: no MVTec layout here: expected {root}/<category>/test/<defect or good>/*.png")
    faults: list[str] = []
    samples: list[Sample] = []
    for category in categories:
        found = [
            *_split(category, dataset, "train", mask_folder, faults),
            *_split(category, dataset, "test", mask_folder, faults),
        ]
        if not any(sample.split == "test" for sample in found):
            faults.append(f"{category}/test: no pictures")
        samples += found
    if faults:
        more = len(faults) - MAX_FAULTS_SHOWN
        raise DatasetError("\n".join(faults[:MAX_FAULTS_SHOWN] + ([f"… and {more} more"] if more > 0 else [])))
    return sorted(samples)


def _split(
    category: Path, dataset: str, split: Literal["train", "test"], mask_folder: str, faults: list[str]
) -> list[Sample]:
    samples = []
    for folder in sorted(path for path in (category / split).glob("*") if path.is_dir()):
        masks = category / mask_folder / folder.name
        wants_masks = folder.name != GOOD and masks.is_dir()
        if folder.name != GOOD and not wants_masks:
            logger.warning("%s: no masks in %s: used for image metrics alone", folder, masks)
        for image in find_images(folder):
            mask = None
            if wants_masks:
                mask = next((path for path in _mask_names(masks, image) if path.is_file()), None)
                if mask is None:
                    faults.append(f"{image}: no mask: expected {next(_mask_names(masks, image))}")
            samples.append(
                Sample(dataset=dataset, product=category.name, split=split, defect=folder.name, image=image, mask=mask)
            )
    return samples


def _mask_names(masks: Path, image: Path) -> Iterator[Path]:
    yield masks / f"{image.stem}_mask.png"
    yield masks / f"{image.stem}.png"
