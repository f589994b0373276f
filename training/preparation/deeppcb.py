"""DeepPCB: scans of boards and their templates; pixel masks are derived from the difference of both."""

from pathlib import Path

import cv2
import numpy as np

from zsad_core.errors import DatasetError
from zsad_training.preparation.output import Output
from zsad_training.preparation.source import Chosen, Recipe, read_grey

_BESIDE = 2  # pixels around a box in which the derived mask may have defects


def prepare(source: Path, chosen: Chosen, output: Output) -> None:
    """Templates are good, tested images are defective; a board gives only one of both.

    The scans are binary, but the authors store them as JPEG: they are binarised again.
    """
    files = {path.stem: path for path in source.glob("PCBData/group*/*/*.jpg")}

    def binary(name: str) -> np.ndarray:
        """uint8 [H, W] of 0 and 255."""
        path = files.get(name, source / f"PCBData/group*/*/{name}.jpg")
        return np.where(read_grey(path) > 127, 255, 0).astype(np.uint8)

    for board in sorted(chosen["pcb/train/good"]):
        output.png(f"pcb/train/good/{board}.png", binary(f"{board}_temp"))
    for board in sorted(chosen["pcb/test/good"]):
        output.png(f"pcb/test/good/{board}_temp.png", binary(f"{board}_temp"))
    for board in sorted(chosen["pcb/test/mixed"]):
        tested, template = binary(f"{board}_test"), binary(f"{board}_temp")
        folder = files[f"{board}_test"].parent
        boxes = read_boxes(folder.with_name(f"{folder.name}_not") / f"{board}.txt")
        output.png(f"pcb/test/mixed/{board}_test.png", tested)
        output.mask(f"pcb/ground_truth/mixed/{board}_test_mask.png", inside(boxes, tested.shape, 0))
        output.mask(f"pcb/ground_truth_xor/mixed/{board}_test_mask.png", changed_pixels(tested, template, boxes))


def read_boxes(path: Path) -> np.ndarray:
    """int [N, 4], x1 y1 x2 y2 of each defect, from a file with these and the type in each line.

    Raises:
        DatasetError: the file is missing or has other content.
    """
    try:
        return np.array([line.split()[:4] for line in path.read_text().splitlines() if line.strip()], int).reshape(
            -1, 4
        )
    except (OSError, ValueError) as error:
        raise DatasetError(f"{path}: expected lines with `x1 y1 x2 y2 type`: {error}") from error


def inside(boxes: np.ndarray, hw: tuple[int, ...], beside: int) -> np.ndarray:
    """bool [H, W]: pixels in a box [N, 4], its edge, or up to `beside` pixels outside."""
    found = np.zeros(hw, bool)
    for left, top, right, bottom in boxes:
        found[max(0, top - beside) : bottom + beside + 1, max(0, left - beside) : right + beside + 1] = True
    return found


def changed_pixels(tested: np.ndarray, template: np.ndarray, boxes: np.ndarray) -> np.ndarray:
    """bool [H, W]: where tested image and template differ near a box, without single pixels, and larger.

    OpenCV's opening with an even kernel moves the result by a pixel to the right and down. The masks of the shipped
    bundles' training were made so: they reach two pixels beyond a defect there, and none at its left and upper edge.
    """
    differs = cv2.morphologyEx(tested ^ template, cv2.MORPH_OPEN, np.ones((2, 2), np.uint8))
    return (cv2.dilate(differs, np.ones((3, 3), np.uint8)) > 0) & inside(boxes, tested.shape, _BESIDE)


DEEPPCB = Recipe(
    name="deeppcb",
    download="https://github.com/tangsanli5201/DeepPCB (commit 08e98c4)",
    licence="MIT",
    tree=("PCBData/group*/*/*_temp.jpg", "PCBData/group*/*/*_test.jpg", "PCBData/group*/*_not/*.txt"),
    prepare=prepare,
)
