"""One picture of a data set with what is known of it."""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np

from zsad_core.errors import DatasetError, ImageError
from zsad_core.picture import find_images, read_image, read_mask

GOOD = "good"
Split = Literal["train", "test"]  # a set's validation part counts as train: test is what papers report


@dataclass(frozen=True, kw_only=True, order=True)
class Sample:
    dataset: str
    product: str  # the category's folder name, or what the layout's pictures show
    split: Split
    defect: str  # "good" without one
    image: Path
    place: str  # of the image below the data set's folder, with "/"; it is the same on every machine
    mask: Path | None  # None for good pictures, and where the source has none; a folder holds parts of one mask

    @property
    def key(self) -> str:
        """Tells the picture from all others, on every machine alike."""
        return f"{self.dataset}/{self.place}"

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
    """What is wrong with the size of a mask [H, W] for its picture [H, W, 3]; None if they agree."""
    if mask.shape == image.shape[:2]:
        return None
    return f"{path}: the mask is {mask.shape[1]}x{mask.shape[0]}, its picture {image.shape[1]}x{image.shape[0]}"
