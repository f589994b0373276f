"""CrackForest: photographs of cracked roads, cut into cracked quarters and windows without a crack."""

import zlib
from pathlib import Path

import cv2
import numpy as np

from zsad_core.errors import DatasetError
from zsad_training.preparation.output import Output
from zsad_training.preparation.source import Chosen, Recipe, read_colour

HEIGHT, WIDTH = 160, 240  # of a quarter and of a window
_LEAST_CRACK = 120  # pixels of a cracked quarter
_CLEAR = 4  # pixels between a window without a crack and the next crack
_STEP, _MOST_WINDOWS = 10, 3  # positions of windows, pixels; windows of a photograph
_CRACK_LABELS = (2, 4)  # 1 is road, 3 is road that cracks enclose
_WITHOUT_CRACK = ("202", "204", "205", "208")  # photographs without annotation; judged by eye


def prepare(source: Path, chosen: Chosen, output: Output) -> None:
    """Writes the chosen cracked quarters, and all good windows; the chosen ones of these are train images."""

    def good(name: str, image: np.ndarray) -> None:
        split = "train" if name in chosen["road/train/good"] else "test"
        output.jpeg(f"road/{split}/good/{name}.jpg", image)

    for path in sorted(source.glob("groundTruth/*.mat")):
        image, crack = read_colour(source / f"image/{path.stem}.jpg"), read_cracks(path)
        if crack.shape != (2 * HEIGHT, 2 * WIDTH) or image.shape[:2] != crack.shape:
            raise DatasetError(f"{path}: the image or its labels are not {2 * WIDTH}x{2 * HEIGHT}")
        for name, quarter, mask in zip(_quarter_names(path.stem), quarters(image), quarters(crack), strict=True):
            if name in chosen["road/test/crack"] and mask.sum() >= _LEAST_CRACK:
                output.jpeg(f"road/test/crack/{name}.jpg", quarter)
                output.mask(f"road/ground_truth/crack/{name}_mask.png", mask)
        for top, left in clear_windows(crack):
            good(f"{path.stem}_g{top}_{left}", image[top : top + HEIGHT, left : left + WIDTH])
    for stem in _WITHOUT_CRACK:
        image = read_colour(source / f"image/{stem}.jpg")
        for name, quarter in zip(_quarter_names(stem), quarters(image), strict=True):
            good(name, quarter)


def read_cracks(path: Path) -> np.ndarray:
    """bool [H, W]: the crack in a file of labels.

    Raises:
        DatasetError: the file is not such a file.
    """
    from scipy.io import loadmat
    from scipy.io.matlab import MatReadError

    damage = (MatReadError, zlib.error, ValueError, TypeError, KeyError, IndexError, NotImplementedError, OSError)
    try:
        return np.isin(loadmat(path)["groundTruth"]["Segmentation"][0, 0], _CRACK_LABELS)
    except damage as error:
        raise DatasetError(f"{path}: no groundTruth.Segmentation in this file: {error}") from error


def quarters(array: np.ndarray) -> list[np.ndarray]:
    """The four quarters [HEIGHT, WIDTH, …] of an array, row by row."""
    places = ((0, 0), (0, WIDTH), (HEIGHT, 0), (HEIGHT, WIDTH))
    return [array[top : top + HEIGHT, left : left + WIDTH] for top, left in places]


def _quarter_names(stem: str) -> list[str]:
    return [f"{stem}_{index}" for index in range(4)]


def clear_windows(crack: np.ndarray) -> list[tuple[int, int]]:
    """(top, left) of windows without a crack, row by row; two of them overlap by half at most."""
    near = cv2.dilate(crack.astype(np.uint8), np.ones((2 * _CLEAR + 1, 2 * _CLEAR + 1), np.uint8))
    found: list[tuple[int, int]] = []
    for top in range(0, crack.shape[0] - HEIGHT + 1, _STEP):
        for left in range(0, crack.shape[1] - WIDTH + 1, _STEP):
            apart = all(abs(top - y) >= HEIGHT // 2 or abs(left - x) >= WIDTH // 2 for y, x in found)
            if len(found) < _MOST_WINDOWS and apart and not near[top : top + HEIGHT, left : left + WIDTH].any():
                found.append((top, left))
    return found


CRACKFOREST = Recipe(
    name="crackforest",
    download="https://github.com/cuilimeng/CrackForest-dataset (commit ed57c2d)",
    licence="non-commercial research only",
    tree=("image/*.jpg", "groundTruth/*.mat", *(f"image/{stem}.jpg" for stem in _WITHOUT_CRACK)),
    prepare=prepare,
)
