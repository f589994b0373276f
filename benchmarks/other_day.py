"""Copies the test images of data sets with changed recording conditions, as if taken on another day.

    python benchmarks/other_day.py DATASET … --out FOLDER
    python training/evaluate.py CHECKPOINT --data FOLDER/DATASET … --product object --skip-data-check

Each image has its own conditions. It is rotated by a multiple of 90 degrees, together with its mask. Gamma is 0.74 to
1.35 and gain 0.6 to 1.4. Blue and red each differ from green by up to 10 %. A Gaussian blurs by up to 1.2 px. Noise has
a standard deviation of up to 6 levels. The image's name is the random seed, so the copies are the same each time. These
changes differ from the augmentations of training (`zsad_training.pictures.photometric`): a test must not use what a
model was trained on. The copies have the layout of MVTec AD. Exit codes: 0 done, 1 a data set cannot be read, 2 bad
usage.
"""

import argparse
import sys
import zlib
from collections import Counter
from pathlib import Path

import cv2
import numpy as np

from zsad_core.data import raise_faults, scan_dataset
from zsad_core.errors import ZsadError

LEAST_BLUR_PX = 0.2


def on_another_day(image_bgr: np.ndarray, mask: np.ndarray, name: str) -> tuple[np.ndarray, np.ndarray]:
    """(image uint8 [H, W, 3], mask uint8 [H, W]) under the conditions of `name`; a rotation may swap H and W."""
    rng = np.random.default_rng(zlib.crc32(name.encode()))
    turns, gain, warmth = int(rng.integers(4)), rng.uniform(0.6, 1.4), rng.uniform(0.9, 1.1)
    blur_px, noise, gamma = rng.uniform(0, 1.2), rng.uniform(0, 6), np.exp(rng.uniform(-0.3, 0.3))
    taken = (np.rot90(image_bgr, turns).astype(np.float32) / 255) ** gamma * gain
    taken *= np.asarray([warmth, 1, 1 / warmth], np.float32)
    if blur_px > LEAST_BLUR_PX:
        taken = cv2.GaussianBlur(taken, (0, 0), blur_px)
    noisy = np.clip(taken * 255 + rng.normal(0, noise, taken.shape), 0, 255)
    return noisy.astype(np.uint8), np.ascontiguousarray(np.rot90(mask, turns))


def copy_dataset(dataset: Path, out: Path) -> int:
    """Writes the test split's images and masks below `out`, and returns the number of images.

    Raises:
        DatasetError: the data set cannot be read, or masks are missing.
    """
    found, faults = scan_dataset(dataset)
    raise_faults(faults)
    samples = [sample for sample in found if sample.split == "test"]
    alike = Counter((sample.product, sample.defect, sample.image.name) for sample in samples)
    for sample in samples:
        is_alone = alike[sample.product, sample.defect, sample.image.name] == 1
        name = Path(sample.image.name if is_alone else sample.place.replace("/", "-"))
        inside = f"test/{sample.defect}/{name}"
        image, mask = on_another_day(*sample.load(), f"{sample.dataset}/{sample.product}/{inside}")
        _write((out / sample.product / inside).with_suffix(".png"), image)
        if sample.mask is not None:
            truth = out / sample.product / "ground_truth" / sample.defect / f"{name.stem}_mask.png"
            _write(truth, mask * 255)
    return len(samples)


def _write(path: Path, image: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    _, encoded = cv2.imencode(".png", image)
    path.write_bytes(encoded)


def main() -> int:
    """Exit code as in the module's docstring."""
    assert __doc__ is not None
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("datasets", nargs="+", type=Path, metavar="DATASET", help="folder in any known layout")
    parser.add_argument("--out", type=Path, required=True, metavar="FOLDER", help="a new folder for the copies")
    args = parser.parse_args()
    if args.out.exists():
        parser.error(f"--out: {args.out} already exists")
    try:
        for dataset in args.datasets:
            count = copy_dataset(dataset, args.out / dataset.resolve().name)
            print(f"{args.out / dataset.resolve().name}: {count} pictures")
    except ZsadError as error:
        print(error, file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
