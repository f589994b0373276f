"""Checks every file of the data sets before training begins, so that a broken file is found early."""

import os
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor

from tqdm import tqdm

from zsad_core.data import Sample, Split, mask_parts, raise_faults, scan_dataset, size_fault
from zsad_core.errors import DatasetError, ImageError
from zsad_core.picture import read_image, read_mask
from zsad_training.config import DatasetSpec


def read_datasets(specs: Iterable[DatasetSpec], *, check: bool = True, split: Split | None = None) -> list[Sample]:
    """The samples of all data sets.

    Args:
        specs: where they are.
        check: also decode every image and mask.
        split: the split to read; None: both.

    Raises:
        DatasetError: one line for each broken file, at most `MAX_FAULTS_SHOWN` and the count of the rest.
    """
    samples: list[Sample] = []
    faults: list[str] = []
    for spec in specs:
        try:
            found, wrong = scan_dataset(spec.path, layout=spec.layout, mask_folder=spec.mask_folder)
        except DatasetError as error:
            found, wrong = [], str(error).splitlines()
        found = [sample for sample in found if split in (None, sample.split)]
        if not found and not wrong:
            wrong = [f"{spec.path}: no {split} pictures"]
        samples += found
        faults += wrong
    if check:
        known = set(faults)
        faults += [fault for fault in check_samples(samples) if fault not in known]
    raise_faults(faults)
    return samples


def check_samples(samples: Sequence[Sample]) -> list[str]:
    """One line for each image or mask that cannot be decoded, and each mask that is empty or has a wrong size.

    Files are decoded completely, because a damaged file can have a valid header. OpenCV releases Python's lock, so
    threads make this faster.
    """
    with ThreadPoolExecutor(max_workers=os.cpu_count() or 1) as threads:
        bar = tqdm(threads.map(_faults, samples), total=len(samples), desc="checking data", leave=False, disable=None)
        return [fault for found in bar for fault in found]


def _faults(sample: Sample) -> list[str]:
    faults: list[str] = []
    image = None
    try:
        image = read_image(sample.image)
    except ImageError as error:
        faults.append(str(error))
    parts, anything = mask_parts(sample.mask), False
    for part in parts:
        try:
            mask = read_mask(part)
        except ImageError as error:
            faults.append(str(error))
            anything = True  # unknown; this fault is in the list already
            continue
        anything |= bool(mask.any())
        if image is not None and (fault := size_fault(part, mask, image)):
            faults.append(fault)
    if parts and not anything:
        faults.append(f"{sample.mask}: the mask is empty, but {sample.image} is {sample.defect!r}")
    return faults
