"""The authors' download of a data set: what it must contain, and how its files are read."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import cv2
import numpy as np

from zsad_core.errors import DatasetError, ImageError
from zsad_core.picture import read_image, read_mask

if TYPE_CHECKING:
    from zsad_training.preparation.output import Output

Chosen = Mapping[str, frozenset[str]]  # folder of the prepared set -> names in it that no rule gives


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """How one data set is prepared."""

    name: str  # of the prepared set's folder
    download: str  # where the authors offer it
    licence: str
    tree: tuple[str, ...]  # glob patterns below the download's folder; each has at least one file
    prepare: "Callable[[Path, Chosen, Output], None]"

    def check(self, source: Path) -> None:
        """Checks that `source` is the download's folder.

        Raises:
            DatasetError: it is not; the text says what is missing, and where to download it.
        """
        missing = [pattern for pattern in self.tree if not any(source.glob(pattern))]
        if not missing:
            return
        hint = "no such folder" if not source.exists() else "an archive? Unpack it first" if source.is_file() else ""
        lines = [f"{source}: not the download of {self.name}{hint and f': {hint}'}"]
        lines += [f"{source}: no {pattern}" for pattern in missing if source.is_dir()]
        lines += [f"download {self.name} here: {self.download}", "the folder must contain: " + ", ".join(self.tree)]
        raise DatasetError("\n".join(lines))


def read_colour(path: Path) -> np.ndarray:
    """uint8 BGR [H, W, 3] of an image file.

    Raises:
        DatasetError: the file is missing, or is not a whole image.
    """
    return _checked(path, read_image)


def read_grey(path: Path) -> np.ndarray:
    """uint8 [H, W] of an image file; errors as of `read_colour`."""
    return cv2.cvtColor(read_colour(path), cv2.COLOR_BGR2GRAY)


def read_without_alpha(path: Path) -> np.ndarray:
    """uint8 BGR [H, W, 3] of a transparent image or a WebP file, which `read_colour` refuses; errors as there."""
    return _checked(path, lambda file: cv2.imdecode(np.frombuffer(file.read_bytes(), np.uint8), cv2.IMREAD_COLOR))


def read_defects(path: Path, hw: tuple[int, ...]) -> np.ndarray:
    """bool [H, W] of a mask file whose values above 0 are defects, for an image of size `hw`.

    Raises:
        DatasetError: as of `read_colour`, or the size differs.
    """
    return check_size(path, _checked(path, read_mask), hw) > 0


def check_size(path: Path, labels: np.ndarray, hw: tuple[int, ...]) -> np.ndarray:
    """`labels` [H, W] of the file `path`.

    Raises:
        DatasetError: their size is not that of the image, `hw`.
    """
    if labels.shape != hw:
        raise DatasetError(f"{path}: {labels.shape[1]}x{labels.shape[0]}, but its image is {hw[1]}x{hw[0]}")
    return labels


def _checked(path: Path, read: Callable[[Path], np.ndarray | None]) -> np.ndarray:
    if not path.is_file():
        raise DatasetError(f"{path}: missing. Is the download complete?")
    try:
        image = read(path)
    except ImageError as error:
        raise DatasetError(str(error)) from error
    except cv2.error:  # an empty file
        image = None
    if image is None:
        raise DatasetError(f"{path}: not an image that OpenCV can decode, or damaged")
    return image


def shrunk(image: np.ndarray, side: int, *, labels: bool = False) -> np.ndarray:
    """The image [H, W, …] with `side` as its longer side, pixels; never enlarged. `labels`: values are not mixed."""
    scale = min(1.0, side / max(image.shape[:2]))
    wh = round(image.shape[1] * scale), round(image.shape[0] * scale)
    return cv2.resize(image, wh, interpolation=cv2.INTER_NEAREST if labels else cv2.INTER_AREA)
