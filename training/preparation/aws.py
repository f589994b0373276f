"""Cookies and toy aliens: sample data of Amazon Lookout for Vision."""

from pathlib import Path

import numpy as np

from zsad_training.preparation.output import Output
from zsad_training.preparation.source import Chosen, Recipe, read_colour, read_without_alpha, shrunk

_DOWNLOAD = "https://github.com/aws-samples/amazon-lookout-for-vision (commit 14bed61)"
_COOKIES = "computer-vision-defect-detection/cookie-dataset"
_SIDE = 640  # pixels
_DEFECT_BGR = (0x36, 0xA4, 0x23)  # colour of the label `cracked`


def prepare_cookie(source: Path, chosen: Chosen, output: Output) -> None:
    """The authors' test images have no masks; their good ones count as test."""
    cookies = source / _COOKIES
    for path in sorted((cookies / "dataset-files/training-images").glob("*.jpg")):
        image = shrunk(read_colour(path), _SIDE)
        if path.stem.startswith("anomaly"):
            labels = read_without_alpha(cookies / f"dataset-files/mask-images/{path.stem}.png")
            mask = (labels == _DEFECT_BGR).all(axis=2).astype(np.uint8)
            output.jpeg(f"cookie/test/cracked/{path.stem}.jpg", image)
            output.mask(f"cookie/ground_truth/cracked/{path.stem}_mask.png", shrunk(mask, _SIDE, labels=True) > 0)
        else:
            split = "train" if path.stem in chosen["cookie/train/good"] else "test"
            output.jpeg(f"cookie/{split}/good/{path.stem}.jpg", image)
    for path in sorted((cookies / "test-images").glob("*.jpg")):
        folder = "good" if path.stem.startswith("test-normal") else "cracked_nomask"
        output.jpeg(f"cookie/test/{folder}/{path.stem}.jpg", shrunk(read_colour(path), _SIDE))


def prepare_alien(source: Path, chosen: Chosen, output: Output) -> None:
    """Whole images without masks."""
    for folder, letter in (("normal", "n"), ("anomaly", "a")):
        for path in sorted((source / "aliens-dataset" / folder).glob("*.png")):
            name = f"{letter}{path.stem}"
            good = "train/good" if name in chosen["toy_alien/train/good"] else "test/good"
            place = good if folder == "normal" else "test/anomaly"
            output.jpeg(f"toy_alien/{place}/{name}.jpg", read_colour(path))


COOKIE = Recipe(
    name="aws_cookie",
    download=_DOWNLOAD,
    licence="CC BY-SA 4.0",
    tree=tuple(
        f"{_COOKIES}/{part}"
        for part in ("dataset-files/training-images/*.jpg", "dataset-files/mask-images/*.png", "test-images/*.jpg")
    ),
    prepare=prepare_cookie,
)
ALIEN = Recipe(
    name="aws_aliens",
    download=_DOWNLOAD,
    licence="CC BY-SA 4.0",
    tree=("aliens-dataset/normal/*.png", "aliens-dataset/anomaly/*.png"),
    prepare=prepare_alien,
)
