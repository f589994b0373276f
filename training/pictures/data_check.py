"""Looks at every file of the data sets before training begins, so that a broken one does not end it hours later."""

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
        check: decode every picture and mask as well.
        split: of the samples to give and to check; None: both.

    Raises:
        DatasetError: one line for each broken file of any of the sets, at most `MAX_FAULTS_SHOWN` and the count of the
            rest.
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
    """A line for each picture or mask that cannot be read or decoded, is of another size than its picture, or is empty.

    Files are decoded whole, by what training reads them with: a header alone does not tell a damaged file. OpenCV
    decodes without Python's lock, so threads help.
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
            anything = True  # unknown, and said already
            continue
        anything |= bool(mask.any())
        if image is not None and (fault := size_fault(part, mask, image)):
            faults.append(fault)
    if parts and not anything:
        faults.append(f"{sample.mask}: the mask is empty, but {sample.image} is {sample.defect!r}")
    return faults
