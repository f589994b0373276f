"""Labelled pictures in MVTec layout, to compare a model's answers with the truth: as much as the export gate needs.

`<category>/test/<defect or good>/*` beside `<category>/ground_truth/<defect>/<stem>_mask.*`, in a data set's folder or
one category's. `zsad_core.data.reader` knows all layouts, and is out of reach here.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import numpy as np

from zsad_core.errors import DatasetError, ImageError
from zsad_core.picture import find_images, read_image, read_mask

GOOD = "good"
MASKS = "ground_truth"

T = TypeVar("T")


@dataclass(frozen=True, kw_only=True)
class Labelled:
    category: str
    image: Path
    mask: Path | None  # None for good pictures, and for defective ones of which there is none
    is_anomalous: bool

    @property
    def has_pixel_truth(self) -> bool:
        return self.mask is not None or not self.is_anomalous

    def load(self) -> tuple[np.ndarray, np.ndarray]:
        """(picture uint8 BGR [H, W, 3], mask uint8 [H, W] of 0 and 1, all 0 where there is none).

        Raises:
            DatasetError: a file cannot be read, or their sizes differ.
        """
        try:
            image = read_image(self.image)
            mask = np.zeros(image.shape[:2], np.uint8) if self.mask is None else read_mask(self.mask)
        except ImageError as error:
            raise DatasetError(str(error)) from error
        if mask.shape != image.shape[:2]:
            raise DatasetError(f"{self.mask}: {mask.shape[::-1]} pixels, its picture has {image.shape[1::-1]}")
        return image, mask


def labelled_pictures(root: Path, max_images: int) -> list[Labelled]:
    """The test pictures of a data set, or so many of them, evenly spaced over each category's good and defective ones.

    Raises:
        DatasetError: no such folder, not this layout, a mask missing, or a category without good or defective pictures.
    """
    if not root.is_dir():
        raise DatasetError(f"{root}: no such folder")
    folders = [root] if (root / "test").is_dir() else sorted(path.parent for path in root.glob("*/test"))
    if not folders:
        raise DatasetError(f"{root}: not in MVTec layout: expected {root}/<category>/test/<defect or {GOOD}>/*.png")
    chosen = []
    for folder in folders:
        found = _of_category(folder)
        for is_anomalous in (False, True):
            of_class = [one for one in found if one.is_anomalous == is_anomalous]
            if not of_class:
                kind = "defective" if is_anomalous else "good"
                raise DatasetError(f"{folder}/test: no {kind} pictures, without which there is no AUROC")
            chosen += evenly_spaced(of_class, max(1, max_images // (2 * len(folders))))
    return chosen


def evenly_spaced(items: list[T], count: int) -> list[T]:
    """At most `count` of them, in their order."""
    return items if len(items) <= count else [items[index * len(items) // count] for index in range(count)]


def is_mask(inside: Path) -> bool:
    """Whether a file, by its path inside a data set's folder, is a mask and no picture."""
    folders = [part.lower() for part in inside.parts[:-1]]  # VisA's is Masks
    return any(folder == "masks" or folder.startswith((MASKS, "ground truth")) for folder in folders)


def _of_category(folder: Path) -> list[Labelled]:
    found = []
    for defect in sorted(path for path in (folder / "test").iterdir() if path.is_dir()):
        masks = folder / MASKS / defect.name
        by_stem = {mask.stem: mask for mask in find_images(masks)}
        for image in find_images(defect):
            mask = by_stem.get(f"{image.stem}_mask") or by_stem.get(image.stem)
            is_anomalous = defect.name != GOOD
            if is_anomalous and by_stem and mask is None:
                raise DatasetError(f"{image}: no mask: expected {masks}/{image.stem}_mask.png")
            found.append(Labelled(category=folder.name, image=image, mask=mask, is_anomalous=is_anomalous))
    return found
