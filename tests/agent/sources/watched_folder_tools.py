"""Pictures in a watched folder, for several test files."""

from pathlib import Path

import cv2
import numpy as np


def write_picture(path: Path, level: int) -> Path:
    """The file appears complete."""
    partial = path.with_name(f".{path.name}")
    assert cv2.imwrite(str(partial), np.full((9, 12, 3), level, np.uint8))
    return partial.rename(path)


def level(image: np.ndarray | None) -> int | None:
    return None if image is None else int(image[0, 0, 0])


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir()) if folder.exists() else []
