"""The images that the export gate uses: labelled ones in MVTec layout, and which files of a folder are masks."""

from pathlib import Path
from typing import TypeVar

from zsad_core.data import Sample, raise_faults, scan_dataset
from zsad_core.errors import DatasetError

T = TypeVar("T")


def labelled_pictures(root: Path, max_images: int) -> list[Sample]:
    """At most about `max_images` test images of a data set, half of them good, the same number of each category.

    Within each category, the good images and the defective ones are evenly spaced.

    Args:
        root: the folder of a data set in MVTec layout, or of one of its categories.
        max_images: at least 1. Each category gives at least one good and one defective image.

    Raises:
        DatasetError: no such folder, not this layout, a mask missing, or a category without good or defective images.
    """
    samples, faults = scan_dataset(root, layout="mvtec_ad")
    raise_faults(faults)
    tests = [sample for sample in samples if sample.split == "test"]
    products = sorted({sample.product for sample in tests})
    chosen = []
    for product in products:
        for is_anomalous in (False, True):
            found = [one for one in tests if one.product == product and one.is_anomalous == is_anomalous]
            if not found:
                kind = "defective" if is_anomalous else "good"
                raise DatasetError(f"{root}: {product} has no {kind} test pictures: the AUROC needs both kinds")
            chosen += evenly_spaced(found, max(1, max_images // (2 * len(products))))
    return chosen


def evenly_spaced(items: list[T], count: int) -> list[T]:
    """At most `count` of the items, in their order."""
    return items if len(items) <= count else [items[index * len(items) // count] for index in range(count)]
