"""One image of a data set, with its label and mask."""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np

from zsad_core.errors import DatasetError, ImageError
from zsad_core.picture import find_images, read_image, read_mask

GOOD = "good"
Split = Literal["train", "test"]  # a validation split counts as train: papers report test


@dataclass(frozen=True, kw_only=True, order=True)
class Sample:
    dataset: str
    product: str  # the category's folder name, or the product of the layout
    split: Split
    defect: str  # "good" without a defect
    image: Path
    place: str  # path of the image relative to the data set's folder, with "/"; the same on every machine
    mask: Path | None  # None for good images, or without a mask in the data set; a folder holds parts of one mask

    @property
    def key(self) -> str:
        """Identifies the image; the same on every machine."""
        return f"{self.dataset}/{self.place}"

    @property
    def is_anomalous(self) -> bool:
        return self.defect != GOOD

    @property
    def has_pixel_truth(self) -> bool:
        return not self.is_anomalous or self.mask is not None

    def load(self) -> tuple[np.ndarray, np.ndarray]:
        """(image uint8 BGR [H, W, 3], mask uint8 [H, W] of 0 and 1; all 0 without a mask).

        Raises:
            DatasetError: a file cannot be read, or their sizes differ.
        """
        try:
            image = read_image(self.image)
            mask = np.zeros(image.shape[:2], np.uint8)
            for part in mask_parts(self.mask):
                found = read_mask(part)
                if fault := size_fault(part, found, image):
                    raise DatasetError(fault)
                mask |= found
        except ImageError as error:
            raise DatasetError(str(error)) from error
        return image, mask


def mask_parts(mask: Path | None) -> list[Path]:
    """The files whose union is the mask."""
    if mask is None:
        return []
    return find_images(mask) if mask.is_dir() else [mask]


def size_fault(path: Path, mask: np.ndarray, image: np.ndarray) -> str | None:
    """The fault if a mask [H, W] and its image [H, W, 3] differ in size, else None."""
    if mask.shape == image.shape[:2]:
        return None
    return f"{path}: the mask is {mask.shape[1]}x{mask.shape[0]}, its picture {image.shape[1]}x{image.shape[0]}"
